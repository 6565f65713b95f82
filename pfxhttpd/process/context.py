"""Where a worker stands, and how it is seen there: what it inherits, its title, its row on the scoreboard."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

from setproctitle import setproctitle

from pfxhttpd.config.settings import Entry, Pool, Settings
from pfxhttpd.io.cache.client import CacheClient
from pfxhttpd.io.connection_limit import ConnectionLimit
from pfxhttpd.io.scoreboard import PoolRow, Scoreboard, WorkerRow, padded


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """Where a worker stands: what it inherits from the master, and the name under which `ps` shows it."""

    title: str
    pool: Pool
    pool_row: PoolRow
    row: WorkerRow
    board: Scoreboard
    listeners: Mapping[str, socket.socket]
    ready: socket.socket
    parking: socket.socket
    channel: socket.socket
    max_connections: int
    generation: int
    targets: Mapping[str, int]
    store: CacheClient
    connection_limit: ConnectionLimit


class WorkerStatus:
    """The process title and the scoreboard's row, told by `Backend` what is being asked."""

    def __init__(self, post: WorkerContext, settings: Settings) -> None:
        self._row = post.row
        prefix = f"pfxhttpd: worker {post.title} "
        self._idle = prefix + "idle"
        self._shown = ""
        self._asking = {
            id(entry): (prefix + entry.name, padded(entry.name))
            for entries in settings.entries.values()
            for entry in entries.values()
        }

    def begin(self, entry: Entry, deadline: float) -> None:
        title, name = self._asking[id(entry)]
        self._row.busy(name, time.monotonic(), deadline)
        if self._shown is not title:
            self._shown = title
            setproctitle(title)

    def end(self) -> None:
        self._row.idle()

    def rest(self) -> None:
        """Nothing is to be done: show it."""
        if self._shown is not self._idle:
            self._shown = self._idle
            setproctitle(self._idle)

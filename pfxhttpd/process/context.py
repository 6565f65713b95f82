"""What a worker inherits from the master, and what of it the services need."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass

from pfxhttpd.config.settings import Pool
from pfxhttpd.io.backend_connection_limit import ConnectionLimit
from pfxhttpd.io.cache.client import CacheClient
from pfxhttpd.io.scoreboard import PoolRow, Scoreboard, WorkerRow
from pfxhttpd.io.scoreboard.entry_counters import EntryCounters
from pfxhttpd.process.metric_totals import ProcessMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceContext:
    """What requests are answered with. `title` names the worker in `ps`, and `row` is its row on the scoreboard. `targets`
    maps each target to its row there. In `counters` the worker counts the outcomes of requests, and in `metrics` what is
    shown as metrics.
    """

    title: str
    pool: Pool
    row: WorkerRow
    board: Scoreboard
    counters: EntryCounters
    metrics: ProcessMetrics
    targets: Mapping[str, int]
    cache: CacheClient
    connection_limit: ConnectionLimit


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerContext(ServiceContext):
    """What a worker has besides: `listeners` are sockets by endpoint; `ready` receives connections that have something to
    read, `parking` takes those that have not, and `channel` leads to the master.
    """

    pool_row: PoolRow
    listeners: Mapping[str, socket.socket]
    ready: socket.socket
    parking: socket.socket
    channel: socket.socket
    max_connections: int
    generation: int

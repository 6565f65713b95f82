"""The metrics of client connections, by listener, as the workers and parking count them.

A listener has the same row in all processes and across reloads, which the master assigns: parking lives on when the
listeners change, so its memory cannot depend on them.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Mapping

from pfxhttpd.io.handoff import Connection
from pfxhttpd.io.scoreboard.histograms import CONNECTION_BOUNDS, Histograms

ROWS = 256
"""Listeners that can be counted."""

CLOSED, CLOSED_ERROR, CLOSED_TIMEOUT, ACCEPTED, ACCEPT_FAILED, UNKNOWN_MAP = range(6)
"""The series of a listener: connections that ended as they may, by an error, and because they were silent for too long;
connections that were accepted, and attempts that failed; lookups in maps that do not exist."""
SERIES = 6

IDLE_TOO_LONG = "idle for too long"
"""The reason with which a silent connection is closed."""


class ListenerMetrics:
    """The metrics of one process. `rows` has the row of each listener by its endpoint; it is empty if metrics are off."""

    def __init__(self) -> None:
        self.histograms = Histograms(ROWS * SERIES, CONNECTION_BOUNDS)
        self._connections = memoryview(mmap.mmap(-1, ROWS * 8)).cast("q")
        self.rows: Mapping[str, int] = {}

    def accepted(self, endpoint: str) -> None:
        """A connection was accepted."""
        self._count(endpoint, ACCEPTED)

    def accept_failed(self, endpoint: str) -> None:
        """A connection could not be accepted."""
        self._count(endpoint, ACCEPT_FAILED)

    def unknown_map(self, endpoint: str) -> None:
        """A client has asked for a map that does not exist. Its name, which the client has chosen, is not counted."""
        self._count(endpoint, UNKNOWN_MAP)

    def _count(self, endpoint: str, series: int) -> None:
        row = self.rows.get(endpoint)
        if row is not None:
            self.histograms.count(row * SERIES + series)

    def closed(self, connection: Connection, reason: str) -> None:
        """The connection has ended; `reason` is "" if its client ended it, as it may."""
        row = self.rows.get(connection.endpoint)
        if row is not None:
            series = CLOSED if not reason else CLOSED_TIMEOUT if reason == IDLE_TOO_LONG else CLOSED_ERROR
            self.histograms.observe(row * SERIES + series, max(1e-6, time.monotonic() - connection.opened_at))

    def hold(self, endpoint: str) -> None:
        """This process holds one more connection of that listener."""
        self._add(endpoint, 1)

    def release(self, endpoint: str) -> None:
        """It holds one less."""
        self._add(endpoint, -1)

    def _add(self, endpoint: str, connections: int) -> None:
        row = self.rows.get(endpoint)
        if row is not None:
            self._connections[row] += connections

    def held(self) -> dict[int, int]:
        """The connections that the process holds, by row; those that are lost if it dies."""
        return {row: count for row, count in enumerate(self._connections.tolist()) if count > 0}

"""What of the traces was lost in all workers together, since a collector that fails is to be logged once a minute."""

from __future__ import annotations

from typing import NamedTuple

from pfxhttpd.io.scoreboard.byte_lock import ByteLock
from pfxhttpd.io.scoreboard.cells import Cells

LOG_INTERVAL = 60.0
"""Seconds between two lines."""


class Lost(NamedTuple):
    """How many spans were not sent, and how many requests were not traced."""

    spans: int
    requests: int


class LostTraces(ByteLock):
    """Five cells: both numbers since the start, both at the last line, and when that was written (monotonic seconds)."""

    CELLS = 5
    _SPANS, _REQUESTS, _LOGGED_SPANS, _LOGGED_REQUESTS, _LOGGED_AT = range(CELLS)

    def __init__(self, cells: Cells, first: int, lock_file: int, byte: int) -> None:
        super().__init__(lock_file, byte)
        self._ints = cells.ints[first : first + self.CELLS]
        self._floats = cells.floats[first : first + self.CELLS]

    @property
    def total(self) -> Lost:
        """What was lost since the start."""
        return Lost(self._ints[self._SPANS], self._ints[self._REQUESTS])

    def add(self, spans: int, requests: int, now: float) -> Lost | None:
        """Count what a worker has lost. If a line is due, returns what was lost since the last one."""
        ints = self._ints
        unlogged = ints[self._SPANS] > ints[self._LOGGED_SPANS] or ints[self._REQUESTS] > ints[self._LOGGED_REQUESTS]
        if not (spans or requests or unlogged):
            return None
        locked = self.lock()
        try:
            ints[self._SPANS] += spans
            ints[self._REQUESTS] += requests
            lost = Lost(
                ints[self._SPANS] - ints[self._LOGGED_SPANS], ints[self._REQUESTS] - ints[self._LOGGED_REQUESTS]
            )
            logged_at = self._floats[self._LOGGED_AT]
            if not any(lost) or (logged_at and now - logged_at < LOG_INTERVAL):
                return None
            ints[self._LOGGED_SPANS], ints[self._LOGGED_REQUESTS] = self.total
            self._floats[self._LOGGED_AT] = now
            return lost
        finally:
            if locked:
                self.unlock()

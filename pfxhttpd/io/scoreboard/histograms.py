"""Metrics of one process in shared memory: histograms of durations, and counts of events.

The master makes the memory before it forks the process, and reads it. Each cell has one writer, so no lock is needed and
no count is lost: what a process that ends has counted is added to the master's totals (`process.metric_totals`).

The sums of all series come first, and then their cells: a series whose sum is the same has not changed, so the master
need not look at its cells, and the pages of series that are never used are never allocated.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

REQUEST_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 60.0)
"""Upper bounds in seconds, those of OpenTelemetry's HTTP metrics among them (semantic conventions,
http.client.request.duration). The lowest are for a backend on the same machine, the highest is Postfix's patience."""
CONNECTION_BOUNDS = (0.01, 0.1, 1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
"""Upper bounds in seconds for connections, which Postfix keeps open for minutes."""


_CHUNK = 512
"""Bytes of sums that are compared at once."""


class Change(NamedTuple):
    """What was added to a series since the last look: counts by duration, and the sum of the durations in seconds."""

    series: int
    cells: Sequence[int]
    seconds: float


class Histograms:
    """So many series, which are known by their numbers. `bounds` are the upper bounds of the cells, in seconds."""

    def __init__(self, series: int, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self._series, self._width = series, len(bounds) + 1
        self._memory = mmap.mmap(-1, max(1, series) * (1 + self._width) * 8)
        sums = memoryview(self._memory)[: series * 8].cast("d")
        self._cells = memoryview(self._memory)[series * 8 :].cast("q")
        self._seen = bytes(series * 8)
        self.observe = _observer(self._cells, sums, self.bounds)
        """Counts an event of a series that took so many seconds."""
        self._seen_cells: dict[int, list[int]] = {}

    def count(self, series: int) -> None:
        """An event of a series has occurred whose events have no duration."""
        self.observe(series, 1.0)

    def changes(self) -> Iterator[Change]:
        """The series that have changed since the last call. Only the master calls this."""
        before, after = self._seen, self._memory[: self._series * 8]
        if before == after:
            return
        self._seen = after
        for start in range(0, len(after), _CHUNK):
            chunk, earlier = after[start : start + _CHUNK], before[start : start + _CHUNK]
            if chunk != earlier:
                sums = zip(memoryview(earlier).cast("d"), memoryview(chunk).cast("d"), strict=True)
                for series, (old, new) in enumerate(sums, start // 8):
                    if old != new:
                        yield Change(series, self._added(series), new - old)

    def _added(self, series: int) -> list[int]:
        """What was added to the cells of a series since the last look."""
        start = series * self._width
        cells = self._cells[start : start + self._width].tolist()
        earlier = self._seen_cells.get(series) or [0] * self._width
        self._seen_cells[series] = cells
        return [count - seen for count, seen in zip(cells, earlier, strict=True)]


def _observer(cells: memoryview[int], sums: memoryview[float], bounds: Sequence[float]) -> Callable[[int, float], None]:
    """The function that counts. It is called twice for each request, and what it uses is at hand in a closure."""
    width = len(bounds) + 1

    def observe(series: int, seconds: float) -> None:
        cells[series * width + bisect_left(bounds, seconds)] += 1
        sums[series] += seconds  # last: its change shows that the series has changed

    return observe

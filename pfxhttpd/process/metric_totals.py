"""The metrics of all processes since the server's start, whatever workers and configurations have come and gone.

Workers and parking count in memory of their own (`io.scoreboard.histograms`). The master adds what they have counted to
its totals when they are asked for, and when a process ends. So no counter ever goes back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pfxhttpd.config.settings import Listener
from pfxhttpd.io.scoreboard.histograms import Histograms
from pfxhttpd.service.listener_metrics import (
    ACCEPTED,
    CLOSED,
    CLOSED_ERROR,
    CLOSED_TIMEOUT,
    ROWS,
    SERIES,
    ListenerMetrics,
)
from pfxhttpd.service.request_metrics import Key, RequestMetrics

_Key = TypeVar("_Key")

_COUNTS_OF_CACHE = ("hits", "misses", "evictions")

ListenerKey = tuple[str, str]
"""A listener's kind and name. Several listeners can have the same."""


@dataclass(slots=True)
class Total:
    """The sums of one series: its events by duration, and their durations in seconds."""

    cells: list[int]
    seconds: float = 0.0

    @property
    def count(self) -> int:
        return sum(self.cells)

    def add(self, cells: Sequence[int], seconds: float) -> None:
        self.cells = [old + new for old, new in zip(self.cells, cells, strict=True)]
        self.seconds += seconds


@dataclass(frozen=True, slots=True)
class ProcessMetrics:
    """Where one process counts. Parking answers no requests."""

    listeners: ListenerMetrics = field(default_factory=ListenerMetrics)
    requests: RequestMetrics | None = None


class MetricTotals:
    def __init__(self) -> None:
        self._requests: dict[Key, Total] = {}
        self._listeners: dict[tuple[ListenerKey, int], Total] = {}
        self._lost: dict[ListenerKey, int] = {}
        """Connections that ended with their process, which could not count them."""
        self._unseen: dict[ListenerKey, int] = {}
        """What corrects the difference between accepted and ended connections."""
        self._live: list[ProcessMetrics] = []
        self._rows: dict[ListenerKey, int] = {}
        self._keys: dict[int, ListenerKey] = {}
        self._cache: Counter[str] = Counter()

    # -- listeners ----------------------------------------------------------------------------------------------

    def rows(self, listeners: Sequence[Listener]) -> dict[str, int]:
        """The row of each listener by its endpoint: the one that it had, or a free one. Those for which there is none are
        not counted."""
        wanted = dict.fromkeys((listener.kind, listener.title) for listener in listeners)
        for key in wanted:
            if key not in self._rows:
                row = self._free_row(wanted)
                if row is not None:
                    self._rows[key], self._keys[row] = row, key
        keys = {listener.endpoint: (listener.kind, listener.title) for listener in listeners}
        return {endpoint: self._rows[key] for endpoint, key in keys.items() if key in self._rows}

    def _free_row(self, wanted: Mapping[ListenerKey, None]) -> int | None:
        """A row that was never used, else that of a listener that exists no more."""
        if len(self._keys) < ROWS:
            return len(self._keys)
        for key, row in self._rows.items():
            if key not in wanted:
                self.update()  # what was counted there belongs to the old listener
                del self._rows[key]
                return row
        return None

    # -- processes ----------------------------------------------------------------------------------------------

    def add(self, process: ProcessMetrics) -> None:
        """A process starts that counts there."""
        self._live.append(process)

    def end(self, process: ProcessMetrics) -> None:
        """That process has ended. The connections that it still held were lost."""
        self._update(process)
        self._live.remove(process)
        for row, count in process.listeners.held().items():
            if row in self._keys:
                key = self._keys[row]
                self._lost[key] = self._lost.get(key, 0) + count

    def update(self) -> None:
        """Add what all processes have counted since the last call."""
        for process in self._live:
            self._update(process)

    def _update(self, process: ProcessMetrics) -> None:
        for series, cells, seconds in process.listeners.histograms.changes():
            row, event = divmod(series, SERIES)
            if row in self._keys:
                _total(self._listeners, (self._keys[row], event), process.listeners.histograms).add(cells, seconds)
        if process.requests is not None:
            for series, cells, seconds in process.requests.histograms.changes():
                key = process.requests.keys[series]
                _total(self._requests, key, process.requests.histograms).add(cells, seconds)

    def end_cache(self, counts: Mapping[str, int]) -> None:
        """The cache has ended, and the next one counts from 0."""
        self._cache.update({name: counts[name] for name in _COUNTS_OF_CACHE})

    # -- what is shown ------------------------------------------------------------------------------------------

    def requests(self) -> Iterator[tuple[Key, Total]]:
        """Every series of requests that has had an event."""
        yield from self._requests.items()

    def listener(self, key: ListenerKey, event: int) -> Total:
        """The events of one kind at a listener."""
        return self._listeners.get((key, event), Total([]))

    def cache(self, counts: Mapping[str, int]) -> dict[str, int]:
        """What the cache shows now, with the counts of those before it."""
        return {name: count + self._cache[name] for name, count in counts.items()}

    def lost(self, key: ListenerKey) -> int:
        """Connections of the listener that were lost with a process."""
        return self._lost.get(key, 0)

    def active(self, key: ListenerKey, connections: int) -> int:
        """Connections of the listener that are open now. `connections` are those of the whole server.

        It is computed from what was accepted and what has ended. A connection that was accepted before the metrics were
        switched on, or that was lost without a trace, would make it wrong for ever; so it is corrected where that shows.
        """
        ended = sum(self.listener(key, event).count for event in (CLOSED, CLOSED_ERROR, CLOSED_TIMEOUT))
        active = self.listener(key, ACCEPTED).count - ended - self._unseen.get(key, 0) - self.lost(key)
        if active < 0 or not connections:
            self._unseen[key] = self._unseen.get(key, 0) + active
            return 0
        return active


def _total(totals: dict[_Key, Total], key: _Key, histograms: Histograms) -> Total:
    if key not in totals:
        totals[key] = Total([0] * (len(histograms.bounds) + 1))
    return totals[key]

"""The metrics of a worker's requests: how each request of a client ended, and each HTTP request to a backend.

The labels are those of the Go program. All their values come from the configuration and from the lists below, so their
number is bounded whatever clients send.
"""

from __future__ import annotations

from collections.abc import Mapping

from pfxhttpd.config.settings import SOCKET_MAP, Entry, Settings
from pfxhttpd.io.scoreboard import entry_counters
from pfxhttpd.io.scoreboard.entry_counters import FAILED, FOUND, NOT_FOUND, REFUSED, UNEXPECTED
from pfxhttpd.io.scoreboard.histograms import REQUEST_BOUNDS, Histograms

APPLICATION, BACKEND = "application", "backend"

OUTCOMES = (*entry_counters.OUTCOMES, "not_sent", "cached")
"""How a client's request can end. The first ones are described in `entry_counters`. not_sent: the circuit breaker is
open; cached: the request failed or was not sent, and was answered from the response cache."""
NOT_SENT, CACHED = len(OUTCOMES) - 2, len(OUTCOMES) - 1

OUTCOME_INDEXES = {cell: index for index, cell in enumerate((FOUND, NOT_FOUND, REFUSED, UNEXPECTED, FAILED))}
"""An outcome of `entry_counters` -> its place in OUTCOMES."""

STATUS_CLASSES = ("none", "1xx", "2xx", "3xx", "4xx", "5xx")
"""The class of a response's status code; none: there was no response."""
RESULTS = ("success", "error", "timeout")
"""success: the entry can use the response; error: it cannot, or there is none; timeout: there was none in time."""
SUCCESS, ERROR, TIMEOUT = range(len(RESULTS))
_RESULTS = len(RESULTS)

ANY_LISTENER = ""
"""Stands for the listener of a connection whose own listener was removed by a reload."""

Key = tuple[str, ...]
"""A series: APPLICATION with component, name, listener and outcome, or BACKEND with component, name, method, class of the
status code and result."""


class EntryMeter:
    """Counts the requests of one entry. `by_listener` has the first series of each listener's outcomes, `backend` is the
    first series of the HTTP requests."""

    __slots__ = ("_backend", "_by_listener", "_observe")

    def __init__(self, histograms: Histograms, by_listener: Mapping[str, int], backend: int) -> None:
        self._observe, self._by_listener, self._backend = histograms.observe, by_listener, backend

    def count(self, listener: str, outcome: int, seconds: float) -> None:
        """A client's request has ended, with an outcome of `entry_counters`."""
        try:
            self._observe(self._by_listener[listener] + OUTCOME_INDEXES[outcome], seconds)
        except KeyError:
            self.count_index(ANY_LISTENER, OUTCOME_INDEXES[outcome], seconds)

    def count_index(self, listener: str, index: int, seconds: float) -> None:
        """A client's request has ended, with this one of OUTCOMES."""
        first = self._by_listener.get(listener, self._by_listener[ANY_LISTENER])
        self._observe(first + index, seconds)

    def count_exchange(self, status: int, result: int, seconds: float) -> None:
        """An HTTP request has ended with this status code, 0 without a response, and this one of RESULTS."""
        row = status // 100 if 100 <= status <= 599 else 0
        self._observe(self._backend + row * _RESULTS + result, seconds)


class RequestMetrics:
    """The metrics of one worker. The master makes them before it forks the worker."""

    def __init__(self, settings: Settings) -> None:
        maps = [listener.title for listener in settings.server.listen if listener.kind == SOCKET_MAP]
        self.keys: list[Key] = []
        """The series, by their numbers."""
        self._first: dict[tuple[str, str], tuple[dict[str, int], int]] = {}
        for kind, section in settings.entries.items():
            for name, entry in section.items():
                listeners = maps if kind == SOCKET_MAP else [name]
                self._first[kind, name] = self._add(entry, dict.fromkeys([*listeners, ANY_LISTENER]))
        self.histograms = Histograms(len(self.keys), REQUEST_BOUNDS)

    def _add(self, entry: Entry, listeners: Mapping[str, None]) -> tuple[dict[str, int], int]:
        first = {}
        for listener in listeners:
            first[listener] = len(self.keys)
            self.keys += [(APPLICATION, entry.kind, entry.name, listener, outcome) for outcome in OUTCOMES]
        backend = len(self.keys)
        for status_class in STATUS_CLASSES:
            self.keys += [(BACKEND, entry.kind, entry.name, entry.method, status_class, result) for result in RESULTS]
        return first, backend

    def meter(self, entry: Entry) -> EntryMeter:
        """What counts the requests of an entry, for the worker."""
        return EntryMeter(self.histograms, *self._first[entry.kind, entry.name])

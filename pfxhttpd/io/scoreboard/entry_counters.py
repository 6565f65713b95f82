"""How the requests of each entry ended and how long they took, counted by every worker in memory of its own.

The master makes the memory before it forks the worker, and reads it. Each cell has one writer, so no lock is needed and
no count is lost: what a worker that ends has counted is added to the master's totals (`process.entry_totals`).

A request takes two stores: one cell counts the requests with the same outcome and about the same duration, the other
holds the sum of all durations. Everything else that `status` shows is computed from them.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import monotonic

OUTCOMES = ("found", "not_found", "refused", "unexpected", "failed")
"""How a request that the backend was sent can end.

found: a value, an action, an accepted login; not_found: no value; refused: an error field, a refused login, a value that
cannot be used; unexpected: a status code that the entry does not expect; failed: a backend failure, which is temporary.
"""
FOUND, NOT_FOUND, REFUSED, UNEXPECTED, FAILED = (index * 40 for index in range(len(OUTCOMES)))
"""The first cell of each outcome's histogram."""

BOUNDS = tuple(round(digits * 10.0**power, 6) for power in range(-4, 2) for digits in (1.0, 1.5, 2.5, 3.5, 5.0, 7.5))
"""The upper bounds of the histograms' cells in seconds, bounds included. The last cell of a histogram has no bound."""

_HISTOGRAM = 40
_SLOW = len(OUTCOMES) * _HISTOGRAM
_ERROR, _FIELDS, _ROW = _SLOW + 1, 232, 256
"""Cells of a row: the histograms, a count, and two texts."""

_SECONDS, _ERROR_AT, _NOT_SENT, _CACHED = range(4)
_HEADER = 4
"""Cells of an entry's header. The headers are apart from the rows, so that the master need not look at unused rows."""

SLOW_PART = 0.75
"""Part of its timeout after which a request that has succeeded counts as slow."""


@dataclass(frozen=True, slots=True)
class EntryCounts:
    """The counts of one worker, or sums over several. `cells` are the histograms and the number of slow requests.

    `seconds` is the sum of the durations of the requests that were sent. `error_at` is when the last failure or
    unexpected status was seen (monotonic seconds; 0 for never), `error` its text. `cached` counts the requests that failed
    or were not sent and were answered from the cache. `fields` names the fields of an answer that did not have the value
    field, as long as no answer had it.
    """

    cells: Sequence[int] = (0,) * (_SLOW + 1)
    seconds: float = 0.0
    error_at: float = 0.0
    error: str = ""
    not_sent: int = 0
    cached: int = 0
    fields: str = ""

    def changed(self, before: EntryCounts, after: EntryCounts) -> EntryCounts:
        """The sums once one of the workers shows `after` where it showed `before`."""
        latest = after if after.error_at > self.error_at else self
        return EntryCounts(
            [sum_ + new - old for sum_, new, old in zip(self.cells, after.cells, before.cells, strict=True)],
            self.seconds + after.seconds - before.seconds,
            latest.error_at,
            latest.error,
            self.not_sent + after.not_sent - before.not_sent,
            self.cached + after.cached - before.cached,
            after.fields or self.fields,
        )

    def outcomes(self) -> dict[str, int]:
        """The number of requests by outcome, and those that were not sent because the circuit breaker was open."""
        found = {
            outcome: sum(self.cells[index * _HISTOGRAM : (index + 1) * _HISTOGRAM])
            for index, outcome in enumerate(OUTCOMES)
        }
        return {**found, "not_sent": self.not_sent}

    @property
    def slow(self) -> int:
        """How many requests took more than three quarters of their timeout and did not fail."""
        return self.cells[_SLOW]

    def histogram(self) -> list[int]:
        """The number of requests by duration, in the order of `BOUNDS`, whatever their outcome."""
        columns = (self.cells[start : start + _HISTOGRAM] for start in range(0, _SLOW, _HISTOGRAM))
        return [sum(counts) for counts in zip(*columns, strict=True)][: len(BOUNDS) + 1]

    def percentiles(self, *parts: float) -> list[float | None]:
        """For each part (0.5 is the median) the seconds within which so many of the requests ended; None without one."""
        histogram = self.histogram()
        total = sum(histogram)
        return [_percentile(histogram, total * part) if total else None for part in parts]


def _percentile(histogram: Sequence[int], rank: float) -> float:
    """The duration of the request with that rank; within a cell, requests count as evenly spread."""
    below = 0
    for index, count in enumerate(histogram):
        if count and below + count >= rank:
            low = BOUNDS[index - 1] if index else 0.0
            high = BOUNDS[index] if index < len(BOUNDS) else low
            return low + (high - low) * (rank - below) / count
        below += count
    return BOUNDS[-1]


_NONE = EntryCounts()


class EntryCounters:
    """One worker's counters: a row for each of the entries, which are pairs of a kind and a name."""

    def __init__(self, entries: Sequence[tuple[str, str]]) -> None:
        self.entries = tuple(entries)
        self._memory = mmap.mmap(-1, max(1, len(self.entries)) * (_HEADER + _ROW) * 8)
        self._ints = memoryview(self._memory).cast("q")
        self._floats = memoryview(self._memory).cast("d")
        self._seen: dict[int, EntryCounts] = {}

    def row(self, kind: str, name: str, timeout: float) -> EntryRow:
        """The row of an entry whose requests take `timeout` seconds at most, for the worker to write."""
        index = self.entries.index((kind, name))
        return EntryRow(self._memory, index * _HEADER, self._first_cell(index), timeout * SLOW_PART)

    def _first_cell(self, index: int) -> int:
        return len(self.entries) * _HEADER + index * _ROW

    def changes(self) -> Iterator[tuple[tuple[str, str], EntryCounts, EntryCounts]]:
        """Each entry whose counts have changed since the last call, with the counts of then and of now."""
        for index, entry in enumerate(self.entries):
            before = self._seen.get(index, _NONE)
            header = index * _HEADER
            seconds, error_at = self._floats[header + _SECONDS], self._floats[header + _ERROR_AT]
            not_sent, cached = self._ints[header + _NOT_SENT], self._ints[header + _CACHED]
            if (seconds, error_at, not_sent, cached) == (
                before.seconds,
                before.error_at,
                before.not_sent,
                before.cached,
            ):
                continue
            base = self._first_cell(index)
            cells = self._ints[base : base + _ERROR].tolist()
            error, fields = self._text(base + _ERROR, base + _FIELDS), self._text(base + _FIELDS, base + _ROW)
            after = self._seen[index] = EntryCounts(cells, seconds, error_at, error, not_sent, cached, fields)
            yield entry, before, after

    def latest(self) -> Iterator[tuple[tuple[str, str], EntryCounts]]:
        """Each entry that was asked, with its counts at the last call of `changes`."""
        for index, counts in self._seen.items():
            yield self.entries[index], counts

    def _text(self, start: int, end: int) -> str:
        return self._memory[start * 8 : end * 8].rstrip(b"\0").decode("utf-8", "replace")


class EntryRow:
    """An entry's row as its worker writes it. `began` is when the request in progress began (monotonic seconds)."""

    __slots__ = (
        "_counts",
        "_floats",
        "_header",
        "_ints",
        "_memory",
        "_row",
        "_seconds",
        "_slow",
        "_undecided",
        "began",
    )

    def __init__(self, memory: mmap.mmap, header: int, row: int, slow: float) -> None:
        """`header` and `row` are the first cells of each in the memory; from `slow` seconds on a request counts as slow."""
        self._memory, self._header, self._row, self._slow = memory, header, row, slow
        self._ints, self._floats = memoryview(memory).cast("q"), memoryview(memory).cast("d")
        self._counts = [0] * _ERROR  # the same as in the row: a list is read much faster than the memory
        self._seconds = 0.0
        self._undecided = True
        self.began = 0.0

    def count(self, outcome: int) -> float:
        """The request that began last has ended, with FOUND, NOT_FOUND, REFUSED, UNEXPECTED or FAILED. Returns how many
        seconds it took."""
        seconds = monotonic() - self.began
        cell = outcome + bisect_left(BOUNDS, seconds)
        counts = self._counts
        counts[cell] = count = counts[cell] + 1
        self._ints[self._row + cell] = count
        if seconds > self._slow and outcome != FAILED:
            self._ints[self._row + _SLOW] += 1
        self._seconds = total = self._seconds + seconds
        self._floats[self._header] = total  # last: its change shows that the row has changed
        return seconds

    def count_not_sent(self) -> None:
        """A request was not sent, because the circuit breaker is open."""
        self._ints[self._header + _NOT_SENT] += 1

    def count_cached(self) -> None:
        """A request that failed or was not sent was answered from the cache."""
        self._ints[self._header + _CACHED] += 1

    @property
    def may_lack_field(self) -> bool:
        """Whether this worker has seen no answer yet with the value field, nor noted the fields of one without it."""
        return self._undecided and not any(self._counts[FOUND : FOUND + _HISTOGRAM])

    def note_fields(self, names: str) -> None:
        """The fields of an answer without the value field; "" if the answer had it."""
        self._undecided = False
        self._write_text(_FIELDS, _ROW, names)

    def note_error(self, text: str) -> None:
        """What was wrong with the request that has just ended; the text must not contain a secret."""
        self._write_text(_ERROR, _FIELDS, text)
        self._floats[self._header + _ERROR_AT] = monotonic()

    def _write_text(self, start: int, end: int, text: str) -> None:
        start, size = (self._row + start) * 8, (end - start) * 8
        self._memory[start : start + size] = text.encode("utf-8", "replace")[:size].ljust(size, b"\0")

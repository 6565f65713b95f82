"""The counts of all entries since the server's start, whatever workers and configurations have come and gone.

Workers count in memory of their own (`io.scoreboard.entry_counters`). The master adds what the running ones show to what
those had counted that have ended, and remembers the sums of the last minute.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from pfxhttpd.io.scoreboard.entry_counters import EntryCounters, EntryCounts

EntryKey = tuple[str, str]
"""An entry's kind and name."""

SAMPLE_INTERVAL = 5.0
"""Seconds between two looks at the counters."""
WINDOW = 60.0
"""Seconds that `recent` covers."""

Sums = Mapping[EntryKey, Mapping[str, int]]
"""For each entry, the requests by outcome, and those that were slow."""


@dataclass(frozen=True, slots=True)
class Recent:
    """The requests of one entry within the last `seconds`, by outcome. `failing`: the last ones failed, none succeeded
    since, however long ago that was."""

    seconds: float
    counts: Mapping[str, int]
    failing: bool


class EntryTotals:
    """`started_at` is when the server started (monotonic seconds)."""

    def __init__(self, started_at: float) -> None:
        self.started_at = started_at
        self._totals: dict[EntryKey, EntryCounts] = {}
        self._live: list[EntryCounters] = []
        self._samples: deque[tuple[float, Sums]] = deque([(started_at, {})])
        self._failing: set[EntryKey] = set()

    def add(self, counters: EntryCounters) -> None:
        """A worker starts that counts there."""
        self._live.append(counters)

    def end(self, counters: EntryCounters) -> None:
        """That worker has ended, and counts no more."""
        self._update(counters)
        self._live.remove(counters)

    def totals(self) -> Mapping[EntryKey, EntryCounts]:
        """The counts of every entry that was asked since the start."""
        for counters in self._live:
            self._update(counters)
        return self._totals

    def _update(self, counters: EntryCounters) -> None:
        for key, before, after in counters.changes():
            self._totals[key] = self._totals.get(key, EntryCounts()).changed(before, after)

    def sample(self, now: float) -> None:
        """Remember the present sums, if the last look was long enough ago."""
        if now >= self._samples[-1][0] + SAMPLE_INTERVAL:
            sums = _sums(self.totals())
            self._failing = self._failing_now(sums)
            self._samples.append((now, sums))
            while len(self._samples) > 1 and self._samples[1][0] <= now - WINDOW:
                self._samples.popleft()

    def recent(self, totals: Mapping[EntryKey, EntryCounts], now: float) -> dict[EntryKey, Recent]:
        """What has changed within the last minute, for the entries of `totals`."""
        since, before = self._samples[0]
        sums = _sums(totals)
        failing = self._failing_now(sums)
        return {
            key: Recent(max(now - since, 0.001), _difference(counts, before.get(key, {})), key in failing)
            for key, counts in sums.items()
        }

    def _failing_now(self, sums: Sums) -> set[EntryKey]:
        """The entries with failures and no success since the last look, and those of before that had no request."""
        _, before = self._samples[-1]
        failing = set()
        for key, counts in sums.items():
            change = _difference(counts, before.get(key, {}))
            succeeded = change["found"] + change["not_found"] + change["refused"]
            failed = change["failed"] + change["unexpected"] + change["not_sent"]
            if not succeeded and (failed or key in self._failing):
                failing.add(key)
        return failing


def _sums(totals: Mapping[EntryKey, EntryCounts]) -> Sums:
    return {key: {**counts.outcomes(), "slow": counts.slow, "cached": counts.cached} for key, counts in totals.items()}


def _difference(counts: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    return {name: count - before.get(name, 0) for name, count in counts.items()}


def entry_keys(entries: Mapping[str, Mapping[str, object]]) -> list[EntryKey]:
    """The keys of a configuration's entries."""
    return [(kind, name) for kind, section in entries.items() for name in section]

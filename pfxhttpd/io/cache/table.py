"""What is remembered for outages: a bounded table of answers, each good for so long after it was given.

A pure structure: whoever keeps it passes the time in and lets one caller at a time in. Times are monotonic seconds.

Writes arrive late and out of order, since every worker collects its own. So each carries the time at which its answer
was given, and an older answer never replaces a newer one, not even one that has been taken back or purged meanwhile.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from sys import getsizeof, intern
from typing import NamedTuple

Item = tuple[bytes, str, str | None, float]
"""(key, name of the entry, value or None to forget what is there, time of the answer)."""

MAX_BYTES = 64 * 1024 * 1024
"""What the table may hold in all, whatever the number of its entries."""
OVERHEAD = 300
"""Bytes that an entry takes beside its value, as measured with CPython 3.11."""
MAX_DELETED = 10_000
"""Taken-back answers that are remembered as such, to outlast older writes that are still on their way."""


class Counts(NamedTuple):
    """Of the table: what is in it, and what has happened to it since it was made.

    `changes` grows whenever something that was put before is not there any more, for another reason than age or room.
    """

    entries: int
    bytes: int
    hits: int
    misses: int
    evictions: int
    changes: int


class CacheTable:
    """The entries, least recently used first."""

    def __init__(self, most_bytes: int = MAX_BYTES) -> None:
        self._most_bytes = most_bytes
        self._entries: OrderedDict[bytes, tuple[float, str, str, int]] = OrderedDict()
        self._gone: OrderedDict[bytes, float] = OrderedDict()
        self._purged: dict[str | None, float] = {}
        self._bytes = self._hits = self._misses = self._evictions = self._changes = 0

    @property
    def counts(self) -> Counts:
        return Counts(len(self._entries), self._bytes, self._hits, self._misses, self._evictions, self._changes)

    def put(self, items: Iterable[Item], most: int) -> None:
        """Remember the items, or forget where their value is None; `most` entries stay."""
        entries, gone, purged = self._entries, self._gone, self._purged
        for key, name, value, given in items:
            if (purged or key in entries or key in gone) and given < self._newest(key, name):
                self._changes += 1
                continue
            if key in entries:
                self._changes += entries[key][2] != value
                self._forget(key)
            if value is None:
                self._mark(key, given)
                continue
            size = getsizeof(value) + OVERHEAD
            entries[key] = (given, intern(name), value, size)
            self._bytes += size
        while entries and (len(entries) > most or self._bytes > self._most_bytes):
            self._forget(next(iter(entries)))
            self._evictions += 1

    def get(self, key: bytes, ttl: float, now: float) -> str | None:
        """The value under `key`, unless it was given `ttl` seconds ago or earlier."""
        kept = self._entries.get(key)
        if kept is not None and now - kept[0] >= ttl:
            self._forget(key)
            kept = None
        if kept is None:
            self._misses += 1
            return None
        self._hits += 1
        self._entries.move_to_end(key)
        return kept[2]

    def purge(self, name: str | None, keys: Iterable[bytes], now: float) -> int:
        """Forget the `keys`; without any, all entries of that name; without a name, everything. Returns how many."""
        before = len(self._entries)
        self._changes += 1
        chosen = list(keys)
        for key in chosen:
            self._mark(key, now)
        if not chosen:
            chosen = [key for key, kept in self._entries.items() if name in (None, kept[1])]
            self._purged[name] = now
        for key in chosen:
            self._forget(key)
        return before - len(self._entries)

    def _newest(self, key: bytes, name: str) -> float:
        """The time of the last word on `key`."""
        kept = self._entries.get(key)
        purged = max(self._purged.get(None, 0.0), self._purged.get(name, 0.0))
        return max(purged, self._gone.get(key, 0.0), kept[0] if kept else 0.0)

    def _mark(self, key: bytes, now: float) -> None:
        self._gone[key] = now
        self._gone.move_to_end(key)
        if len(self._gone) > MAX_DELETED:
            self._gone.popitem(last=False)

    def _forget(self, key: bytes) -> None:
        kept = self._entries.pop(key, None)
        if kept is not None:
            self._bytes -= kept[3]

"""The entries of the cache: a bounded table of answers, each valid for some time after the backend gave it.

A pure data structure without locks: callers pass the time in, and call one at a time. Times are monotonic seconds.

Writes arrive late and out of order, because every worker collects its own. So each has the time at which its answer was
given, and an older answer never replaces a newer one, not even one that has been deleted or purged since.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from sys import getsizeof, intern
from typing import NamedTuple

Item = tuple[bytes, str, str | None, float]
"""(key, name of the entry, value or None to delete the key, time of the answer)."""

MAX_BYTES = 64 * 1024 * 1024
"""Bytes that all entries may take together, whatever their number."""
OVERHEAD = 300
"""Bytes that an entry takes in addition to its value, as measured with CPython 3.11."""
MAX_DELETED = 10_000
"""Deleted keys that are remembered as such, so that older writes that arrive later do not restore them."""


class Counts(NamedTuple):
    """The contents of the table, and what has happened to it since it was made.

    `changes` grows whenever an item that was put is removed or refused for another reason than age or the bounds.
    """

    entries: int
    bytes: int
    hits: int
    misses: int
    evictions: int
    changes: int


class CacheTable:
    """The entries, least recently used first."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, tuple[float, str, str, int]] = OrderedDict()
        self._deleted: OrderedDict[bytes, float] = OrderedDict()
        self._purged: dict[str | None, float] = {}
        self._bytes = self._hits = self._misses = self._evictions = self._changes = 0

    @property
    def counts(self) -> Counts:
        return Counts(len(self._entries), self._bytes, self._hits, self._misses, self._evictions, self._changes)

    def put(self, items: Iterable[Item], max_entries: int) -> None:
        """Store the items, or delete the keys of those whose value is None. At most `max_entries` entries stay."""
        entries, deleted, purged = self._entries, self._deleted, self._purged
        for key, name, value, given in items:
            if (purged or key in entries or key in deleted) and given < self._newest(key, name):
                self._changes += 1
                continue
            if key in entries:
                self._changes += entries[key][2] != value
                self._remove(key)
            if value is None:
                self._mark_deleted(key, given)
                continue
            size = getsizeof(value) + OVERHEAD
            entries[key] = (given, intern(name), value, size)
            self._bytes += size
        while entries and (len(entries) > max_entries or self._bytes > self._max_bytes):
            self._remove(next(iter(entries)))
            self._evictions += 1

    def get(self, key: bytes, ttl: float, now: float) -> str | None:
        """The value under `key`, unless it was given `ttl` seconds ago or earlier. None is a miss."""
        entry = self._entries.get(key)
        if entry is not None and now - entry[0] >= ttl:
            self._remove(key)
            entry = None
        if entry is None:
            self._misses += 1
            return None
        self._hits += 1
        self._entries.move_to_end(key)
        return entry[2]

    def purge(self, name: str | None, keys: Iterable[bytes], now: float) -> int:
        """Remove the `keys`; without any, all entries of that name; without a name, everything. Returns how many."""
        before = len(self._entries)
        self._changes += 1
        chosen = list(keys)
        for key in chosen:
            self._mark_deleted(key, now)
        if not chosen:
            chosen = [key for key, entry in self._entries.items() if name in (None, entry[1])]
            self._purged[name] = now
        for key in chosen:
            self._remove(key)
        return before - len(self._entries)

    def _newest(self, key: bytes, name: str) -> float:
        """The time of the newest answer, deletion or purge that concerns `key`."""
        entry = self._entries.get(key)
        purged = max(self._purged.get(None, 0.0), self._purged.get(name, 0.0))
        return max(purged, self._deleted.get(key, 0.0), entry[0] if entry else 0.0)

    def _mark_deleted(self, key: bytes, now: float) -> None:
        self._deleted[key] = now
        self._deleted.move_to_end(key)
        if len(self._deleted) > MAX_DELETED:
            self._deleted.popitem(last=False)

    def _remove(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry[3]

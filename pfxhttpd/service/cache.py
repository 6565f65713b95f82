"""What a worker contributes to the shared cache, and asks of it when a backend fails.

Writes are collected and go out together, after the clients have their answers: a call to the cache's process costs as
much as half a lookup, a batch of 64 little more. What was stored a moment ago is not stored again.
"""

from __future__ import annotations

import math
import time

from pfxhttpd.config.settings import ResponseCacheSettings
from pfxhttpd.io.cache.client import CacheClient
from pfxhttpd.io.cache.table import Item
from pfxhttpd.io.scoreboard import CacheRow

BATCH = 64
"""Writes that go out at once, whatever their age."""
HEAVY = 128 * 1024
"""Characters of values that go out at once, and the longest value that is remembered: more would take too long to send."""
DELAY = 0.25
"""Seconds a write may wait while its worker is busy; a worker that falls silent sends it at once."""
FRESH = 5.0
"""Seconds after which a worker forgets what it has stored; a quarter of the ttl where that is less. So an answer may go
that much before its time, never after it."""
RECENT = 1000
"""Own writes after which it does, too. Few, since they push other things out of the processor's cache: what is asked for
again and again is among them anyway."""


class CacheBuffer:
    """One worker's side of the response cache; `rule` says whether there is one, and for how long an answer is good.

    `row` tells when something that was stored may be there no more: it is then stored as soon as it is heard again.
    """

    def __init__(self, store: CacheClient, row: CacheRow, rule: ResponseCacheSettings) -> None:
        self._store, self._row, self._rule = store, row, rule
        self._fresh = min(rule.ttl / 4, FRESH)
        self._stored: dict[bytes, int] = {}
        self._until = -math.inf
        self._pending: list[Item] = []
        self._weight = 0
        self._changes, self._losses = row.changes, store.losses

    @property
    def enabled(self) -> bool:
        return self._rule.enabled

    @property
    def pending(self) -> bool:
        return bool(self._pending)

    def remember(self, key: bytes, entry: str, value: str | None) -> None:
        """Have a good answer stored, unless this worker has stored the same one just now.

        None: the backend has no answer any more, and an older one must not come back in an outage.
        """
        now, stored, mark = time.monotonic(), self._stored, hash(value)
        if now >= self._until or len(stored) >= RECENT or self._doubtful:
            stored.clear()
            self._until = now + self._fresh
            self._changes, self._losses = self._row.changes, self._store.losses
        if stored.get(key) == mark:
            return
        stored[key] = mark
        if value is not None:
            self._weight += len(value)
            if len(value) > HEAVY:
                value = None
        self._pending.append((key, entry, value, now))

    @property
    def _doubtful(self) -> bool:
        """Whether something that was stored may be there no more."""
        return self._changes != self._row.changes or self._losses != self._store.losses

    def tend(self) -> None:
        """Send what waits, if there is enough of it or it has waited long enough. For after the answer."""
        pending = self._pending
        if pending and (len(pending) >= BATCH or self._weight >= HEAVY or time.monotonic() - pending[0][3] >= DELAY):
            self.flush()

    def recall(self, key: bytes) -> str | None:
        """The answer that was good within the last `ttl` seconds, None when none is known."""
        return self._store.get(key, self._rule.ttl, self._take(), self._rule.max_entries)

    def flush(self) -> None:
        """Send what waits."""
        if self._pending:
            self._store.put(self._take(), self._rule.max_entries)

    def _take(self) -> list[Item]:
        pending, self._pending, self._weight = self._pending, [], 0
        return pending

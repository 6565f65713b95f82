"""A worker's side of the response cache: it stores good answers, and gets one back when a backend fails.

Writes are collected and sent together, after the clients have their replies: a call to the cache's process costs as much
as half a lookup, and a batch of 64 costs little more. An answer that this worker stored a moment ago is not sent again.
"""

from __future__ import annotations

import math
import time

from pfxhttpd.config.settings import ResponseCacheSettings
from pfxhttpd.io.cache.client import CacheClient
from pfxhttpd.io.cache.table import Item
from pfxhttpd.io.scoreboard import CacheRow

BATCH = 64
"""Writes that are sent at once, whatever their age."""
HEAVY = 128 * 1024
"""Characters of values that are sent at once. A longer value is not stored: sending it would take too long."""
DELAY = 0.25
"""Seconds that a write may wait while its worker is busy; a worker that falls silent sends it at once."""
FRESH = 5.0
"""Seconds after which a worker forgets what it has stored, or a quarter of the ttl where that is less. So a stored answer
may expire that much before its time, and never after it."""
RECENT = 1000
"""Own writes after which it forgets them, too. The number is small because the memory they take pushes other things out
of the processor's cache; the keys that are asked for again and again are among them anyway."""


class CacheBuffer:
    """One worker's buffer of writes. `settings` says whether there is a cache, and how long an answer is good.

    `row` tells when a stored answer may have been lost: it is then stored again with the next response.
    """

    def __init__(self, client: CacheClient, row: CacheRow, settings: ResponseCacheSettings) -> None:
        self._client, self._row, self._settings = client, row, settings
        self.enabled = settings.enabled
        self._fresh = min(settings.ttl / 4, FRESH)
        self._stored: dict[bytes, int] = {}
        self._fresh_until = -math.inf
        self.pending: list[Item] = []
        """The writes that have not been sent yet."""
        self._weight = 0
        self._changes, self._losses = row.changes, client.losses

    def put(self, key: bytes, entry: str, value: str | None) -> None:
        """Store a good answer, unless this worker has stored the same one just now.

        None: the backend has no answer any more, and an older one must not come back in an outage.
        """
        now, stored, mark = time.monotonic(), self._stored, hash(value)
        if now >= self._fresh_until or len(stored) >= RECENT or self._may_have_lost:
            stored.clear()
            self._fresh_until = now + self._fresh
            self._changes, self._losses = self._row.changes, self._client.losses
        if stored.get(key) == mark:
            return
        stored[key] = mark
        if value is not None:
            self._weight += len(value)
            if len(value) > HEAVY:
                value = None
        self.pending.append((key, entry, value, now))

    @property
    def _may_have_lost(self) -> bool:
        """Whether something that was stored may not be there any more."""
        return self._changes != self._row.changes or self._losses != self._client.losses

    def flush_if_due(self) -> None:
        """Send the pending writes if there are enough of them or they have waited long enough. Call after a reply."""
        pending = self.pending
        if pending and (len(pending) >= BATCH or self._weight >= HEAVY or time.monotonic() - pending[0][3] >= DELAY):
            self.flush()

    def get(self, key: bytes) -> str | None:
        """The answer that was good within the last `ttl` seconds, or None."""
        return self._client.get(key, self._settings.ttl, self._take_pending(), self._settings.max_entries)

    def flush(self) -> None:
        """Send the pending writes."""
        if self.pending:
            self._client.put(self._take_pending(), self._settings.max_entries)

    def _take_pending(self) -> list[Item]:
        pending, self.pending, self._weight = self.pending, [], 0
        return pending

"""A limit for log lines that a client could cause again and again."""

from __future__ import annotations

import time

INTERVAL = 60.0
"""Seconds between two lines with the same key."""
MAX_KEYS = 100
"""Keys that are remembered; a client may choose them."""


class MinuteLimit:
    """Lets one line a minute pass for each key, and none for further keys once there are MAX_KEYS."""

    def __init__(self) -> None:
        self._passed_at: dict[str, float] = {}

    def passes(self, key: str) -> bool:
        """Whether a line with this key may be written now."""
        now = time.monotonic()
        for old in [old for old, at in self._passed_at.items() if now - at >= INTERVAL]:
            del self._passed_at[old]
        if key in self._passed_at or len(self._passed_at) >= MAX_KEYS:
            return False
        self._passed_at[key] = now
        return True

"""The right answer to each question. Backend and clients both compute it, so the clients know what must come back.

A value contains a digest of its question. An answer that belongs to another question is thereby recognized.
"""

from __future__ import annotations

import hashlib

KEYS = 1000
"""Number of different keys that the clients ask for. All of them exist."""

POISONED_KEY = "poisoned@drill.example"
"""The key that the API answers with 500 while the fault `poisoned key` lasts."""

THROTTLED_USER = "throttled@drill.example"
"""The user whose logins the API answers with 429 while the fault `poisoned key` lasts."""


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def value_of(map_name: str, key: str) -> str:
    """What a lookup of the key gives."""
    return f"value {_digest(map_name, key)}"


def action_of(sender: str, recipient: str) -> str:
    """What a policy request gives; never DUNNO."""
    return f"PREPEND X-Drill: {_digest(sender, recipient)}"


def password_of(user: str) -> str:
    """The one password that lets the user in."""
    return _digest("password", user)

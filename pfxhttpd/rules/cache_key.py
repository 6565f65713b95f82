"""Under what key a reply is remembered: two requests share one exactly when they ask the same of the same entry.

The keys have a fixed size, whatever a client sends.
"""

from __future__ import annotations

import marshal
from collections.abc import Mapping
from hashlib import blake2b
from typing import AbstractSet

from pfxhttpd.config.settings import POLICY_SERVICE, SOCKET_MAP

SIZE = 16
"""Bytes in a key; enough that nobody finds two requests with the same one."""


def map_key(entry: str, key: str) -> bytes:
    """The key for a lookup of `key` in the socket map `entry`."""
    return _digest((SOCKET_MAP, entry, key))


def policy_key(entry: str, attributes: Mapping[str, str], ignore: AbstractSet[str]) -> bytes:
    """The key for a policy request to `entry`. The order of the attributes and those named in `ignore` do not matter."""
    names = sorted([name for name in attributes if name not in ignore])
    return _digest((POLICY_SERVICE, entry, names, [attributes[name] for name in names]))


def _digest(question: tuple) -> bytes:
    # marshal writes each string's length before it, so different questions never read the same, as they could if merely
    # joined. Format 2 is the last one in which equal values always give equal bytes: later ones have back references.
    return blake2b(marshal.dumps(question, 2), digest_size=SIZE).digest()

"""Under what key a reply is remembered: two requests share one exactly when they ask the same of the same entry.

The keys have a fixed size, whatever a client sends, and say nothing about the request to whoever reads the cache.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import AbstractSet, Mapping

from pfxhttpd.config.settings import POLICY_SERVICE, SOCKET_MAP

SIZE = 16
"""Bytes in a key; enough that nobody finds two requests with the same one."""


def of_map(entry: str, key: str) -> bytes:
    """The key for a lookup of `key` in the socket map `entry`."""
    return _digest((SOCKET_MAP, entry, key))


def of_policy(entry: str, attributes: Mapping[str, str], ignore: AbstractSet[str]) -> bytes:
    """The key for a policy request to `entry`. The order of the attributes and those named in `ignore` do not matter."""
    return _digest((POLICY_SERVICE, entry, sorted([pair for pair in attributes.items() if pair[0] not in ignore])))


def _digest(question: tuple) -> bytes:
    # repr quotes and escapes each string, so different questions never read the same, as they could if merely joined.
    return blake2b(repr(question).encode(), digest_size=SIZE).digest()

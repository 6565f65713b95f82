"""The keys of the response cache. Two requests have the same key exactly if they ask the same of the same entry.

Keys have a fixed size, whatever the size of the request.
"""

from __future__ import annotations

import marshal
from collections.abc import Mapping, Set
from hashlib import blake2b

from pfxhttpd.config.settings import POLICY_SERVICE, SOCKET_MAP

SIZE = 16
"""Size of a key in bytes. It is large enough that nobody can find two requests with the same key."""


def map_key(entry: str, key: str) -> bytes:
    """The cache key for a lookup of `key` in the socket map `entry`."""
    return _digest((SOCKET_MAP, entry, key))


def policy_key(entry: str, attributes: Mapping[str, str], ignore: Set[str]) -> bytes:
    """The cache key for a policy request to `entry`: its attributes without those in `ignore`, in any order."""
    names = sorted([name for name in attributes if name not in ignore])
    return _digest((POLICY_SERVICE, entry, names, [attributes[name] for name in names]))


def _digest(request: tuple[str | list[str], ...]) -> bytes:
    # marshal writes the length of each string before it, so different requests have different encodings. That would not
    # be so if the strings were simply joined. Format 2 is the last one in which equal values always have the same
    # encoding: later formats contain back references.
    return blake2b(marshal.dumps(request, 2), digest_size=SIZE).digest()

"""How many connections an origin may get from all workers together (`http_client.max_connections_per_host`).

A place among an origin's connections is one byte of a file without content, locked with fcntl(2) while a worker has the
connection open. The kernel gives such a lock to one process, and takes it back when that process ends, however it
ends; nobody has to count, and nothing has to be repaired.

Who finds no place free waits in a queue of one: one further byte, the turnstile, which must be passed to take any
place. So those who wait longest are not overtaken by a worker that has just given its place back. Waiting is done in
short pauses, since a lock cannot be waited for until a deadline; but that costs only those who would have to wait.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import random
import time
from dataclasses import dataclass

_SPAN = 1 << 16
"""Bytes of the file for each origin; the first is its turnstile."""
_SHORTEST, _LONGEST = 0.001, 0.008
"""Seconds between two looks: of who is next, and the longest of those who stand behind."""
_LINGER = 0.05
"""Seconds that a connection is kept unused where there are fewer places than workers."""


@dataclass(frozen=True, slots=True)
class Permit:
    """A place that this process holds: where its origin's bytes begin, and its number among them, from 1."""

    base: int
    number: int


def lock_file() -> int:
    """The file all places are bytes of: a descriptor that the master opens once and every worker inherits."""
    return os.memfd_create("pfxhttpd-quota", os.MFD_CLOEXEC)


class ConnectionLimit:
    """One worker's view. `limit` is the number of places per origin, `workers` how many processes may want one."""

    def __init__(self, file: int, limit: int, workers: int) -> None:
        self._file, self._limit = file, max(1, min(limit, _SPAN - 1))
        self.scarce = workers > limit
        self.linger = _LINGER if self.scarce else float("inf")
        self._held: set[Permit] = set()
        self._first = random.randrange(self._limit)
        """Where to look first: workers that all began at one end would find it taken."""

    def acquire(self, origin: tuple[str, str, int], deadline: float) -> Permit:
        """A place, at the latest at `deadline` (monotonic seconds). Raises `TimeoutError`, with nothing held."""
        digest = hashlib.sha256(f"{origin[1]}\n{origin[2]}".encode()).digest()
        base = int.from_bytes(digest[:5], "big") * _SPAN
        pause = _SHORTEST
        while not self._lock(base):
            pause = min(_wait(pause, deadline), _LONGEST)
        try:
            while True:
                for step in range(self._limit):
                    place = Permit(base, 1 + (self._first + step) % self._limit)
                    if place not in self._held and self._lock(base + place.number):
                        self._held.add(place)
                        return place
                _wait(_SHORTEST, deadline)
        finally:
            self._unlock(base)

    def release(self, place: Permit) -> None:
        self._held.discard(place)
        self._unlock(place.base + place.number)

    def is_contended(self, place: Permit) -> bool:
        """Another process stands in the turnstile of this place's origin."""
        if not self.scarce:
            return False
        if self._lock(place.base):
            self._unlock(place.base)
            return False
        return True

    def _lock(self, byte: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True

    def _unlock(self, byte: int) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, byte)


def _wait(pause: float, deadline: float) -> float:
    """Sleep for about `pause` seconds, but not past the deadline; returns the next pause."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    time.sleep(min(pause * (0.5 + random.random() / 2), left))
    return pause * 2

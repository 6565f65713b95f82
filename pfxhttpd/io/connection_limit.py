"""How many connections to an origin all workers together may have (`http_client.max_connections_per_host`).

A permit for a connection is one byte of an empty file, which a worker locks with fcntl(2) while it has the connection
open. The kernel grants such a lock to one process at a time and releases it when that process ends, however it ends, so
no process counts and nothing has to be repaired.

A worker that finds no free permit waits in a queue of one: a further byte, the gate, which has to be locked in order to
take any permit. So a worker that has just released a permit does not overtake those that wait for one. A lock cannot be
waited for until a deadline, so workers wait in short pauses, and only those that find no free permit do.
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
"""Bytes of the file for each origin. The first is its gate."""
_MIN_PAUSE, _MAX_PAUSE = 0.001, 0.008
"""Seconds between two attempts: of the worker at the gate, and at most of those behind it."""
_LINGER = 0.05
"""Seconds that an idle connection is kept where there are fewer permits than workers."""


@dataclass(frozen=True, slots=True)
class Permit:
    """A permit that this process holds: the first byte of its origin, and its number there, from 1."""

    base: int
    number: int


def lock_file() -> int:
    """Make the file of all permits. The master makes it once; every worker inherits the descriptor."""
    return os.memfd_create("pfxhttpd-connection-limit", os.MFD_CLOEXEC)


class ConnectionLimit:
    """One worker's access to the permits: `limit` per origin, for `workers` processes that may want one."""

    def __init__(self, file: int, limit: int, workers: int) -> None:
        self._file, self._limit = file, max(1, min(limit, _SPAN - 1))
        self.scarce = workers > limit
        self.linger = _LINGER if self.scarce else float("inf")
        self._held: set[Permit] = set()
        self._first = random.randrange(self._limit)
        """The permit that is tried first: random, since workers that all began with the same one would find it taken."""

    def acquire(self, origin: tuple[str, str, int], deadline: float) -> Permit:
        """Take a permit for `origin`. Raises `TimeoutError` at `deadline` (monotonic seconds), with nothing held."""
        digest = hashlib.sha256(f"{origin[1]}\n{origin[2]}".encode()).digest()
        base = int.from_bytes(digest[:5], "big") * _SPAN
        pause = _MIN_PAUSE
        while not self._lock(base):
            pause = min(_sleep(pause, deadline), _MAX_PAUSE)
        try:
            while True:
                for step in range(self._limit):
                    permit = Permit(base, 1 + (self._first + step) % self._limit)
                    if permit not in self._held and self._lock(base + permit.number):
                        self._held.add(permit)
                        return permit
                _sleep(_MIN_PAUSE, deadline)
        finally:
            self._unlock(base)

    def release(self, permit: Permit) -> None:
        self._held.discard(permit)
        self._unlock(permit.base + permit.number)

    def is_contended(self, permit: Permit) -> bool:
        """Whether another process waits for a permit of this origin."""
        if not self.scarce:
            return False
        if self._lock(permit.base):
            self._unlock(permit.base)
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


def _sleep(pause: float, deadline: float) -> float:
    """Sleep for about `pause` seconds, but not past the deadline. Returns the length of the next pause."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    time.sleep(min(pause * (0.5 + random.random() / 2), left))
    return pause * 2

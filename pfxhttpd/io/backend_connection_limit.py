"""How many connections to an origin all workers together may have (`http_client.max_connections_per_host`), and how many
idle ones they may keep (`max_idle_connections`, `max_idle_connections_per_host`).

A permit for a connection is one byte of an empty file, which a worker locks with fcntl(2) while it has the connection
open. The kernel grants such a lock to one process at a time and releases it when that process ends, however it ends, so
no process counts and nothing has to be repaired.

A worker that finds no free permit waits in a queue of one: a further byte, the gate, which has to be locked in order to
take any permit. So a worker that has just released a permit does not overtake those that wait for one. A lock cannot be
waited for until a deadline, so workers wait in short pauses, and only those that find no free permit do.

An idle connection needs permits of the same kind, which are not waited for: a worker that finds none closes the connection.
They are used only where there are fewer of them than workers, since otherwise each worker can have its share.
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
_IDLE, _IDLE_PER_HOST = 1 << 60, 1 << 61
"""The first byte of the permits for idle connections, and what is added to an origin's first byte for those of the origin."""
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
    """One worker's access to the permits: `limit` per origin, for `workers` processes that may want one. `idle` connections
    may be kept in all, and `idle_per_host` to an origin."""

    def __init__(
        self, file: int, limit: int, workers: int, idle: int = _SPAN - 1, idle_per_host: int = _SPAN - 1
    ) -> None:
        self._file, self._limit = file, max(1, min(limit, _SPAN - 1))
        self.scarce = workers > limit
        self.max_idle = 0 if not idle_per_host else idle if workers > idle else idle // workers
        """How many idle connections this worker may keep, if it gets permits for them."""
        self.idle_scarce = self.max_idle > 0 and workers > min(idle, idle_per_host)
        self._idle_limits = [
            (first, limit, of_origin)
            for first, limit, of_origin in ((_IDLE, idle, False), (_IDLE_PER_HOST, idle_per_host, True))
            if workers > limit
        ]
        self._idle: dict[Permit, list[int]] = {}
        """The bytes that are locked for each connection that is idle, by the connection's permit."""
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
        self.end_idle(permit)
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

    def keep_idle(self, permit: Permit) -> bool:
        """Take the permits to keep this connection while it is idle. Returns false if there are none."""
        taken = self._idle[permit] = []
        for first, limit, of_origin in self._idle_limits:
            byte = self._lock_one_of(first + permit.base if of_origin else first, limit)
            if byte is None:
                self.end_idle(permit)
                return False
            taken.append(byte)
        return True

    def end_idle(self, permit: Permit) -> None:
        """The connection is used or closed."""
        for byte in self._idle.pop(permit, ()):
            self._unlock(byte)

    def _lock_one_of(self, first: int, count: int) -> int | None:
        """Lock one of `count` bytes that no process has locked, not even this one; None if there is none."""
        own = {byte for taken in self._idle.values() for byte in taken}
        for step in range(count):
            byte = first + (self._first + step) % count
            if byte not in own and self._lock(byte):
                return byte
        return None

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

"""Lets tests of several processes run side by side, as pytest-xdist has them, but some of them with no test beside them.

Two files are locked with flock(2), which the kernel undoes for a process that dies. The second is held by each test
while it runs, shared with others or exclusively. The first is the queue for the second: an exclusive test waits there
as well, so that no test that comes later passes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


class TestLock:
    """The lock of all test runs that name the same two files, which must exist."""

    __test__ = False

    def __init__(self, queue: Path, running: Path) -> None:
        self._queue, self._running = (os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in (queue, running))

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Waits until no exclusive test runs or waits."""
        with _locked(self._queue, fcntl.LOCK_EX):
            fcntl.flock(self._running, fcntl.LOCK_SH)
        try:
            yield
        finally:
            fcntl.flock(self._running, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Waits until no other test runs, and keeps others from beginning."""
        with _locked(self._queue, fcntl.LOCK_EX), _locked(self._running, fcntl.LOCK_EX):
            yield


@contextlib.contextmanager
def _locked(descriptor: int, operation: int) -> Iterator[None]:
    fcntl.flock(descriptor, operation)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)

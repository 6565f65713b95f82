"""Lets tests of several processes run side by side, as pytest-xdist has them, but some of them with no test beside them.

A file is locked with flock(2), which the kernel undoes for a process that dies: by each test while it runs, shared with
others or exclusively. An exclusive test lets those pass that come later. So it runs when the other processes have nothing
else to do, and none of them is idle meanwhile; the exclusive tests of each process have to be its last ones.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path


class TestLock:
    """The lock of all test runs that name the same file, which must exist."""

    __test__ = False

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def shared(self) -> AbstractContextManager[None]:
        """Waits until no exclusive test runs."""
        return _locked(self._file, fcntl.LOCK_SH)

    def exclusive(self) -> AbstractContextManager[None]:
        """Waits until no other test runs, and keeps others from beginning."""
        return _locked(self._file, fcntl.LOCK_EX)


@contextlib.contextmanager
def _locked(descriptor: int, operation: int) -> Iterator[None]:
    fcntl.flock(descriptor, operation)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)

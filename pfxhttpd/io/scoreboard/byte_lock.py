"""A lock that processes share: one byte of a file that is kept for that (fcntl(2))."""

from __future__ import annotations

import fcntl
import time


class ByteLock:
    """The kernel releases it when its holder dies. It is held for microseconds, unless its holder is stopped; then the
    others go on without it."""

    TRIES, PAUSE = 20, 0.001
    """How often it is tried, and the seconds between two attempts."""

    def __init__(self, lock_file: int, byte: int) -> None:
        self._lock_file, self._byte = lock_file, byte

    def lock(self) -> bool:
        """Take it in order to read, decide and write as one step; call `unlock` soon. False: it is not available."""
        for _ in range(self.TRIES):
            try:
                fcntl.lockf(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._byte)
                return True
            except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, depending on the system (fcntl(2))
                time.sleep(self.PAUSE)
        return False

    def unlock(self) -> None:
        fcntl.lockf(self._lock_file, fcntl.LOCK_UN, 1, self._byte)

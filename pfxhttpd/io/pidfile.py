"""The pid file: who serves, and a lock, so that a second server on the same file refuses (fcntl(2), advisory locks)."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass

from pfxhttpd.io import SetupError


@dataclass(frozen=True, slots=True)
class PidFile:
    path: str
    descriptor: int

    @classmethod
    def take(cls, path: str) -> PidFile:
        """Lock the file and write this process's id. A file that nobody has locked is stale, whatever it says.

        The lock is this process's alone: children do not inherit it, and it goes when the process does.
        Raises `PidFileError`.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise SetupError(f"pid file {path}: {error.strerror}", isinstance(error, PermissionError)) from error
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise SetupError(f"pid file {path}: a server is running already, pid {text or 'unknown'}") from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return cls(path, descriptor)

    def remove(self) -> None:
        """Remove the file while it is still locked, then let go of it."""
        try:
            os.unlink(self.path)
        except OSError:
            os.ftruncate(self.descriptor, 0)  # the directory is not ours to write in any more
        os.close(self.descriptor)

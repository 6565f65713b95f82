"""The pid file: who serves, and a lock, so that a second server on the same file refuses (fcntl(2), advisory locks)."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass


class PidFileError(Exception):
    """The pid file cannot be had; one line. `permission` tells that the system did not allow it."""

    def __init__(self, reason: str, permission: bool = False) -> None:
        super().__init__(reason)
        self.permission = permission


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
            raise PidFileError(f"pid file {path}: {error.strerror}", isinstance(error, PermissionError)) from error
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise PidFileError(f"pid file {path}: a server is running already, pid {text or 'unknown'}") from error
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


def holder(path: str) -> int:
    """The process id of the server that holds the pid file. Raises `PidFileError` when none does."""
    try:
        with open(path, "rb") as file:
            text = file.read(32).strip()
            try:
                fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                if text.isdigit():
                    return int(text)
    except OSError as error:
        raise PidFileError(f"pid file {path}: {error.strerror}", isinstance(error, PermissionError)) from error
    raise PidFileError(f"pid file {path}: no server is running")

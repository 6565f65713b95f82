"""The pid file: the process id of the server, and a lock that keeps a second server from using the same file (fcntl(2))."""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import suppress
from dataclasses import dataclass

from pfxhttpd.io import SetupError
from pfxhttpd.io.directory import Directory


@dataclass(frozen=True, slots=True)
class PidFile:
    path: str
    descriptor: int

    @classmethod
    def take(cls, path: str) -> PidFile:
        """Lock the file and write this process's id into it. A file that is not locked is stale, whatever it contains.

        The lock belongs to this process alone: child processes do not inherit it, and it ends with the process.
        Raises `SetupError`.
        """
        try:
            descriptor = _open(path)
        except OSError as error:
            raise SetupError(f"pid file {path}: {error.strerror}", isinstance(error, PermissionError)) from error
        try:
            _check_kind(path, descriptor)
            _lock(path, descriptor)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            os.close(descriptor)
            raise SetupError(f"pid file {path}: {error.strerror}") from error
        except SetupError:
            os.close(descriptor)
            raise
        return cls(path, descriptor)

    def remove(self) -> None:
        """Remove the file while it is still locked, then release the lock. If it cannot be removed, it becomes empty."""
        self.remove_file()
        os.close(self.descriptor)

    def remove_file(self) -> None:
        """Remove the file. The lock lasts on."""
        with suppress(OSError):  # the directory is outside the chroot, or this process may no longer write in it
            os.ftruncate(self.descriptor, 0)
            head, name = os.path.split(self.path)
            with Directory(head or ".") as directory:
                if os.path.samestat(directory.stat(name), os.fstat(self.descriptor)):
                    directory.unlink(name)


def _open(path: str) -> int:
    """Open or make the file, following no link and waiting for no device (open(2)). Raises `OSError`."""
    head, name = os.path.split(path)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    with Directory(head or ".") as directory:
        return os.open(name, flags, 0o644, dir_fd=directory.descriptor)


def _check_kind(path: str, descriptor: int) -> None:
    """Raise `SetupError` for what is no regular file, and for a file that also has another name."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise SetupError(f"pid file {path}: not a regular file")
    if status.st_nlink != 1:
        raise SetupError(f"pid file {path}: the file has {status.st_nlink} links; remove it")


def _lock(path: str, descriptor: int) -> None:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:  # EAGAIN or EACCES, depending on the system
        pid = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        pid = pid if pid.isascii() and pid.isdecimal() else "unknown"
        raise SetupError(f"pid file {path}: a server is running already, pid {pid}") from error

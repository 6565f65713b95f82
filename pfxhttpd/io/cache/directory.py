"""The private directory of the cache process, and the Unix socket in it."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from pfxhttpd.io import SetupError, directory

SOCKET = "cache.sock"


def socket_path(path: str) -> str:
    return os.path.join(path, SOCKET)


def make(path: str, owner: directory.Owner | None = None, made: list[str] | None = None) -> None:
    """Make the directory, which no user but `owner` can enter. What is made is added to `made`. Raises `SetupError`."""
    directory.make("cache directory", path, owner, made)
    try:
        with directory.acting_as(owner):
            opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fchmod(opened, 0o700)
            finally:
                os.close(opened)
    except OSError as error:
        user = owner[0] if owner else os.geteuid()
        raise SetupError(
            f"cache directory {path}: user {user} cannot use it ({error.strerror}): it must belong to that user, who must"
            " be able to enter the directories above it",
            isinstance(error, PermissionError),
        ) from error


def check_private(path: str) -> None:
    """Raise `SetupError` unless the directory belongs to this process's user and no other user can enter it."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise SetupError(f"cache directory {path}: {error.strerror}") from error
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise SetupError(f"cache directory {path}: must be ours alone (mode 0700)")


def remove_socket(path: str) -> None:
    """Remove the socket's file, if there is one. Raises `OSError`."""
    try:
        os.unlink(socket_path(path))
    except FileNotFoundError:
        pass


def remove(made: list[str]) -> None:
    """Remove the directories that `make` has made, and the socket in the last one."""
    if made:
        with suppress(OSError), directory.Directory(made[-1]) as opened:
            opened.unlink(SOCKET)
    directory.remove(made)

"""The private directory of the cache process, and the Unix socket in it."""

from __future__ import annotations

import os
import stat

from pfxhttpd.io import SetupError

SOCKET = "cache.sock"


def socket_path(directory: str) -> str:
    return os.path.join(directory, SOCKET)


def make(directory: str, owner: tuple[int, int] | None = None) -> None:
    """Make the directory with mode 0700. `owner` is a user id and a group id. Raises `SetupError`."""
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        if owner:
            os.chown(directory, *owner)
        os.chmod(directory, 0o700)
    except OSError as error:
        raise SetupError(f"cache directory {directory}: {error.strerror}") from error


def check_private(directory: str) -> None:
    """Raise `SetupError` unless the directory belongs to this process's user and no other user can enter it."""
    try:
        status = os.stat(directory)
    except OSError as error:
        raise SetupError(f"cache directory {directory}: {error.strerror}") from error
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise SetupError(f"cache directory {directory}: must be ours alone (mode 0700)")


def remove_socket(directory: str) -> None:
    """Remove the socket's file, if there is one. Raises `OSError`."""
    try:
        os.unlink(socket_path(directory))
    except FileNotFoundError:
        pass

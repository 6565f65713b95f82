"""Unix listeners. A socket has its mode from bind(2) on, then gets its owner, and only then listens, so a process that may
not use it cannot connect at any moment.

Binding under a second name and renaming would hide the moment at which connections are refused, but ss(8) would show the
second name for good.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import socket
import stat
from collections.abc import Callable
from contextlib import suppress

from pfxhttpd.config.settings import Listener
from pfxhttpd.io import SetupError
from pfxhttpd.io.directory import Directory, Owner

DEFAULT_MODE = 0o660
"""The permission bits of a socket without a configured `mode`, whatever the umask: for its owner and its group."""
MAX_PATH = 107
"""Bytes of a Unix socket's path, unix(7)."""
_MAX_ID = 2**32 - 2
"""The largest user or group id; 2**32 - 1 means none (chown(2))."""


class UnixListener(socket.socket):
    """A listening socket that we have bound: its path, and the device and inode of its file."""

    __slots__ = ("file", "path")

    path: str
    file: tuple[int, int]

    def remove_file(self) -> bool:
        """Remove the file if it is still this socket's. Returns whether it was removed."""
        head, name = os.path.split(self.path)
        with suppress(OSError), Directory(head or ".") as directory:
            status = directory.stat(name)
            if (status.st_dev, status.st_ino) == self.file:
                directory.unlink(name)
                return True
        return False


def bind_unix(listener: Listener, backlog: int) -> UnixListener:
    """Raises `SetupError`."""
    path = listener.address
    head, name = os.path.split(path)
    if not name or "\0" in path:
        raise SetupError(f"cannot listen on {listener.endpoint}: that is no path")
    if len(os.fsencode(path)) > MAX_PATH:
        raise SetupError(f"cannot listen on {listener.endpoint}: the path is longer than {MAX_PATH} bytes")
    owner = _owner(listener)
    sock = UnixListener(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    sock.path = path
    try:
        with Directory(head or ".") as directory:
            _remove_stale(listener, directory, name)
            _bind(sock, directory, name, listener.mode if listener.mode >= 0 else DEFAULT_MODE)
            try:
                status = _give(listener, directory, name, owner)
                sock.file = status.st_dev, status.st_ino
                sock.listen(backlog)
            except (OSError, SetupError):
                with suppress(OSError):
                    directory.unlink(name)
                raise
    except (OSError, SetupError) as error:
        sock.close()
        if isinstance(error, SetupError):
            raise SetupError(f"cannot listen on {listener.endpoint}: {error}", error.permission) from error
        raise _setup_error(listener, error) from error
    return sock


def check_unix(listener: Listener) -> None:
    """Raises `SetupError` for a user, a group or a directory that does not exist, and for another file at the path.

    A caller who could make the socket, and is therefore taken for the server's user, must also be able to give it away.
    """
    owner = _owner(listener)
    head, name = os.path.split(listener.address)
    try:
        with Directory(head or ".") as directory:
            try:
                if not stat.S_ISSOCK(directory.stat(name).st_mode):
                    raise SetupError(
                        f"cannot listen on {listener.endpoint}: there is something else than a socket at that path"
                    )
            except FileNotFoundError:
                pass
            if os.access(head or ".", os.W_OK | os.X_OK) and not _may_give(directory, owner):
                raise SetupError(
                    f"cannot listen on {listener.endpoint}: {os.strerror(errno.EPERM)} ({_give_hint(listener)})",
                    permission=True,
                )
    except OSError as error:
        raise _setup_error(listener, error) from error


def _may_give(directory: Directory, owner: Owner) -> bool:
    """Whether this user may give a socket that it makes in the directory to the owner (chown(2), inode(7))."""
    if os.geteuid() == 0:
        return True
    status = os.fstat(directory.descriptor)
    own_group = status.st_gid if status.st_mode & stat.S_ISGID else os.getegid()
    return owner[0] in (-1, os.geteuid()) and owner[1] in (-1, own_group, os.getegid(), *os.getgroups())


def _owner(listener: Listener) -> Owner:
    return (
        _id(listener, "user", listener.user, lambda name: pwd.getpwnam(name).pw_uid),
        _id(listener, "group", listener.group, lambda name: grp.getgrnam(name).gr_gid),
    )


def _bind(sock: UnixListener, directory: Directory, name: str, mode: int) -> None:
    umask = os.umask(0o777 & ~mode)
    try:
        directory.bind(sock, name)
    finally:
        os.umask(umask)


def _give(listener: Listener, directory: Directory, name: str, owner: Owner) -> os.stat_result:
    try:
        return directory.give_socket(name, owner)
    except PermissionError as error:
        raise SetupError(f"{error.strerror} ({_give_hint(listener)})", permission=True) from error


def _give_hint(listener: Listener) -> str:
    hint = f"giving it to {listener.user or '-'}:{listener.group or '-'} needs root"
    return f"{hint}, or for the group alone a directory of that group with the setgid bit" if listener.group else hint


def _setup_error(listener: Listener, error: OSError) -> SetupError:
    directory = os.path.dirname(listener.address) or "."
    permission = error.errno in (errno.EACCES, errno.EPERM)
    hint = ""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        hint = f"there is no directory {directory}"
    elif error.errno == errno.ELOOP:
        hint = "another user can replace a symbolic link in the path"
    elif permission:
        hint = f"no right to write in {directory}"
    text = f"cannot listen on {listener.endpoint}: {error.strerror}" + (f" ({hint})" if hint else "")
    return SetupError(text, permission)


def _id(listener: Listener, what: str, name: str, find: Callable[[str], int]) -> int:
    """The id of a user or group that is given by name or number; -1 if none is given, as chown(2) expects."""
    if not name:
        return -1
    try:
        number = int(name) if name.isdecimal() else find(name)
    except (KeyError, ValueError):
        number = _MAX_ID + 1
    if number > _MAX_ID:
        raise SetupError(f"cannot listen on {listener.endpoint}: there is no {what} {name}")
    return number


def _remove_stale(listener: Listener, directory: Directory, name: str) -> None:
    """Remove a socket on which no process listens. Raises `SetupError` for any other file, `OSError`."""
    try:
        before = directory.stat(name)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(before.st_mode):
        raise SetupError("there is something else than a socket at that path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        code = probe.connect_ex(listener.address)
    if code in (0, errno.EAGAIN):
        raise SetupError("something answers there already")
    if code == errno.EPROTOTYPE:
        raise SetupError("there is a socket of another type at that path")
    if code not in (errno.ECONNREFUSED, errno.ENOENT):
        raise OSError(code, os.strerror(code))
    with suppress(FileNotFoundError):
        if os.path.samestat(directory.stat(name), before):
            directory.unlink(name)

"""Directories in which root makes files, although another user may be able to write there or on the way there.

Such a user can put a link or another file in the place of any file between two system calls that use its path. So root
opens directories step by step, follows no link that another user can replace, and then acts on descriptors. What is for
the service user is made with that user's rights wherever the directory is not root's alone (`acting_as`).

The other modules of this package may import this one, as they do `SetupError`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType

from pfxhttpd.io import SetupError

Owner = tuple[int, int]
"""A user id and a group id."""

_OPEN = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_LINKS = 40
"""The kernel's own limit, path_resolution(7)."""
_AT_EMPTY_PATH = 0x1000
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.fchownat.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_int]


class Directory:
    """An open directory. `protected`: no user but root and our own can lead its path to another directory."""

    def __init__(self, path: str) -> None:
        """Raises `OSError`; ELOOP for a symbolic link that another user can replace."""
        self.path = path
        self.descriptor, self.protected = _open(path)

    def __enter__(self) -> Directory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.descriptor)

    @property
    def status(self) -> os.stat_result:
        return os.fstat(self.descriptor)

    @property
    def exclusive(self) -> bool:
        """Whether no user but root and our own can make, rename or remove files in it."""
        return self.protected and _is_exclusive(self.descriptor)

    def stat(self, name: str) -> os.stat_result:
        return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)

    def unlink(self, name: str) -> None:
        os.unlink(name, dir_fd=self.descriptor)

    def bind(self, sock: socket.socket, name: str) -> None:
        """Bind a Unix socket to a new file in the directory.

        bind(2) takes a path. The socket keeps it, and tools show it, so it is the whole path wherever that is safe.
        """
        if self.protected or os.geteuid() != 0:
            sock.bind(os.path.join(self.path, name))
            return
        previous = os.open(".", _OPEN)
        try:
            os.fchdir(self.descriptor)
            sock.bind(name)
        finally:
            os.fchdir(previous)
            os.close(previous)

    def give_socket(self, name: str, owner: Owner) -> os.stat_result:
        """Change the owner of a socket file that this process has just made; -1 leaves an id as it is (chown(2)).

        Returns the file's status. Raises `OSError`, and `SetupError` if another user has replaced the file.
        """
        file = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.descriptor)
        try:
            status = os.fstat(file)
            if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.geteuid() or status.st_nlink != 1:
                raise SetupError(
                    f"{os.path.join(self.path, name)}: another user has replaced the socket", permission=True
                )
            if owner != (-1, -1):
                _change_owner(file, owner)
            return status
        finally:
            os.close(file)

    def give(self, owner: Owner) -> None:
        """Change the owner of the directory itself. Raises `OSError`."""
        _change_owner(self.descriptor, owner)

    def remove_dead_sockets(self) -> bool:
        """Whether the directory holds nothing but sockets on which no process listens, and directories of such sockets.

        If so, they are removed. Only for a directory that is `exclusive`.
        """
        names = self._names()
        inner = [Directory(os.path.join(self.path, name)) for name in names if stat.S_ISDIR(self.stat(name).st_mode)]
        try:
            files = [(self, name) for name in names if not stat.S_ISDIR(self.stat(name).st_mode)]
            files += [(directory, name) for directory in inner for name in directory._names()]
            if not all(directory.is_dead_socket(name) for directory, name in files):
                return False
            for directory, name in files:
                directory.unlink(name)
            for directory in inner:
                os.rmdir(os.path.basename(directory.path), dir_fd=self.descriptor)
            return True
        finally:
            for directory in inner:
                os.close(directory.descriptor)

    def is_dead_socket(self, name: str) -> bool:
        """Whether the file is a socket on which no process listens."""
        if not stat.S_ISSOCK(self.stat(name).st_mode):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            return probe.connect_ex(os.path.join(self.path, name)) == errno.ECONNREFUSED

    def _names(self) -> list[str]:
        readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.descriptor)
        try:
            return os.listdir(readable)
        finally:
            os.close(readable)


@contextmanager
def acting_as(owner: Owner | None) -> Iterator[None]:
    """Have root's file operations done with the rights of `owner` and no other group; without an owner, do nothing.

    The real user id stays root's, so `owner` cannot interfere with the process. Raises `OSError`.
    """
    if owner is None or os.geteuid() != 0:
        yield
        return
    group, groups = os.getegid(), os.getgroups()
    try:
        os.setgroups([owner[1]])
        os.setegid(owner[1])
        os.seteuid(owner[0])
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def make(what: str, path: str, owner: Owner | None = None, made: list[str] | None = None) -> None:
    """Make a directory with mode 0700 that belongs to `owner`, unless it exists. Missing parents get mode 0755.

    What is made is added to `made`, also when the rest fails. Raises `SetupError`, whose message begins with `what`; also
    when the directory exists and belongs to another user than root or the owner.
    """
    made = [] if made is None else made
    try:
        try:
            opened = Directory(path)
        except FileNotFoundError:
            _create(path, owner, made)
            opened = Directory(path)
    except OSError as error:
        raise _refused(what, path, error) from error
    _check_owner(what, path, opened, owner)


def check(what: str, path: str, owner: Owner | None = None) -> None:
    """Raise the `SetupError` that `make` would raise, as far as it can be seen without making anything."""
    existing = path.rstrip("/") or "/"
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing) or "."
    try:
        opened = Directory(existing)
    except OSError as error:
        raise _refused(what, path, error) from error
    if existing == (path.rstrip("/") or "/"):
        _check_owner(what, path, opened, owner)
        return
    with opened:
        if not os.access(existing, os.W_OK | os.X_OK):
            raise _refused(what, path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def _refused(what: str, path: str, error: OSError) -> SetupError:
    return SetupError(f"{what} {path}: {error.strerror or error}", isinstance(error, PermissionError))


def _check_owner(what: str, path: str, opened: Directory, owner: Owner | None) -> None:
    """Close the directory. Raises `SetupError` if it belongs to another user than root or the owner."""
    with opened:
        user, wanted = opened.status.st_uid, owner[0] if owner else os.geteuid()
    if user not in (0, wanted):
        raise SetupError(
            f"{what} {path}: it belongs to user {user}; remove it, or give it to user {wanted}", permission=True
        )


def remove(made: list[str]) -> None:
    """Remove the directories that `make` has made, unless there is something in them."""
    for path in reversed(made):
        above, name = os.path.split(path)
        with suppress(OSError), Directory(above or ".") as parent:
            os.rmdir(name, dir_fd=parent.descriptor)


def _create(path: str, owner: Owner | None, made: list[str], is_parent: bool = False) -> None:
    path = path.rstrip("/")
    above, name = os.path.split(path)
    above = above or "."
    if not os.path.lexists(above):
        _create(above, owner, made, is_parent=True)
    with Directory(above) as parent:
        exclusive = parent.exclusive
        umask = os.umask(0)
        try:
            with acting_as(None if exclusive else owner):
                os.mkdir(name, 0o755 if is_parent else 0o700, dir_fd=parent.descriptor)
            made.append(path)
        finally:
            os.umask(umask)
        if owner and exclusive and not is_parent:
            with Directory(path) as opened:
                opened.give(owner)


def _open(path: str) -> tuple[int, bool]:
    """A descriptor of the directory, and whether its path is protected."""
    current = os.open("/" if path.startswith("/") else ".", _OPEN)
    protected, links = True, 0
    pending = path.split("/")
    try:
        while pending:
            name = pending.pop(0)
            if name in ("", "."):
                continue
            step_protected = name == ".." or _is_protected(current, name)
            target = _link_target(current, name)
            if target is None:
                following = os.open(name, _OPEN, dir_fd=current)
                protected = protected and step_protected
            else:
                links += 1
                if not step_protected or links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                following = os.open("/" if target.startswith("/") else ".", _OPEN, dir_fd=current)
                pending[:0] = target.split("/")
            os.close(current)
            current = following
    except BaseException:
        os.close(current)
        raise
    return current, protected


def _link_target(directory: int, name: str) -> str | None:
    """Where a symbolic link leads, None for any other file. Raises `OSError`."""
    with suppress(OSError):  # EINVAL: it is not a link
        return os.readlink(name, dir_fd=directory)
    return None


def _is_protected(directory: int, name: str) -> bool:
    """Whether no user but root and our own can replace this file of the directory. Raises `OSError`."""
    if _is_exclusive(directory):
        return True
    status = os.fstat(directory)
    if status.st_uid not in (0, os.geteuid()) or not status.st_mode & stat.S_ISVTX:
        return False
    return os.stat(name, dir_fd=directory, follow_symlinks=False).st_uid in (0, os.geteuid())


def _is_exclusive(directory: int) -> bool:
    status = os.fstat(directory)
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & 0o022


def _change_owner(file: int, owner: Owner) -> None:
    """chown(2) for a descriptor that was opened with O_PATH, which fchown(2) refuses."""
    user, group = (number & 0xFFFFFFFF for number in owner)
    if _LIBC.fchownat(file, b"", user, group, _AT_EMPTY_PATH):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))

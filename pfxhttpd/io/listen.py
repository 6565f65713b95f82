"""The sockets that clients connect to: bound here, or taken over from systemd, and given back at the end.

A Unix socket gets its mode from the umask at bind, then its owner, and listens only then: whoever may not use it finds
it closed at every moment. No `chmod` follows a name, so the owner of the directory cannot aim one at another file.
Binding to a second name and renaming would hide the moment in which a socket refuses, but `ss` would show the
second name forever.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import socket
import stat
import struct
from collections.abc import Callable
from contextlib import suppress

from pfxhttpd.config.settings import Listener
from pfxhttpd.io import SetupError

LONGEST_PATH = 107
"""Bytes of a Unix socket's path, unix(7)."""

HIGHEST_ID = 2**32 - 2

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: SO_PEERCRED, unix(7)


class ListeningSocket(socket.socket):
    """A listening socket that remembers which file it made: `path` and the file's device and inode."""

    __slots__ = ("file", "path")

    path: str
    file: tuple[int, int]


def bind(listener: Listener, backlog: int) -> socket.socket:
    """The listening socket that `listener` describes: non-blocking, closed on exec.

    Raises ListenError. A Unix socket's stale file is replaced; one that something answers on is left alone.
    """
    if listener.type == "unix":
        return _bind_unix(listener, backlog)
    host = listener.address.strip("[]")
    dual = listener.type == "tcp" and host in ("", "::")
    try:
        family, address = _resolve(listener, host)
        try:
            return _bind_tcp(family, address, backlog, only_ipv6=not dual)
        except OSError as failure:
            if dual and failure.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                return _bind_tcp(socket.AF_INET, ("0.0.0.0", listener.port), backlog, only_ipv6=False)
            raise
    except OSError as failure:
        raise _refused(listener, failure) from failure


def _resolve(listener: Listener, host: str) -> tuple[int, tuple]:
    """Family and address to bind to. Of a name's several addresses the first, an IPv4 one if `tcp` has the choice."""
    if host in ("", "::"):
        return socket.AF_INET6, ("::", listener.port)
    family = socket.AF_INET6 if listener.type == "tcp6" else socket.AF_UNSPEC
    try:
        found = socket.getaddrinfo(host, listener.port, family, socket.SOCK_STREAM, 0, socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as failure:
        wanted = "an IPv6 address" if listener.type == "tcp6" else "an address of this machine"
        reason = failure.strerror if isinstance(failure, OSError) else failure
        raise SetupError(f"cannot listen on {listener.endpoint}: {host} is not {wanted}: {reason}") from failure
    found.sort(key=lambda one: one[0] != socket.AF_INET)
    return found[0][0], found[0][4]


def _bind_tcp(family: int, address: tuple, backlog: int, only_ipv6: bool) -> socket.socket:
    door = ListeningSocket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            door.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only_ipv6))
        set_tcp_options(door)
        door.bind(address)
        door.listen(backlog)
    except OSError:
        door.close()
        raise
    return door


def set_tcp_options(door: socket.socket) -> None:
    """What accepted TCP connections inherit (tcp(7)): answers leave at once, and a client that vanished is noticed."""
    door.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _refused(listener: Listener, failure: OSError) -> SetupError:
    hints = {
        errno.EACCES: "ports below 1024 need root or CAP_NET_BIND_SERVICE" if 0 < listener.port < 1024 else "",
        errno.EADDRINUSE: "another process listens there",
        errno.EADDRNOTAVAIL: "this machine has no such address",
    }
    hint = hints.get(failure.errno or 0, "")
    text = f"cannot listen on {listener.endpoint}: {failure.strerror}" + (f" ({hint})" if hint else "")
    return SetupError(text, permission=failure.errno in (errno.EACCES, errno.EPERM))


def _bind_unix(listener: Listener, backlog: int) -> socket.socket:
    path = listener.address
    if not path or "\0" in path:
        raise SetupError(f"cannot listen on {listener.endpoint}: that is no path")
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise SetupError(f"cannot listen on {listener.endpoint}: the path is longer than {LONGEST_PATH} bytes")
    owner = (
        _id(listener, "user", listener.user, lambda name: pwd.getpwnam(name).pw_uid),
        _id(listener, "group", listener.group, lambda name: grp.getgrnam(name).gr_gid),
    )
    door = ListeningSocket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    made = False
    try:
        _remove_stale(listener)
        old_umask = os.umask(0o777 & ~listener.mode) if listener.mode >= 0 else None
        try:
            door.bind(path)
        finally:
            if old_umask is not None:
                os.umask(old_umask)
        made = True
        if owner != (-1, -1):
            os.chown(path, *owner, follow_symlinks=False)
        status = os.lstat(path)
        door.path, door.file = path, (status.st_dev, status.st_ino)
        door.listen(backlog)
    except (OSError, SetupError) as failure:
        door.close()
        if made:
            with suppress(OSError):
                os.unlink(path)
        if isinstance(failure, SetupError):
            raise
        raise _unix_refused(listener, failure, made) from failure
    return door


def _unix_refused(listener: Listener, failure: OSError, made: bool) -> SetupError:
    directory = os.path.dirname(listener.address) or "."
    permission = failure.errno in (errno.EACCES, errno.EPERM)
    hint = ""
    if made and permission:
        hint = f"giving it to {listener.user or '-'}:{listener.group or '-'} needs root"
    elif failure.errno in (errno.ENOENT, errno.ENOTDIR):
        hint = f"there is no directory {directory}"
    elif permission:
        hint = f"no right to write in {directory}"
    text = f"cannot listen on {listener.endpoint}: {failure.strerror}" + (f" ({hint})" if hint else "")
    return SetupError(text, permission)


def _id(listener: Listener, what: str, name: str, find: Callable[[str], int]) -> int:
    """The number of a user or group, given by name or number; -1 where none is given, as chown(2) takes it."""
    if not name:
        return -1
    try:
        number = int(name) if name.isdecimal() else find(name)
    except (KeyError, ValueError):
        number = HIGHEST_ID + 1
    if number > HIGHEST_ID:
        raise SetupError(f"cannot listen on {listener.endpoint}: there is no {what} {name}")
    return number


def _remove_stale(listener: Listener) -> None:
    """Makes room at the path: removes a socket that nobody answers on, and refuses for anything else."""
    try:
        status = os.lstat(listener.address)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise SetupError(f"cannot listen on {listener.endpoint}: there is something else than a socket at that path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        code = probe.connect_ex(listener.address)
    if code in (0, errno.EAGAIN):
        raise SetupError(f"cannot listen on {listener.endpoint}: something answers there already")
    if code == errno.EPROTOTYPE:
        raise SetupError(f"cannot listen on {listener.endpoint}: there is a socket of another type at that path")
    if code not in (errno.ECONNREFUSED, errno.ENOENT):
        raise OSError(code, os.strerror(code))
    if _is_file(listener.address, (status.st_dev, status.st_ino)):
        os.unlink(listener.address)


def _is_file(path: str, file: tuple[int, int]) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == file


def retire(door: socket.socket) -> bool:
    """Closes a listening socket, in every process that has it, and removes the file it made, unless another server's is
    there by now. A socket of systemd's stays open for who comes after us.

    Returns whether a file was removed. Inside a jail, or without the right to write in the directory, none is: the
    next start replaces it.
    """
    path = getattr(door, "path", "")
    removed = False
    if path and _is_file(path, door.file):  # type: ignore[attr-defined]
        with suppress(OSError):
            os.unlink(path)
            removed = True
    shut_down(door)
    door.close()
    return removed


def shut_down(sock: socket.socket) -> None:
    """Stop listening, in every process that has the socket; another process may bind its address then. A socket that
    systemd passed is left as it is."""
    if isinstance(sock, ListeningSocket):
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def peer_name(client: socket.socket, address: object) -> str:
    """How a client shows in logs: `127.0.0.1:12345`, `[::1]:12345`, `unix:pid=123`. `address` is what accept gave."""
    if isinstance(address, tuple):
        host, port = address[0], address[1]
        if ":" not in host:
            return f"{host}:{port}"
        if host.startswith("::ffff:") and "." in host:
            return f"{host[7:]}:{port}"
        return f"[{host}]:{port}"
    try:
        pid, _, _ = _CREDENTIALS.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    except OSError:
        return "unix"
    return f"unix:pid={pid}" if pid else "unix"

"""The sockets that clients connect to: bound, and closed at the end.

tcp   IPv4, IPv6 and dual-stack addresses
unix  Unix sockets with mode and owner
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress

from pfxhttpd.config.settings import Listener
from pfxhttpd.io.listen.tcp import TcpListener, bind_tcp, check_tcp, set_tcp_options
from pfxhttpd.io.listen.unix import UnixListener, bind_unix, check_unix

__all__ = [
    "TcpListener",
    "UnixListener",
    "backlog",
    "bind",
    "peer_name",
    "remove_file",
    "retire",
    "set_tcp_options",
    "shut_down",
]

_CREDENTIALS = struct.Struct("3i")
"""Process, user and group id: SO_PEERCRED, unix(7)."""


def bind(listener: Listener, backlog: int, own: Iterable[socket.socket] = ()) -> socket.socket:
    """The listening socket that `listener` describes: non-blocking, closed on exec. `own` are those that we have already.

    Raises `SetupError`. A Unix socket's file is replaced if no process listens on it, and left alone otherwise.
    """
    return bind_unix(listener, backlog) if listener.type == "unix" else bind_tcp(listener, backlog, own)


def check(listener: Listener) -> None:
    """Raises `SetupError` for what `bind` would refuse, without binding. Whether the port or path is in use is not checked,
    since the running server uses it. Nothing is known of a socket that systemd passes.
    """
    if not listener.systemd_socket_name:
        check_unix(listener) if listener.type == "unix" else check_tcp(listener)


def retire(sock: socket.socket) -> bool:
    """Stop listening, in every process that has the socket, and remove its file unless it is another server's by now.

    A socket that systemd passed is closed in this process only, since systemd passes it to the next server as well.
    Returns whether a file was removed. Inside a chroot, or without permission to write in the directory, none is; the
    next start replaces it.
    """
    removed = remove_file(sock)
    shut_down(sock)
    sock.close()
    return removed


def remove_file(sock: socket.socket) -> bool:
    """Remove the file of a Unix socket that we have bound, unless it is another server's by now. Returns whether it was
    removed."""
    return isinstance(sock, UnixListener) and sock.remove_file()


def shut_down(sock: socket.socket) -> None:
    """Stop listening, in every process that has the socket; another process may bind its address then. A socket that
    systemd passed is left as it is."""
    if isinstance(sock, (TcpListener, UnixListener)):
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def backlog(sock: socket.socket) -> int:
    """How many clients wait for their connection to be accepted; for a Unix socket 1 if there is any.

    For a listening TCP socket, tcpi_unacked is the length of that queue (tcp(7)).
    """
    if sock.family != socket.AF_UNIX:
        with suppress(OSError):
            return int.from_bytes(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)[24:28], "little")
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return int(any(events & select.POLLIN for _, events in poll.poll(0)))


def peer_name(client: socket.socket, address: object) -> str:
    """The client's name in log lines: `127.0.0.1:12345`, `[::1]:12345`, `unix:pid=123`. `address` is from accept(2)."""
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

"""TCP listeners: IPv4, IPv6, or both on one socket (ipv6(7), IPV6_V6ONLY)."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterable
from typing import Any

from pfxhttpd.config.settings import Listener
from pfxhttpd.io import SetupError

Address = tuple[Any, ...]

LOOKUP_TIMEOUT = 5.0
"""Seconds for the lookup of a host name."""


class TcpListener(socket.socket):
    """A listening socket that we have bound, not systemd."""

    __slots__ = ()


def bind_tcp(listener: Listener, backlog: int, own: Iterable[socket.socket] = ()) -> TcpListener:
    """Raises `SetupError`; if the address overlaps that of one of our `own` sockets, the message says so."""
    host = listener.address.strip("[]")
    dual = listener.type == "tcp" and host in ("", "::")
    family, address = _resolve(listener, host)
    try:
        try:
            return _bind(family, address, backlog, only_ipv6=not dual)
        except OSError as error:
            if dual and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                return _bind(socket.AF_INET, ("0.0.0.0", listener.port), backlog, only_ipv6=False)
            raise
    except OSError as error:
        raise _setup_error(listener, error, _overlap(address, own)) from error


def check_tcp(listener: Listener) -> None:
    """Raises `SetupError` if the address is not one of this machine. It is bound with another port for a moment."""
    host = listener.address.strip("[]")
    family, address = _resolve(listener, host)
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        try:
            sock.bind((address[0], 0, *address[2:]))
        except OSError as error:
            if host in ("", "::") and listener.type == "tcp":
                return  # then only IPv4 is bound
            raise _setup_error(listener, error, "") from error


def _resolve(listener: Listener, host: str) -> tuple[int, Address]:
    """Family and address to bind to. Of several addresses the first; with type `tcp` the first IPv4 address, if any."""
    if host in ("", "::"):
        return socket.AF_INET6, ("::", listener.port)
    family = socket.AF_INET6 if listener.type == "tcp6" else socket.AF_UNSPEC
    try:
        found = _look_up(host, listener.port, family)
    except TimeoutError as error:
        raise SetupError(
            f"cannot listen on {listener.endpoint}: the lookup of {host} took longer than {LOOKUP_TIMEOUT:g} s"
        ) from error
    except (socket.gaierror, UnicodeError) as error:
        wanted = "an IPv6 address" if listener.type == "tcp6" else "an address of this machine"
        reason = error.strerror if isinstance(error, OSError) else error
        raise SetupError(f"cannot listen on {listener.endpoint}: {host} is not {wanted}: {reason}") from error
    found.sort(key=lambda one: one[0] != socket.AF_INET)
    return found[0]


def _look_up(host: str, port: int, family: int) -> list[tuple[int, Address]]:
    """Families and addresses, as getaddrinfo(3) gives them. Raises `TimeoutError`, `socket.gaierror`, `UnicodeError`.

    The resolver's own time limits can add up to minutes, during which the master would do nothing else, and the call cannot
    be interrupted. So a name is looked up in a thread, which is left alone if it takes too long.
    """
    outcome: list[list[tuple[int, Address]] | Exception] = []

    def look_up(flags: int) -> list[tuple[int, Address]]:
        found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, 0, flags | socket.AI_PASSIVE)
        return [(one[0], one[4]) for one in found]

    def run() -> None:
        try:
            outcome.append(look_up(0))
        except (socket.gaierror, UnicodeError) as error:
            outcome.append(error)

    try:
        return look_up(socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        pass  # it is a name
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(LOOKUP_TIMEOUT)
    if not outcome:
        raise TimeoutError
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def _bind(family: int, address: Address, backlog: int, only_ipv6: bool) -> TcpListener:
    sock = TcpListener(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only_ipv6))
        set_tcp_options(sock)
        sock.bind(address)
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    return sock


def set_tcp_options(sock: socket.socket) -> None:
    """Set what accepted connections inherit (tcp(7)): replies are sent at once, and a vanished client is detected."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _setup_error(listener: Listener, error: OSError, overlap: str) -> SetupError:
    hints = {
        errno.EACCES: "ports below 1024 need root or CAP_NET_BIND_SERVICE" if 0 < listener.port < 1024 else "",
        errno.EADDRINUSE: overlap or "another process listens there",
        errno.EADDRNOTAVAIL: "this machine has no such address",
    }
    hint = hints.get(error.errno or 0, "")
    text = f"cannot listen on {listener.endpoint}: {error.strerror}" + (f" ({hint})" if hint else "")
    return SetupError(text, permission=error.errno in (errno.EACCES, errno.EPERM))


def _overlap(address: Address, own: Iterable[socket.socket]) -> str:
    """What to do when one of our own sockets has the port, and one of both addresses includes the other.

    Linux lets no socket listen on such an address, and to close ours first would refuse connections in between.
    """
    for sock in own:
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            host, port = sock.getsockname()[:2]
            if port == address[1] and (host == address[0] or {host, address[0]} & {"::", "0.0.0.0"}):
                shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
                return f"this server itself listens on {shown}, which a reload cannot widen or narrow: restart it"
    return ""

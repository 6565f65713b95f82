"""What a listener binds, compared with what others bind, before any of them is bound."""

from __future__ import annotations

import os.path
from typing import NamedTuple

from pfxhttpd.config import values
from pfxhttpd.config.node import Node


class TcpEndpoint(NamedTuple):
    """A port on one host, or (host "") on every address of the families.

    The families are 4, 6 and 46. 46 stands for a host name, whose family is known only when it is bound.
    """

    families: frozenset[int]
    host: str
    port: int

    def overlaps(self, other: TcpEndpoint) -> bool:
        if self.port != other.port:
            return False
        if self.host and other.host:
            return self.host == other.host
        return bool(self.families & other.families)


def listener_endpoint(listener: Node) -> str | TcpEndpoint | None:
    """What the listener binds, to be compared with the others; None when it is not known."""
    if listener.scalar("systemd_socket_name"):
        return f"systemd:{listener.scalar('systemd_socket_name')}"
    if listener.dropped & {"type", "address", "port", "systemd_socket_name"}:
        return None
    host, port = listener.scalar("address") or "", listener.scalar("port")
    if listener.scalar("type") == "unix":
        return f"unix:{os.path.normpath(host)}" if host else None
    if port is None:
        return None
    return tcp_endpoint(host, port, only_v6=listener.scalar("type") == "tcp6")


def tcp_endpoint(host: str, port: int, only_v6: bool = False) -> TcpEndpoint:
    """What a TCP listener binds. `only_v6` says what an empty host or [::] stands for."""
    address = values.ip_address(host)
    if not host or (address is not None and address.version == 6 and address.is_unspecified):
        families = {6} if only_v6 else {4, 6, 46}
        return TcpEndpoint(frozenset(families), "", port)
    if address is None:
        return TcpEndpoint(frozenset({46}), host.lower(), port)
    return TcpEndpoint(frozenset({address.version}), "" if address.is_unspecified else str(address), port)


def overlap(one: str | TcpEndpoint, other: str | TcpEndpoint) -> bool:
    """Whether the two cannot be bound together."""
    if isinstance(one, TcpEndpoint) and isinstance(other, TcpEndpoint):
        return one.overlaps(other)
    return one == other

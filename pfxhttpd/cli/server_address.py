"""The address at which a running server is asked: as given, or that of a listener in the configuration."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pfxhttpd.cli import CommandError, UsageError, configuration
from pfxhttpd.config.errors import ConfigError
from pfxhttpd.config.node import Node
from pfxhttpd.config.settings import SOCKET_MAP, Listener


@dataclass(frozen=True, slots=True)
class Address:
    """The path of a Unix socket, or a host and a port."""

    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"inet:[{self.host}]:{self.port}" if ":" in self.host else f"inet:{self.host}:{self.port}"

    def connect(self, timeout: float) -> socket.socket:
        """A connection made within `timeout` seconds. Raises OSError, of which TimeoutError is a subclass."""
        if not self.path:
            return socket.create_connection((self.host, self.port), timeout)
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(timeout)
            connection.connect(self.path)
        except BaseException:
            connection.close()
            raise
        return connection


def parse(text: str) -> Address:
    """`unix:/path` or `inet:host:port`, as in Postfix's main.cf. Raises `UsageError`."""
    kind, _, rest = text.partition(":")
    if kind == "unix" and rest:
        return Address(path=rest)
    host, _, port = rest.rpartition(":")
    if kind in ("inet", "tcp") and port.isascii() and port.isdigit() and int(port[:6]) in range(1, 65536):
        return Address(host=_connectable(host), port=int(port))
    raise UsageError(f"{text!r} is no address: expected unix:/path or inet:host:port")


def configured(options: argparse.Namespace, environ: Mapping[str, str], kind: str, name: str) -> Address:
    """The address of the listener in the configuration that answers for `name`.

    Only the listeners are looked at, so that mistakes elsewhere in the file do not matter. Raises `CommandError`.
    """
    try:
        file = configuration.path(options, environ)
        found = choose(_listeners(configuration.tree(file, options.format, environ)), kind, name)
        if found is None:
            # The validated configuration tells whether a listener is wrong or missing.
            listeners = configuration.load(file, options.format, environ).settings.server.listen
            found = choose(listeners, kind, name)
    except ConfigError as error:
        raise CommandError(f"{error}\npfxhttpd: --address works without a configuration", os.EX_CONFIG) from None
    if found is None:
        named = f" named {name}" if any(listener.kind == kind for listener in listeners) else ""
        raise CommandError(
            f"the configuration {file} has no {kind} listener{named}; give the address with --address", os.EX_CONFIG
        )
    return of_listener(found)


def _listeners(root: Node) -> list[Listener]:
    """The listeners of a tree that is not validated, without those whose values have another type."""
    listen = root.get("server", "listen")
    found = []
    for _, node in listen.children() if listen else ():
        texts = [node.scalar(key) or "" for key in ("kind", "name", "type", "address", "systemd_socket_name")]
        port = node.scalar("port") or 0
        if isinstance(port, int) and all(isinstance(text, str) for text in texts):
            kind, name, type, address, socket_name = texts
            found.append(Listener(kind, name, type or "tcp", address, port, systemd_socket_name=socket_name))
    return found


def choose(listeners: Sequence[Listener], kind: str, name: str) -> Listener | None:
    """The listener to ask for `name`.

    The request names the socket map, so any socket map listener can answer; one with the same name is preferred. A
    policy or SASL service is chosen by its listener.
    """
    candidates = [listener for listener in listeners if listener.kind == kind]
    same_name = [listener for listener in candidates if listener.name == name]
    if kind == SOCKET_MAP:
        same_name += candidates
    return same_name[0] if same_name else None


def of_listener(listener: Listener) -> Address:
    """Where the listener can be reached from its own machine. Raises `CommandError` when only systemd knows it."""
    if listener.systemd_socket_name:
        raise CommandError(
            f"systemd knows the address of the listener {listener.name}, the configuration does not;"
            " give the address with --address",
            os.EX_CONFIG,
        )
    if listener.type == "unix":
        return Address(path=listener.address)
    return Address(host=_connectable(listener.address, listener.type == "tcp6"), port=listener.port)


def _connectable(host: str, only_ipv6: bool = False) -> str:
    """The host to connect to for a server that listens on `host`: the loopback address for an unspecified one."""
    host = host.removeprefix("[").removesuffix("]")
    if host in ("", "::", "0.0.0.0", "*"):
        return "::1" if only_ipv6 else "127.0.0.1"
    return host

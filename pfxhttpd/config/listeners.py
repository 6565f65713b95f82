"""What the schema cannot say about listeners: addresses that fit their type, no two on one address, names with an entry."""

from __future__ import annotations

import os.path
from typing import NamedTuple

from pfxhttpd.config.nearest import did_you_mean
from pfxhttpd.config.node import Node, dotted, shown
from pfxhttpd.config.problem import Problem
from pfxhttpd.config.settings import SECTIONS, SOCKET_MAP
from pfxhttpd.config.url import address, host_fault

LONGEST_UNIX_PATH = 107
"""Bytes in sockaddr_un, unix(7), without the final NUL."""

_ONLY_UNIX = ("mode", "user", "group")


class _Claim(NamedTuple):
    """What a TCP listener takes: a port, on one host or (host "") on all of the families."""

    families: frozenset[int]
    host: str
    port: int

    def overlaps(self, other: _Claim) -> bool:
        if self.port != other.port:
            return False
        if self.host and other.host:
            return self.host == other.host
        return bool(self.families & other.families)


def problems(root: Node) -> list[Problem]:
    """Everything that is wrong with `server.listen`. The tree has no defaults in it yet."""
    found: list[Problem] = []
    taken: list[tuple[str | _Claim, Node]] = []
    listen = root.get("server", "listen")
    for listener in listen.value if listen is not None else ():
        found += _name(listener, root)
        found += _form(listener)
        claim = _claim(listener)
        if claim is None:
            continue
        other = next((there for held, there in taken if _clash(held, claim)), None)
        if other is not None:
            at = listener.get("systemd_socket_name") or listener.get("address") or listener
            found.append(at.wrong(f"the address is taken by {dotted(other.path)} in line {other.at.line}"))
        else:
            taken.append((claim, listener))
    return found


def _name(listener: Node, root: Node) -> list[Problem]:
    name, kind = listener.get("name"), listener.scalar("kind")
    if name is None or kind is None:
        return []
    if name.value == "defaults":
        return [name.wrong("no listener can have the name `defaults`, which is a section's block of defaults")]
    section = root.get(SECTIONS[kind])
    entries = set() if section is None else (set(section.value) | section.dropped) - {"defaults"}
    if SECTIONS[kind] in root.dropped:
        return []
    if kind == SOCKET_MAP:
        return [] if entries else [name.wrong("there is no entry under socket_maps that could answer here")]
    if name.value in entries:
        return []
    return [name.wrong(f"no entry {shown(name.value)} under {SECTIONS[kind]}{did_you_mean(name.value, sorted(entries))}")]


def _form(listener: Node) -> list[Problem]:
    if listener.scalar("systemd_socket_name"):
        given = [listener.get(key) for key in _ONLY_UNIX if listener.scalar(key)]
        return [node.wrong_key("has no effect here: systemd makes this socket") for node in given if node]
    if listener.dropped & {"type", "systemd_socket_name"}:
        return []
    if listener.scalar("type") == "unix":
        return _unix_form(listener)
    return _tcp_form(listener)


def _unix_form(listener: Node) -> list[Problem]:
    node = listener.get("address")
    if node is None or not node.value:
        if "address" in listener.dropped:
            return []
        return [listener.child("address", None).wrong_key("is missing: the path of the Unix socket")]
    if not node.value.startswith("/"):
        return [node.wrong("the path of a Unix socket must begin with /")]
    if len(node.value.encode()) > LONGEST_UNIX_PATH:
        return [node.wrong(f"the path of a Unix socket can have {LONGEST_UNIX_PATH} bytes, this has {len(node.value.encode())}")]
    if node.value.endswith("/"):
        return [node.wrong("the path of a Unix socket must name a file, not a directory")]
    return []


def _tcp_form(listener: Node) -> list[Problem]:
    found = [node.wrong_key("has no effect here: only a unix listener has it")
             for key in _ONLY_UNIX if (node := listener.get(key)) and node.value]
    if listener.get("port") is None and "port" not in listener.dropped:
        found.append(listener.child("port", None).wrong_key("is missing"))
    node = listener.get("address")
    if node is None or not node.value:
        return found
    host = node.value
    literal = address(host)
    head, _, tail = host.rpartition(":")
    if host.startswith("/"):
        found.append(node.wrong("a path is the address of a listener of type unix"))
    elif literal is None and tail.isdigit() and host_fault(head) is None:
        found.append(node.wrong("the port belongs in `port`"))
    elif host_fault(host) is not None:
        found.append(node.wrong(f"{host_fault(host)}"))
    elif listener.scalar("type") == "tcp6" and literal is not None and literal.version == 4:
        found.append(node.wrong("an IPv4 address cannot be bound by a listener of type tcp6"))
    return found


def _claim(listener: Node) -> str | _Claim | None:
    """What nobody else may bind; None when that cannot be told."""
    if listener.scalar("systemd_socket_name"):
        return f"systemd:{listener.scalar('systemd_socket_name')}"
    if listener.dropped & {"type", "address", "port", "systemd_socket_name"}:
        return None
    host, port = listener.scalar("address") or "", listener.scalar("port")
    if listener.scalar("type") == "unix":
        return f"unix:{os.path.normpath(host)}" if host else None
    if port is None:
        return None
    literal = address(host)
    both, six = frozenset({4, 6, 46}), frozenset({6})
    if not host or literal is not None and literal.version == 6 and literal.is_unspecified:
        return _Claim(six if listener.scalar("type") == "tcp6" else both, "", port)
    if literal is None:
        # Which family a name has is known only when it is bound; the dual-stack wildcard has both.
        return _Claim(frozenset({46}), host.lower(), port)
    return _Claim(frozenset({literal.version}), "" if literal.is_unspecified else str(literal), port)


def _clash(held: str | _Claim, claim: str | _Claim) -> bool:
    if isinstance(held, _Claim) and isinstance(claim, _Claim):
        return held.overlaps(claim)
    return held == claim

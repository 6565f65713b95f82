"""The checks that the schema cannot express, for listeners, entries and `server`.

`written_problems` checks blocks as they were written, `defaults` included. `merged_problems` checks an entry with the
defaults merged in.
"""

from __future__ import annotations

import os.path
from collections.abc import Iterator
from typing import NamedTuple

from pfxhttpd.config import values
from pfxhttpd.config.defaults import FILE
from pfxhttpd.config.errors import Problem
from pfxhttpd.config.node import Node, dotted, shown
from pfxhttpd.config.schema import did_you_mean
from pfxhttpd.config.settings import DOVECOT_SASL, SECTIONS, SOCKET_MAP, Entry, Settings
from pfxhttpd.config.values import host_error, ip_address, proxy_error, target_error, url_error

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


def listener_problems(root: Node) -> list[Problem]:
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
    return [
        name.wrong(f"no entry {shown(name.value)} under {SECTIONS[kind]}{did_you_mean(name.value, sorted(entries))}")
    ]


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
        return [
            node.wrong(
                f"the path of a Unix socket can have {LONGEST_UNIX_PATH} bytes, this has {len(node.value.encode())}"
            )
        ]
    if node.value.endswith("/"):
        return [node.wrong("the path of a Unix socket must name a file, not a directory")]
    return []


def _tcp_form(listener: Node) -> list[Problem]:
    found = [
        node.wrong_key("has no effect here: only a unix listener has it")
        for key in _ONLY_UNIX
        if (node := listener.get(key)) and node.value
    ]
    if listener.get("port") is None and "port" not in listener.dropped:
        found.append(listener.child("port", None).wrong_key("is missing"))
    node = listener.get("address")
    if node is None or not node.value:
        return found
    host = node.value
    literal = ip_address(host)
    head, _, tail = host.rpartition(":")
    if host.startswith("/"):
        found.append(node.wrong("a path is the address of a listener of type unix"))
    elif literal is None and tail.isdigit() and host_error(head) is None:
        found.append(node.wrong("the port belongs in `port`"))
    elif host_error(host) is not None:
        found.append(node.wrong(f"{host_error(host)}"))
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
    literal = ip_address(host)
    both, six = frozenset({4, 6, 46}), frozenset({6})
    if not host or (literal is not None and literal.version == 6 and literal.is_unspecified):
        return _Claim(six if listener.scalar("type") == "tcp6" else both, "", port)
    if literal is None:
        # Which family a name has is known only when it is bound; the dual-stack wildcard has both.
        return _Claim(frozenset({46}), host.lower(), port)
    return _Claim(frozenset({literal.version}), "" if literal.is_unspecified else str(literal), port)


def _clash(held: str | _Claim, claim: str | _Claim) -> bool:
    if isinstance(held, _Claim) and isinstance(claim, _Claim):
        return held.overlaps(claim)
    return held == claim


OIDC_BLOCKS = ("backend_oidc_auth", "sasl_oidc_auth")

_NEEDS = {
    "client_secret_basic": ("client_secret", "client_secret" + FILE),
    "client_secret_post": ("client_secret", "client_secret" + FILE),
    "private_key_jwt": ("private_key" + FILE,),
}
"""What each way to authenticate to a provider cannot do without: one of these keys."""


def server_problems(root: Node) -> Iterator[Problem]:
    """Mistakes in `server` outside its listeners."""
    tls = root.get("server", "tls")
    for one, other in (("cert", "key"), ("key", "cert")):
        node = tls and tls.get(one)
        if node and node.value and not tls.scalar(other) and other not in tls.dropped:
            yield node.wrong(f"a `{one}` needs a `{other}`")
    proxy = root.get("server", "http_client", "proxy")
    fault = proxy_error(proxy.value) if proxy and proxy.value else None
    if proxy and fault:
        yield proxy.wrong(fault)


def written_problems(root: Node) -> Iterator[Problem]:
    """Mistakes within single blocks, each told once where it was written."""
    for section in SECTIONS.values():
        node = root.get(section)
        for _, block in node.children() if node else ():
            yield from _block(block)


def _block(block: Node) -> Iterator[Problem]:
    target = block.get("target")
    fault = target_error(target.value) if target and target.value else None
    if target and fault:
        yield target.wrong(fault)
    lines = block.get("custom_headers")
    for line in lines.value if lines else ():
        try:
            values.parse_header(line.value)
        except ValueError as error:
            yield line.wrong(str(error))
    basic = block.get("http_auth_basic")
    if basic and basic.value and ":" not in basic.value:
        yield basic.wrong("expected user:password, but there is no colon")
    yield from _twice(block)
    for name in OIDC_BLOCKS:
        oidc = block.get(name)
        if oidc:
            yield from _twice(oidc)
            uri = oidc.get("configuration_uri")
            fault = url_error(uri.value) if uri and uri.value else None
            if uri and fault:
                yield uri.wrong(fault)


def _twice(block: Node) -> Iterator[Problem]:
    """Values given both in place and by a file."""
    for key, node in block.children():
        if isinstance(key, str) and node.value and block.scalar(key + FILE):
            yield block.value[key + FILE].wrong_key(f"given together with `{key}`; only one of the two can hold")


def merged_problems(kind: str, entry: Node) -> Iterator[Problem]:
    """What an entry lacks once the defaults are in it."""
    required = ("target",) if kind == DOVECOT_SASL else ("target", "value_field")
    for key in required:
        if not entry.scalar(key) and key not in entry.dropped:
            yield entry.child(key, None).wrong_key("is missing")
    for name in OIDC_BLOCKS:
        oidc = entry.get(name)
        if oidc and oidc.scalar("enabled"):
            yield from _oidc(oidc, name)


def _oidc(oidc: Node, name: str) -> Iterator[Problem]:
    method = auth_method(oidc)
    needed = ["configuration_uri"]
    if name == "backend_oidc_auth" or method != "none":
        needed.append("client_id")
    for key in needed:
        if not oidc.scalar(key) and key not in oidc.dropped:
            yield oidc.child(key, None).wrong_key("is missing")
    ways = _NEEDS.get(method, ())
    if ways and not any(oidc.scalar(way) or way in oidc.dropped for way in ways):
        chosen = oidc.get("auth_method")
        if chosen:
            yield chosen.wrong(f"{method} needs {' or '.join(f'`{way}`' for way in ways)}")


def auth_method(oidc: Node) -> str:
    """How to authenticate to the provider, `auto` resolved as the manual says."""
    named = oidc.scalar("auth_method") or "auto"
    if named != "auto":
        return named
    if oidc.scalar("private_key" + FILE):
        return "private_key_jwt"
    if oidc.scalar("client_secret") or oidc.scalar("client_secret" + FILE):
        return "client_secret_basic"
    return "none"


def unsupported(settings: Settings) -> list[Problem]:
    """One problem for each use. Their places are not known any more; their paths name the entries."""
    found = [
        problem
        for entries in settings.entries.values()
        for entry in entries.values()
        for problem in _of_entry(entry, settings.source)
    ]
    return sorted(found)


def _of_entry(entry: Entry, file: str) -> Iterator[Problem]:
    uses = {
        "backend_oidc_auth": (entry.backend_oidc.enabled, "getting OIDC tokens for a backend"),
        "sasl_oidc_auth": (
            entry.kind == DOVECOT_SASL and entry.sasl_oidc.enabled,
            "validating the OAuth tokens of users",
        ),
    }
    for block, (used, what) in uses.items():
        if used:
            yield Problem(
                file,
                0,
                0,
                dotted((SECTIONS[entry.kind], entry.name, block)),
                f"{what} is not possible in this version (set `enabled: false`)",
            )

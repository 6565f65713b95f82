"""The `custom_headers` of an entry: lines that become header fields (RFC 9110, section 5)."""

from __future__ import annotations

import re

from pfxhttpd.config.node import Node, shown

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e]*")

OURS = frozenset(
    "connection content-length expect keep-alive proxy-connection te trailer transfer-encoding upgrade".split()
)
"""Fields that frame a message or belong to one connection: the transport's to set."""


def parse(line: str) -> tuple[str, str]:
    """Name and value. Raises ValueError, with a text that does not repeat the value."""
    name, colon, value = line.partition(":")
    name = name.strip(" \t")
    if not colon:
        raise ValueError("expected a header line, `Name: value`, but there is no colon")
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"{shown(name)} is no header name")
    if name.lower() in OURS:
        raise ValueError(f"{name} is not for the configuration to set")
    value = value.strip(" \t")
    if not _VALUE.fullmatch(value):
        raise ValueError(f"the value of {name} must be one line of printable ASCII")
    return name, value


def _name(line: Node) -> str:
    return line.value.partition(":")[0].strip(" \t").lower()


def is_login(line: Node) -> bool:
    """Whether this line is an Authorization header."""
    return _name(line) == "authorization"


def login_lines(entry: Node) -> list[Node]:
    """The Authorization headers among an entry's lines."""
    lines = entry.get("custom_headers")
    return [] if lines is None else [line for line in lines.value if is_login(line)]


def last_of_each(lines: list[Node]) -> list[Node]:
    """Without the lines that a later one of the same name replaces."""
    last = {_name(line): line for line in lines}
    return [line for line in lines if last[_name(line)] is line]

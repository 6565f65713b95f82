"""A configuration as it was written: a tree of values, each with its location.

All formats are read into this tree, and everything before the frozen settings works on it. Because a node carries its
own location, it can be moved (from a `defaults` block into an entry) and still be reported where the administrator
wrote it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pfxhttpd.config.errors import Location, Problem

Path = tuple[str | int, ...]
"""The keys and list indexes that lead from the root to a node."""

MAX_DEPTH = 32
"""Levels of nesting that any format may use; a configuration needs six."""

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_$<>-]+")


@dataclass(slots=True, eq=False)
class Node:
    """A value with its path and location.

    `value` is a dict of nodes, a list of nodes or a scalar. `location` is where the value begins, `key_location` where
    its key begins. `text` is a scalar as written, before the format gave it a type. A `bad` value has been reported
    and is to be removed. `dropped` holds the keys whose values were removed, so that they are not reported as missing.
    """

    value: Any
    path: Path
    location: Location
    key_location: Location
    text: str = ""
    bad: bool = False
    dropped: set[str] = field(default_factory=set)

    def get(self, *keys: str) -> Node | None:
        """The node below, or None where there is none."""
        node: Node | None = self
        for key in keys:
            if node is None or not isinstance(node.value, dict):
                return None
            node = node.value.get(key)
        return node

    def scalar(self, *keys: str) -> Any:
        """The plain value below, or None."""
        node = self.get(*keys)
        return None if node is None else node.plain()

    def child(self, key: str | int, value: Any) -> Node:
        """A new node below this one for a value that is not in the file. Its location is that of this node's key."""
        return Node(value, (*self.path, key), self.key_location, self.key_location)

    def copy(self) -> Node:
        """A copy that can be changed without changing this one."""
        value = self.value
        if isinstance(value, dict):
            value = {key: child.copy() for key, child in value.items()}
        elif isinstance(value, list):
            value = [child.copy() for child in value]
        return Node(value, self.path, self.location, self.key_location, self.text, self.bad, set(self.dropped))

    def plain(self) -> Any:
        """The value as plain dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def children(self) -> Iterator[tuple[str | int, Node]]:
        """The nodes directly below, each with its key or index."""
        if isinstance(self.value, dict):
            yield from self.value.items()
        elif isinstance(self.value, list):
            yield from enumerate(self.value)

    def problem(self, message: str) -> Problem:
        """A problem with the value."""
        return Problem(*self.location, dotted(self.path), message)

    def key_problem(self, message: str) -> Problem:
        """A problem with the key, or with the whole block under it."""
        return Problem(*self.key_location, dotted(self.path), message)


def from_plain(value: Any, parent: Node, key: str | int) -> Node:
    """A plain value as nodes below `parent`, for a default that is not in the file."""
    node = parent.child(key, value)
    if isinstance(value, dict):
        node.value = {name: from_plain(child, node, name) for name, child in value.items()}
    elif isinstance(value, list):
        node.value = [from_plain(child, node, index) for index, child in enumerate(value)]
    return node


def dotted(path: Path) -> str:
    """`server.listen[0].port`. Unusual names are quoted and escaped, so that a path is always one printable line."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if _PLAIN_KEY.fullmatch(part) else _quoted(part)
            text += f".{name}" if text else name
    return text


def describe(value: Any, limit: int = 60) -> str:
    """A value for a message: one printable line; a text is cut after `limit` characters."""
    if isinstance(value, str):
        return _quoted(value if len(value) <= limit else value[:limit] + "...")
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, int):
        return str(value) if abs(value) < 10**limit else "a huge number"
    if isinstance(value, float):
        return repr(value)
    return f"a {type(value).__name__}"


def _quoted(text: str) -> str:
    """In double quotes, with an escape for each character that is not printable."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in quoted)

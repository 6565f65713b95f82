"""A configuration as it was written: values that remember where they stand.

All formats are read into this tree, and everything before the frozen settings works on it. Because a node carries its
own place, it can be moved (from a `defaults` block into an entry) and still be reported where the administrator wrote it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pfxhttpd.config.errors import Location, Problem

Path = tuple[str | int, ...]

MAX_DEPTH = 32
"""Levels of nesting that any format may use; a configuration needs six."""

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_$<>-]+")


@dataclass(slots=True, eq=False)
class Node:
    """A value with its path and place.

    `value` is a dict of nodes, a list of nodes or a scalar; `at` is where the value begins and `key` where its key
    does; `text` is a scalar as written, before the format gave it a type. A `bad` value has been reported and is to be
    removed; `dropped` names the keys that were, so that nobody reports them again as missing.
    """

    value: Any
    path: Path
    at: Location
    key: Location
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
        """A new node below this one that nobody wrote: it is reported where this one's key stands."""
        return Node(value, (*self.path, key), self.key, self.key)

    def copy(self) -> Node:
        """A copy that can be changed without changing this one."""
        value = self.value
        if isinstance(value, dict):
            value = {key: child.copy() for key, child in value.items()}
        elif isinstance(value, list):
            value = [child.copy() for child in value]
        return Node(value, self.path, self.at, self.key, self.text, self.bad, set(self.dropped))

    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def children(self) -> Iterator[tuple[str | int, Node]]:
        """Keys or indexes, with the nodes there."""
        if isinstance(self.value, dict):
            yield from self.value.items()
        elif isinstance(self.value, list):
            yield from enumerate(self.value)

    def wrong(self, message: str) -> Problem:
        """A problem with the value."""
        return Problem(*self.at, dotted(self.path), message)

    def wrong_key(self, message: str) -> Problem:
        """A problem with the key, or with the whole block under it."""
        return Problem(*self.key, dotted(self.path), message)


def written(value: Any, parent: Node, key: str | int) -> Node:
    """The plain value as nodes below `parent`, for defaults that nobody wrote."""
    node = parent.child(key, value)
    if isinstance(value, dict):
        node.value = {name: written(child, node, name) for name, child in value.items()}
    elif isinstance(value, list):
        node.value = [written(child, node, index) for index, child in enumerate(value)]
    return node


def dotted(path: Path) -> str:
    """`server.listen[0].port`. Odd names are quoted and escaped, so that a path is always one printable line."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if _PLAIN_KEY.fullmatch(part) else _quoted(part)
            text += f".{name}" if text else name
    return text


def _quoted(text: str) -> str:
    """In quotes, with escapes for everything that is not printable."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in quoted)


def shown(value: Any, limit: int = 60) -> str:
    """A value for a message: one printable line, shortened."""
    if isinstance(value, str):
        cut = value if len(value) <= limit else value[:limit] + "..."
        return _quoted(cut)
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

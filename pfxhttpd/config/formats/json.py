"""JSON. The standard library decides whether a text is JSON; a scan of its tokens then finds the locations."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from pfxhttpd.config.errors import ConfigError, LineIndex, Location, Problem
from pfxhttpd.config.node import MAX_DEPTH, Node, Path

# The closing quote is optional, so that a string without an end is one token. Otherwise the rest of the text would be
# searched again at each of its quotes.
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[{}\[\]:,]|[^\s{}\[\]:,"]+', re.DOTALL)


def parse(text: str, file: str) -> tuple[Node | None, list[Problem]]:
    """The tree and the keys that are given twice. Raises `ConfigError` when the text is not JSON."""
    lines = LineIndex(text, file)
    if not text.strip():
        return None, []
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += (token[0] in "{[") - (token[0] in "}]")
        if depth > MAX_DEPTH:
            location = lines.location(token.start())
            raise ConfigError([Problem(*location, "", f"not valid JSON: nested more than {MAX_DEPTH} levels deep")])
    try:
        json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        message = f"not valid JSON: {error.msg[:1].lower()}{error.msg[1:]}"
        raise ConfigError([Problem(file, error.lineno, error.colno, "", message)]) from None
    except _NotJson as error:
        location = lines.location(max(text.find(str(error)), 0))
        raise ConfigError([Problem(*location, "", f"not valid JSON: {error} is no value")]) from None
    reader = _Reader(text, lines)
    root = reader.node((), reader.next_token(), None)
    return root, reader.problems


class _NotJson(Exception):
    """NaN, Infinity or -Infinity, which Python's parser accepts although JSON does not have them."""


def _refuse_constant(name: str) -> Any:
    raise _NotJson(name)


class _Reader:
    """Reads nodes from the tokens of a text that is known to be valid JSON."""

    def __init__(self, text: str, lines: LineIndex) -> None:
        self.problems: list[Problem] = []
        self._lines = lines
        self._tokens: Iterator[re.Match[str]] = _TOKEN.finditer(text)

    def next_token(self) -> re.Match[str]:
        return next(self._tokens)

    def node(self, path: Path, token: re.Match[str], key: Location | None) -> Node:
        """The value that begins with `token`. `key` is the location of its key, None in a list."""
        location = self._lines.location(token.start())
        node = Node(None, path, location, key or location)
        if token[0] == "{":
            node.value = self._mapping(path)
        elif token[0] == "[":
            node.value = self._list(path)
        elif token[0][0] == '"':
            node.value = node.text = json.loads(token[0])
        else:
            node.text = token[0]
            # A number too long for an int is read as a float, which then fails the bounds like any other number.
            node.value = json.loads(
                token[0], parse_int=lambda digits: int(digits) if len(digits) < 300 else float(digits)
            )
        return node

    def _mapping(self, path: Path) -> dict[str, Node]:
        members: dict[str, Node] = {}
        token = self.next_token()
        while token[0] != "}":
            if token[0] == ",":
                token = self.next_token()
            name, location = json.loads(token[0]), self._lines.location(token.start())
            self.next_token()  # the colon
            node = self.node((*path, name), self.next_token(), location)
            if name in members:
                first = members[name].key_location.line
                self.problems.append(node.key_problem(f"given twice; the first is in line {first}"))
            else:
                members[name] = node
            token = self.next_token()
        return members

    def _list(self, path: Path) -> list[Node]:
        items: list[Node] = []
        token = self.next_token()
        while token[0] != "]":
            if token[0] == ",":
                token = self.next_token()
            items.append(self.node((*path, len(items)), token, None))
            token = self.next_token()
        return items

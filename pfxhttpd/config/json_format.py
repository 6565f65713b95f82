"""JSON to nodes. The standard library decides whether it is JSON; a scan of its tokens then finds the places."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from pfxhttpd.config.errors import ConfigError, LineIndex, Location, Problem
from pfxhttpd.config.node import MAX_DEPTH, Node, Path

# The closing quote is optional so that an endless string is one token, not searched for again at each of its quotes.
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[{}\[\]:,]|[^\s{}\[\]:,"]+', re.DOTALL)


def parse(text: str, file: str) -> tuple[Node | None, list[Problem]]:
    """The tree (None when the file holds nothing) and the mistakes that leave it readable. Raises Invalid when it is not JSON."""
    lines = LineIndex(text, file)
    if not text.strip():
        return None, []
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += (token[0] in "{[") - (token[0] in "}]")
        if depth > MAX_DEPTH:
            raise ConfigError(
                [Problem(*lines.place(token.start()), "", f"not valid JSON: nested more than {MAX_DEPTH} levels deep")]
            )
    try:
        json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        message = f"not valid JSON: {error.msg[:1].lower()}{error.msg[1:]}"
        raise ConfigError([Problem(file, error.lineno, error.colno, "", message)]) from None
    except _NotJson as error:
        place = lines.place(max(text.find(str(error)), 0))
        raise ConfigError([Problem(*place, "", f"not valid JSON: {error} is no value")]) from None
    reader = _Reader(text, lines)
    root = reader.node((), reader.step(), None)
    return root, reader.problems


class _NotJson(Exception):
    """NaN and Infinity, which Python reads and JSON does not know."""


def _refuse(name: str) -> Any:
    raise _NotJson(name)


class _Reader:
    """A walk over the tokens of a text that is known to be JSON."""

    def __init__(self, text: str, lines: LineIndex) -> None:
        self.problems: list[Problem] = []
        self._lines = lines
        self._tokens: Iterator[re.Match[str]] = _TOKEN.finditer(text)

    def step(self) -> re.Match[str]:
        return next(self._tokens)

    def node(self, path: Path, token: re.Match[str], key: Location | None) -> Node:
        at = self._lines.place(token.start())
        node = Node(None, path, at, key or at)
        if token[0] == "{":
            node.value = self._mapping(path)
        elif token[0] == "[":
            node.value = self._list(path)
        elif token[0][0] == '"':
            node.value = node.text = json.loads(token[0])
        else:
            node.text = token[0]
            # A number too long for an int is still a number: as a float it fails the bounds like any other.
            node.value = json.loads(
                token[0], parse_int=lambda digits: int(digits) if len(digits) < 300 else float(digits)
            )
        return node

    def _mapping(self, path: Path) -> dict[str, Node]:
        found: dict[str, Node] = {}
        token = self.step()
        while token[0] != "}":
            if token[0] == ",":
                token = self.step()
            name, place = json.loads(token[0]), self._lines.place(token.start())
            self.step()
            node = self.node((*path, name), self.step(), place)
            if name in found:
                self.problems.append(node.wrong_key(f"given twice; the first is in line {found[name].key.line}"))
            else:
                found[name] = node
            token = self.step()
        return found

    def _list(self, path: Path) -> list[Node]:
        found: list[Node] = []
        token = self.step()
        while token[0] != "]":
            if token[0] == ",":
                token = self.step()
            found.append(self.node((*path, len(found)), token, None))
            token = self.step()
        return found

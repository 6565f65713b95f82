"""TOML. tomllib gives the values; a scan of the text gives their locations.

The scan comes first, because tomllib takes hours for a key of many thousand parts. It follows
https://toml.io/en/v1.0.0 and stops without an error at anything else: tomllib decides whether a text is valid. The scan
also finds keys that are given twice, because tomllib stops at the second one and does not name the first.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any, NamedTuple

from pfxhttpd.config.errors import ConfigError, LineIndex, Location, Problem
from pfxhttpd.config.node import MAX_DEPTH, Node, Path, dotted

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACES = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}(?!")' r"|'''.*?'{3,5}(?!')" r'|"(?:[^"\\\n]|\\.)*"' r"|'[^'\n]*'", re.DOTALL
)
_OTHER_SCALAR = re.compile(r"[^,\]}#\n\r]+")
_ERROR_LOCATION = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
"""The end of a message of tomllib."""


def parse(text: str, file: str) -> tuple[Node | None, list[Problem]]:
    """The tree, without any mistakes. Raises `ConfigError` when the text is not TOML, or a key is given twice."""
    lines = LineIndex(text, file)
    scanner = Scanner(text, lines)
    scanner.run()
    if scanner.too_deep:
        message = f"not valid TOML: nested more than {MAX_DEPTH} levels deep"
        raise ConfigError([Problem(*scanner.too_deep, "", message)])
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(scanner.problems or [_syntax_problem(str(error), text, lines)]) from None
    except ValueError:  # Python's own limit on the digits of an int
        raise ConfigError([Problem(*lines.location(0), "", "not valid TOML: a number with too many digits")]) from None
    if not values:
        return None, []
    return _node(values, (), lines.location(0), scanner.marks), scanner.problems


def _syntax_problem(message: str, text: str, lines: LineIndex) -> Problem:
    found = _ERROR_LOCATION.search(message)
    location = lines.location(len(text))
    if found and found[1]:
        location = location._replace(line=int(found[1]), column=int(found[2]))
    message = _ERROR_LOCATION.sub("", message)
    return Problem(*location, "", f"not valid TOML: {message[:1].lower()}{message[1:]}")


def _node(value: Any, path: Path, parent: Location, marks: Mapping[Path, Mark]) -> Node:
    """A value as a node. One that the scan has not seen gets the location `parent`."""
    mark = marks.get(path, Mark(parent, parent))
    node = Node(value, path, mark.location, mark.key_location, mark.text)
    if isinstance(value, dict):
        node.value = {key: _node(child, (*path, key), mark.location, marks) for key, child in value.items()}
    elif isinstance(value, list):
        node.value = [_node(child, (*path, index), mark.location, marks) for index, child in enumerate(value)]
    elif isinstance(value, str):
        node.text = value
    return node


class Mark(NamedTuple):
    """The location of a key and of its value. `text` is the value as written, unless it is a string or a container."""

    key_location: Location
    location: Location
    text: str = ""


class _Stop(Exception):
    """The text is not valid TOML here."""


class Scanner:
    """One pass over the text.

    `marks` maps the path of each value to its locations. `problems` are the keys given twice. `too_deep` is where the
    nesting goes beyond `MAX_DEPTH`, if it does.
    """

    def __init__(self, text: str, lines: LineIndex) -> None:
        self.marks: dict[Path, Mark] = {}
        self.problems: list[Problem] = []
        self.too_deep: Location | None = None
        self._text = text
        self._lines = lines
        self._offset = 0
        self._arrays: dict[Path, int] = {}  # arrays of tables: the number of elements so far
        self._defined: dict[Path, Location] = {}  # values and headers, each of which is allowed once

    def run(self) -> None:
        """Scan to the end, or to the first place that is not valid TOML."""
        try:
            self._document()
        except _Stop:
            pass

    def _document(self) -> None:
        table: Path = ()
        while self._skip(_BLANK) < len(self._text):
            if self._text.startswith("[[", self._offset):
                table = self._array_header()
            elif self._text.startswith("[", self._offset):
                table = self._header()
            else:
                self._pair(table)

    def _skip(self, pattern: re.Pattern[str]) -> int:
        """Move past the pattern, if it matches here. Returns the new offset."""
        found = pattern.match(self._text, self._offset)
        self._offset = found.end() if found else self._offset
        return self._offset

    def _take(self, expected: str) -> None:
        if not self._text.startswith(expected, self._offset):
            raise _Stop
        self._offset += len(expected)

    def _key(self) -> tuple[list[str], Location]:
        """The parts of a key, which may be dotted, and where it begins."""
        location = self._lines.location(self._skip(_SPACES))
        parts: list[str] = []
        while True:
            found = _BARE_KEY.match(self._text, self._offset)
            quoted = None if found else _STRING.match(self._text, self._offset)
            if found:
                parts.append(found[0])
            elif quoted:
                try:
                    parts.append(tomllib.loads(f"x = {quoted[0]}")["x"])
                except tomllib.TOMLDecodeError:
                    raise _Stop from None
            else:
                raise _Stop
            self._offset = (found or quoted).end()  # type: ignore[union-attr]
            if len(parts) > MAX_DEPTH:
                self.too_deep = location
                raise _Stop
            if self._skip(_SPACES) < len(self._text) and self._text[self._offset] == ".":
                self._offset += 1
                self._skip(_SPACES)
            else:
                return parts, location

    def _below(self, base: Path, parts: list[str], location: Location) -> Path:
        """The path of the key `parts` below `base`. An array of tables on the way stands for its last element."""
        path = base
        for number, part in enumerate(parts):
            path = (*path, part)
            self.marks.setdefault(path, Mark(location, location))
            if path in self._arrays and number < len(parts) - 1:
                path = (*path, self._arrays[path] - 1)
        return path

    def _define(self, path: Path, location: Location) -> None:
        first = self._defined.setdefault(path, location)
        if first is not location:
            self.problems.append(Problem(*location, dotted(path), f"given twice; the first is in line {first.line}"))

    def _header(self) -> Path:
        self._take("[")
        parts, location = self._key()
        self._take("]")
        path = self._below((), parts, location)
        self._define(path, location)
        return path

    def _array_header(self) -> Path:
        self._take("[[")
        parts, location = self._key()
        self._take("]]")
        path = self._below((), parts, location)
        index = self._arrays.get(path, 0)
        if not index:
            self._define(path, location)
        self._arrays[path] = index + 1
        self.marks[(*path, index)] = Mark(location, location)
        return (*path, index)

    def _pair(self, table: Path) -> None:
        parts, location = self._key()
        self._take("=")
        path = self._below(table, parts, location)
        self._define(path, location)
        value_location = self._lines.location(self._skip(_SPACES))
        self.marks[path] = Mark(location, value_location, self._value(path))

    def _value(self, path: Path) -> str:
        if len(path) > MAX_DEPTH:
            self.too_deep = self._lines.location(self._offset)
            raise _Stop
        if self._text.startswith("[", self._offset):
            self._array(path)
        elif self._text.startswith("{", self._offset):
            self._inline_table(path)
        elif self._text[self._offset : self._offset + 1] in ('"', "'"):
            string = _STRING.match(self._text, self._offset)
            if not string:
                raise _Stop
            self._offset = string.end()
        else:
            other = _OTHER_SCALAR.match(self._text, self._offset)
            if not other:
                raise _Stop
            self._offset = other.end()
            return other[0].strip()
        return ""

    def _array(self, path: Path) -> None:
        self._take("[")
        index = 0
        self._skip(_BLANK)
        while not self._text.startswith("]", self._offset):
            location = self._lines.location(self._offset)
            self.marks[(*path, index)] = Mark(location, location, self._value((*path, index)))
            index += 1
            self._skip(_BLANK)
            if not self._text.startswith("]", self._offset):
                self._take(",")
                self._skip(_BLANK)
        self._take("]")

    def _inline_table(self, path: Path) -> None:
        self._take("{")
        self._skip(_BLANK)
        while not self._text.startswith("}", self._offset):
            self._pair(path)
            self._skip(_BLANK)
            if not self._text.startswith("}", self._offset):
                self._take(",")
                self._skip(_BLANK)
        self._take("}")

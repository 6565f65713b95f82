"""TOML to nodes. tomllib gives the values; a scan of headers and keys gives their locations.

The scan runs first, because tomllib takes hours over a key of many thousand parts. It expects what
https://toml.io/en/v1.0.0 calls valid and stops quietly at anything else: tomllib decides whether a text is valid. The
scan also finds keys that are given twice, since tomllib stops at the second without naming the first.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any, NamedTuple

from pfxhttpd.config.errors import ConfigError, LineIndex, Location, Problem
from pfxhttpd.config.node import MAX_DEPTH, Node, Path, dotted

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}(?!")' r"|'''.*?'{3,5}(?!')" r'|"(?:[^"\\\n]|\\.)*"' r"|'[^'\n]*'", re.DOTALL
)
_OTHER = re.compile(r"[^,\]}#\n\r]+")


class Mark(NamedTuple):
    """The places of one path. `text` is a value as written, when it is neither a string nor a container."""

    key: Location
    at: Location
    text: str = ""


class _Stop(Exception):
    """This is not TOML."""


class Scan:
    """One pass over the text. `marks` maps paths to places, `problems` are the keys given twice."""

    def __init__(self, text: str, lines: LineIndex) -> None:
        self.marks: dict[Path, Mark] = {}
        self.problems: list[Problem] = []
        self.too_deep: Location | None = None
        self._text = text
        self._lines = lines
        self._at = 0
        self._arrays: dict[Path, int] = {}  # arrays of tables: how many elements so far
        self._defined: dict[Path, Location] = {}  # values and headers, which may stand only once

    def run(self) -> None:
        """Scan to the end, or to the first thing that is not TOML."""
        try:
            self._document()
        except _Stop:
            pass

    def _document(self) -> None:
        table: Path = ()
        while self._skip(_BLANK) < len(self._text):
            if self._text.startswith("[[", self._at):
                table = self._array_header()
            elif self._text.startswith("[", self._at):
                table = self._header()
            else:
                self._pair(table)

    def _skip(self, pattern: re.Pattern[str]) -> int:
        found = pattern.match(self._text, self._at)
        self._at = found.end() if found else self._at
        return self._at

    def _take(self, sign: str) -> None:
        if not self._text.startswith(sign, self._at):
            raise _Stop
        self._at += len(sign)

    def _key(self) -> tuple[list[str], Location]:
        """A key, dotted or not, and where it begins."""
        place = self._lines.place(self._skip(_SPACE))
        parts: list[str] = []
        while True:
            found = _BARE.match(self._text, self._at)
            quoted = None if found else _STRING.match(self._text, self._at)
            if found:
                parts.append(found[0])
            elif quoted:
                try:
                    parts.append(tomllib.loads(f"x = {quoted[0]}")["x"])
                except tomllib.TOMLDecodeError:
                    raise _Stop from None
            else:
                raise _Stop
            self._at = (found or quoted).end()  # type: ignore[union-attr]
            if len(parts) > MAX_DEPTH:
                self.too_deep = place
                raise _Stop
            if self._skip(_SPACE) < len(self._text) and self._text[self._at] == ".":
                self._at += 1
                self._skip(_SPACE)
            else:
                return parts, place

    def _below(self, base: Path, parts: list[str], place: Location) -> Path:
        """The path that `parts` lead to from `base`; an array of tables on the way means its last element."""
        path = base
        for number, part in enumerate(parts):
            path = (*path, part)
            self.marks.setdefault(path, Mark(place, place))
            if path in self._arrays and number < len(parts) - 1:
                path = (*path, self._arrays[path] - 1)
        return path

    def _define(self, path: Path, place: Location) -> None:
        first = self._defined.setdefault(path, place)
        if first is not place:
            self.problems.append(Problem(*place, dotted(path), f"given twice; the first is in line {first.line}"))

    def _header(self) -> Path:
        self._take("[")
        parts, place = self._key()
        self._take("]")
        path = self._below((), parts, place)
        self._define(path, place)
        return path

    def _array_header(self) -> Path:
        self._take("[[")
        parts, place = self._key()
        self._take("]]")
        path = self._below((), parts, place)
        index = self._arrays.get(path, 0)
        if not index:
            self._define(path, place)
        self._arrays[path] = index + 1
        self.marks[(*path, index)] = Mark(place, place)
        return (*path, index)

    def _pair(self, table: Path) -> None:
        parts, place = self._key()
        self._take("=")
        path = self._below(table, parts, place)
        self._define(path, place)
        at = self._lines.place(self._skip(_SPACE))
        self.marks[path] = Mark(place, at, self._value(path))

    def _value(self, path: Path) -> str:
        if len(path) > MAX_DEPTH:
            self.too_deep = self._lines.place(self._at)
            raise _Stop
        if self._text.startswith("[", self._at):
            self._array(path)
        elif self._text.startswith("{", self._at):
            self._inline_table(path)
        elif self._text[self._at : self._at + 1] in ('"', "'"):
            string = _STRING.match(self._text, self._at)
            if not string:
                raise _Stop
            self._at = string.end()
        else:
            other = _OTHER.match(self._text, self._at)
            if not other:
                raise _Stop
            self._at = other.end()
            return other[0].strip()
        return ""

    def _array(self, path: Path) -> None:
        self._take("[")
        index = 0
        self._skip(_BLANK)
        while not self._text.startswith("]", self._at):
            at = self._lines.place(self._at)
            self.marks[(*path, index)] = Mark(at, at, self._value((*path, index)))
            index += 1
            self._skip(_BLANK)
            if not self._text.startswith("]", self._at):
                self._take(",")
                self._skip(_BLANK)
        self._take("]")

    def _inline_table(self, path: Path) -> None:
        self._take("{")
        self._skip(_BLANK)
        while not self._text.startswith("}", self._at):
            self._pair(path)
            self._skip(_BLANK)
            if not self._text.startswith("}", self._at):
                self._take(",")
                self._skip(_BLANK)
        self._take("}")


_WHERE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def parse(text: str, file: str) -> tuple[Node | None, list[Problem]]:
    """The tree (None when the file holds nothing) and no mistakes. Raises Invalid when it is not TOML, or a key is given twice."""
    lines = LineIndex(text, file)
    scan = Scan(text, lines)
    scan.run()
    if scan.too_deep:
        raise ConfigError([Problem(*scan.too_deep, "", f"not valid TOML: nested more than {MAX_DEPTH} levels deep")])
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(scan.problems or [_syntax(str(error), text, lines)]) from None
    except ValueError:  # Python's own limit on the digits of an int
        raise ConfigError([Problem(*lines.place(0), "", "not valid TOML: a number with too many digits")]) from None
    if not values:
        return None, []
    return _node(values, (), lines.place(0), scan), scan.problems


def _syntax(said: str, text: str, lines: LineIndex) -> Problem:
    found = _WHERE.search(said)
    place = lines.place(len(text))
    if found and found[1]:
        place = place._replace(line=int(found[1]), column=int(found[2]))
    said = _WHERE.sub("", said)
    return Problem(*place, "", f"not valid TOML: {said[:1].lower()}{said[1:]}")


def _node(value: Any, path: Path, parent: Location, scan: Scan) -> Node:
    mark = scan.marks.get(path)
    node = Node(value, path, mark.at if mark else parent, mark.key if mark else parent, mark.text if mark else "")
    if isinstance(value, dict):
        node.value = {key: _node(child, (*path, key), node.at, scan) for key, child in value.items()}
    elif isinstance(value, list):
        node.value = [_node(child, (*path, index), node.at, scan) for index, child in enumerate(value)]
    elif isinstance(value, str):
        node.text = value
    return node

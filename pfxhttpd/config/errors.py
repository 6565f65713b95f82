"""Mistakes in a configuration and where they are: every check reports `Problem`s, and `ConfigError` carries them."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from pfxhttpd.wire.sanitize import one_line

_LONGEST_NAME = 4096


class Location(NamedTuple):
    """Where something was written. `line` and `column` count from 1; line 0 means that the source has no lines."""

    file: str
    line: int = 0
    column: int = 0


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One mistake. `path` is the key as the administrator reads it (`server.listen[0].port`), or ""."""

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        """`file:line:column: path: message`, without the parts that are not known."""
        file = one_line(self.file, _LONGEST_NAME)  # it may come from the command line
        location = f"{file}:{self.line}:{self.column}" if self.line else file
        return ": ".join(part for part in (location, self.path, self.message) if part)


class ConfigError(Exception):
    """A configuration that cannot be used. `problems` holds every mistake found, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems: tuple[Problem, ...] = tuple(sorted(set(problems)))
        super().__init__("\n".join(map(str, self.problems)))


class LineIndex:
    """The line starts of one text, to turn an offset into a line and a column. Columns count characters."""

    def __init__(self, text: str, file: str) -> None:
        self._file = file
        self._starts = [0]
        offset = text.find("\n")
        while offset >= 0:
            self._starts.append(offset + 1)
            offset = text.find("\n", offset + 1)

    def location(self, offset: int) -> Location:
        """The location of the character at `offset`, which counts from 0."""
        line = bisect.bisect_right(self._starts, offset)
        return Location(self._file, line, offset - self._starts[line - 1] + 1)

"""What is wrong with a configuration, and where: the one form in which every check reports."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


class LineIndex:
    """The line starts of one text. Columns count characters, from 1."""

    def __init__(self, text: str, file: str) -> None:
        self._file = file
        self._starts = [0]
        offset = text.find("\n")
        while offset >= 0:
            self._starts.append(offset + 1)
            offset = text.find("\n", offset + 1)

    def place(self, offset: int) -> Location:
        """The place of the character at `offset`."""
        line = bisect.bisect_right(self._starts, offset)
        return Location(self._file, line, offset - self._starts[line - 1] + 1)


class Location(NamedTuple):
    """Where something was written. `line` and `column` count from 1; line 0 means the source has no lines."""

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
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return ": ".join(part for part in (where, self.path, self.message) if part)


class ConfigError(Exception):
    """A configuration that cannot be used. `problems` holds every mistake found, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems: tuple[Problem, ...] = tuple(sorted(set(problems)))
        super().__init__("\n".join(map(str, self.problems)))

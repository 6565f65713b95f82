"""What is wrong with a configuration, and where: the one form in which every check reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterable, NamedTuple


class Place(NamedTuple):
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


class Invalid(Exception):
    """A configuration that cannot be used. `problems` holds every mistake found, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems: tuple[Problem, ...] = tuple(sorted(set(problems)))
        super().__init__("\n".join(map(str, self.problems)))

"""A version of pfxhttpd: a source tree and the Python interpreter that runs it.

The benchmark uses nothing but the program's command line, its configuration file and its sockets, so that any
version can be measured.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Build:
    """`name` is what the table calls this version. `python` must have its dependencies installed."""

    name: str
    tree: Path
    python: str

    def command(self, *arguments: str) -> list[str]:
        """The command line of the program with these arguments."""
        return [self.python, "-m", "pfxhttpd", *arguments]

    def environment(self) -> dict[str, str]:
        """The environment in which `command` runs this tree's program."""
        return {**plain_environment(), "PYTHONPATH": str(self.tree)}


def plain_environment() -> dict[str, str]:
    """This process's environment without the variables that name proxies."""
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}

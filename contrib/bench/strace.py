"""The system calls of a server's processes, by strace(1)."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from .daemon import Pfxhttpd

LINE = re.compile(r"(\d+) +(\d+\.\d+) (\w+)\((.*)")
"""Process id, time, name of the call, its arguments and result."""


@dataclass(frozen=True, slots=True)
class Call:
    """One system call: the process that made it, when (seconds since the epoch), its name and the rest of its line."""

    pid: int
    time: float
    name: str
    rest: str


class Strace:
    """A context manager in which the processes of a server are traced. `calls` reads what they have done."""

    def __init__(self, server: Pfxhttpd, output: Path) -> None:
        self._output = output
        self._pids = server.processes()
        attach = [argument for pid in self._pids for argument in ("-p", str(pid))]
        self._command = ["strace", "-f", "-ttt", "-s", "60", "-o", str(output), *attach]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr
        for _ in self._pids:  # strace reports each process to which it has attached.
            line = self._process.stderr.readline()
            if "attached" not in line:
                raise RuntimeError(f"strace: {line.strip()}")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()

    def calls(self, begin: float, end: float) -> list[Call]:
        """The calls that began between two times."""
        calls = parse_output(self._output.read_text(errors="replace"))
        return [call for call in calls if begin <= call.time < end]


def parse_output(text: str) -> list[Call]:
    """The calls in the output of `strace -f -ttt`; signals, exits and the second halves of calls are left out."""
    matches = map(LINE.match, text.splitlines())
    return [Call(int(match[1]), float(match[2]), match[3], match[4]) for match in matches if match]

"""Runs pfxhttpd and records the Python functions that each of its child processes calls.

    traced.py DIRECTORY ARGUMENT…

ARGUMENT… is pfxhttpd's own command line. Whenever the number in the file DIRECTORY/round changes, each child process
writes what it has called since the last change into DIRECTORY/PID.NUMBER, and starts anew. `calls` reads these files.
A thread does this: a signal would be taken for a request to retire, whichever it is.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import threading
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, FrameType

TRACE_LENGTH = 500
"""The number of calls that are kept in their order."""


class Recorder:
    """The functions called in this process. `package` is the directory of the package that is examined."""

    def __init__(self, package: str, directory: Path) -> None:
        self._package = package + os.sep
        self._directory = directory
        self._clear()

    def _clear(self) -> None:
        self._own: Counter[CodeType] = Counter()
        self._foreign: Counter[CodeType] = Counter()
        self._builtin: Counter[str] = Counter()
        self._trace: list[tuple[int, str]] = []
        self._depth = 0

    def start(self) -> None:
        """Records from now on, and starts the thread that writes."""
        threading.Thread(target=self._write_each_round, daemon=True).start()
        sys.setprofile(self._on_event)

    def _on_event(self, frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            code = frame.f_code
            if not code.co_filename.startswith(self._package):
                self._foreign[code] += 1
                return
            self._own[code] += 1
            depth = self._depth_of(frame)
            self._depth = max(self._depth, depth)
            self._append(depth, self._name(code))
        elif event == "c_call":
            name = getattr(argument, "__qualname__", repr(argument))
            module = getattr(argument, "__module__", None)
            name = f"{module}.{name}" if module and module != "builtins" else name
            self._builtin[name] += 1
            if frame.f_code.co_filename.startswith(self._package):
                self._append(self._depth_of(frame) + 1, f"({name})")

    def _append(self, depth: int, name: str) -> None:
        if len(self._trace) < TRACE_LENGTH:
            self._trace.append((depth, name))

    def _depth_of(self, frame: FrameType | None) -> int:
        """The number of the package's own frames on the stack."""
        depth = 0
        while frame is not None:
            depth += frame.f_code.co_filename.startswith(self._package)
            frame = frame.f_back
        return depth

    def _name(self, code: CodeType) -> str:
        return f"{code.co_filename.removeprefix(self._package)}:{code.co_qualname}"

    def _write_each_round(self) -> None:
        last = self._round()
        while True:
            number = self._round()
            if number != last:
                last = number
                self._write(number)
            time.sleep(0.005)

    def _round(self) -> str:
        try:
            return (self._directory / "round").read_text()
        except FileNotFoundError:
            return ""

    def _write(self, number: str) -> None:
        own, foreign, builtin, trace, depth = self._own, self._foreign, self._builtin, self._trace, self._depth
        self._clear()
        record = {
            "own": {self._name(code): count for code, count in own.items()},
            "foreign": {f"{code.co_filename}:{code.co_qualname}": count for code, count in foreign.items()},
            "builtin": dict(builtin),
            "depth": depth,
            "trace": trace,
        }
        part = self._directory / f"{os.getpid()}.part"
        part.write_text(json.dumps(record))
        part.replace(part.with_suffix(f".{number}"))


def main() -> None:
    """Runs the program, whose children start recording when they are forked."""
    directory = Path(sys.argv[1])
    del sys.argv[1]
    sys.path.pop(0)  # This script's own directory.
    specification = find_spec("pfxhttpd")
    assert specification is not None
    assert specification.origin is not None
    package = os.path.dirname(specification.origin)
    os.register_at_fork(after_in_child=lambda: Recorder(package, directory).start())
    runpy.run_module("pfxhttpd", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

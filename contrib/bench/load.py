"""The load generator: compiles load.c and runs it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().parent / "load.c"


@dataclass(frozen=True, slots=True)
class Load:
    """What the clients do. `name` and `expected` default to what suits the backend's fixed answer.

    `keys` is the number of different keys that each client asks for; 0 makes every key a new one. `warm` is the time in
    seconds before the measurement.
    """

    protocol: str = "map"
    busy: int = 4
    silent: int = 0
    warm: float = 0.5
    expected: str = ""
    keys: int = 0

    def arguments(self, port: int, seconds: float) -> list[str]:
        """The arguments of load.c's program."""
        name = "/" if self.protocol == "http" else "bench"
        expected = self.expected or ("OK\t" if self.protocol == "sasl" else "found")
        values = (self.protocol, port, self.busy, self.silent, self.warm, seconds, name, expected, self.keys)
        return [str(value) for value in values]


class Generator:
    """The compiled program. Raises `RuntimeError` if there is no C compiler or load.c does not compile."""

    def __init__(self, directory: Path) -> None:
        """The program is written into `directory`."""
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            raise RuntimeError("the load generator needs a C compiler: install gcc")
        self._program = directory / "load"
        built = subprocess.run([compiler, "-O2", "-o", str(self._program), str(SOURCE)], capture_output=True, text=True)
        if built.returncode:
            raise RuntimeError(f"{SOURCE} does not compile:\n{built.stderr}")

    def measure(
        self, load: Load, port: int, seconds: float, report: Callable[[str], None] = lambda moment: None
    ) -> dict[str, float]:
        """Runs the load on the server at `port` of 127.0.0.1. Raises `RuntimeError` if the program fails.

        `report` is called with "begin" and "end" at the borders of the measured time. The figures: seconds, replies,
        rate (replies per second); p50, p99, slowest (latencies in milliseconds; the last one includes the age of
        requests that are still unanswered); wrong (replies that were not as expected), lost and silent_lost
        (connections that the server closed), refused (connections), served (busy clients that got a reply), least and
        most (replies to the client that got the least and the most).
        """
        arguments = load.arguments(port, seconds)
        with subprocess.Popen([str(self._program), *arguments], stdout=subprocess.PIPE, text=True) as running:
            assert running.stdout
            if running.stdout.readline() == "begin\n":
                report("begin")
                line = running.stdout.readline()
                report("end")
            else:
                line = ""
        if not line:
            raise RuntimeError(f"the load generator failed: load {' '.join(arguments)}")
        figures = json.loads(line)
        first_wrong = figures.pop("first_wrong")
        if first_wrong:
            print(f"load {' '.join(arguments)}: an unexpected reply: {first_wrong}", file=sys.stderr)
        return {name: float(value) for name, value in figures.items()}

"""The system calls and context switches of a server's processes, by perf(1), which slows them down very little."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from typing import Self

EVENTS = "syscalls:sys_enter_*", "context-switches"
PREFIX = "syscalls:sys_enter_"


class PerfStat:
    """A context manager around `perf stat` on some processes. It counts from `enable` to `disable`."""

    def __init__(self, pids: list[int]) -> None:
        self._pids = pids

    def __enter__(self) -> Self:
        control, self._control = os.pipe()
        self._acknowledged, acknowledge = os.pipe()
        command = ["perf", "stat", "-x", ";", "-D", "-1", "--control", f"fd:{control},{acknowledge}"]
        for event in EVENTS:
            command += ["-e", event]
        command += ["-p", ",".join(map(str, self._pids))]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, pass_fds=(control, acknowledge))
        os.close(control)
        os.close(acknowledge)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stderr
        self._process.kill()
        self._process.wait()
        self._process.stderr.close()
        os.close(self._control)
        os.close(self._acknowledged)

    def enable(self) -> None:
        """Starts counting. Raises `RuntimeError` if perf does not run, as without the permission to."""
        self._send(b"enable\n")

    def disable(self) -> None:
        """Stops counting."""
        self._send(b"disable\n")

    def _send(self, command: bytes) -> None:
        try:
            os.write(self._control, command)
        except BrokenPipeError:
            pass  # There will be no acknowledgement either.
        if not os.read(self._acknowledged, 16):
            assert self._process.stderr
            raise RuntimeError(f"perf: {self._process.stderr.read().strip()}")

    def counts(self) -> Counter[str]:
        """How often each event has occurred, system calls by their names. This ends perf."""
        self._process.send_signal(signal.SIGINT)  # It prints its results then.
        _, output = self._process.communicate()
        return parse_output(output)


def parse_output(text: str) -> Counter[str]:
    """The events in the output of `perf stat -x ';'`: the first field is the count, the third the event's name."""
    counts: Counter[str] = Counter()
    for line in text.splitlines():
        fields = line.split(";")
        if len(fields) > 2 and fields[0].isdigit() and int(fields[0]):
            counts[fields[2].removeprefix(PREFIX)] = int(fields[0])
    return counts

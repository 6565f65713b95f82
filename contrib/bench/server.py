"""A server under measurement: a process in a session of its own, by which its descendants are found."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

from .build import plain_environment

HERE = Path(__file__).resolve().parent
TICKS = os.sysconf("SC_CLK_TCK")


class Server:
    """A context manager: leaving it stops the server and whatever it has started.

    `port` is where it listens on 127.0.0.1. Figures are sums over all living processes of its session.
    """

    def __init__(self, command: list[str], log: Path, *, environment: dict[str, str] | None = None, **options: Any):
        """`log` receives its standard error and, unless `options` for Popen say otherwise, its standard output."""
        self.log = log
        self.port = 0
        with log.open("ab") as sink:
            self.process = subprocess.Popen(
                command, stderr=sink, env=environment or plain_environment(), start_new_session=True,
                **{"stdout": sink, **options},
            )  # fmt: skip

    def processes(self) -> list[int]:
        """The process ids of its session."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = stat_fields(int(entry.name))
                except OSError:
                    continue  # The process has ended.
                if int(fields[3]) == self.process.pid and fields[0] != "Z":
                    found.append(int(entry.name))
        return found

    def processor_time(self) -> float:
        """Seconds of processor time used since the start, in user and system mode."""
        ticks = 0
        for pid in self.processes():
            fields = stat_fields(pid)
            ticks += int(fields[11]) + int(fields[12])
        return ticks / TICKS

    def memory(self) -> int:
        """The proportional set size in bytes: a page that n processes share counts as 1/n in each."""
        size = 0
        for pid in self.processes():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    size += int(line.split()[1]) * 1024
        return size

    def wait_until_listening(self, timeout: float = 20.0) -> None:
        """Returns once `port` accepts a connection. Raises `RuntimeError` after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.01)
            else:
                return
        self.stop()
        raise RuntimeError(f"nothing listens on port {self.port}; see {self.log}")

    def stop(self) -> None:
        """Terminates the server, and kills what is left of its session after 20 seconds."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                pass  # It is killed below.
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # It has ended meanwhile.
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class ScriptServer(Server):
    """A script of this directory, which prints its port."""

    def __init__(self, directory: Path, script: str, *arguments: object) -> None:
        command = [sys.executable, str(HERE / script), *map(str, arguments)]
        super().__init__(
            command, directory / f"{script}.log", cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            self.stop()
            raise RuntimeError(f"{script} did not start; see {self.log}")
        self.port = int(line)
        self.url = f"http://127.0.0.1:{self.port}/"


def free_port() -> int:
    """A TCP port of 127.0.0.1 on which nothing listens at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat that follow the command's name: the state comes first (proc_pid_stat(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()

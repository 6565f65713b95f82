"""A pfxhttpd that was not executed but forked by a process that has imported it, which saves most of a start's time."""

from __future__ import annotations

import functools
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

PROGRAM = Path(__file__).with_name("fork_server.py")
TREE = PROGRAM.parents[2]
MAIN = str(TREE / "pfxhttpd/__main__.py")


class ForkedProcess:
    """A forked pfxhttpd, with the part of subprocess.Popen's interface that tests use."""

    def __init__(
        self,
        arguments: Iterable[str],
        environment: Mapping[str, str],
        directory: Path,
        streams: tuple[int, int, int],
    ) -> None:
        """Starts `pfxhttpd ARGUMENTS…` as the leader of a session. `streams` are the descriptors of its standard input,
        output and error. It is killed when this process ends."""
        reports, report = os.pipe()
        self._reports = open(reports, "rb", 0)  # noqa: SIM115  see `wait`
        request = json.dumps([[MAIN, *arguments], dict(environment), str(directory)]).encode()
        try:
            socket.send_fds(_fork_server(), [request], [*streams, report])
        finally:
            os.close(report)
        self.pid = self._report()
        self.returncode: int | None = None

    def _report(self) -> int:
        """The next number that the fork server tells: the process id, then the exit status."""
        if not (line := self._reports.readline()):
            raise RuntimeError("the fork server has ended")
        return int(line)

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, negative for a signal. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._reports, select.POLLIN)
            if not poll.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired("pfxhttpd", timeout or 0)
            self.returncode = self._report()
            self._reports.close()
        return self.returncode

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None


@functools.cache
def _fork_server() -> socket.socket:
    """The socket for requests to the fork server of this process, which is started at the first use and ends with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        subprocess.Popen(
            [sys.executable, "-P", PROGRAM],
            cwd="/",
            env={**os.environ, "PYTHONPATH": str(TREE)},
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            start_new_session=True,
        )
    return ours

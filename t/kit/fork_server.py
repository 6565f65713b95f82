"""The program of the fork server: a process that has imported pfxhttpd and forks itself for each command to be run.

A forked process gets its arguments, environment, directory and streams as if it had been executed, and inherits nothing
else. The fork server is its parent process, reports its exit status, and ends with the last process that holds the other
end of its standard input, the socket with the requests (`kit.forked_process`).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import selectors
import signal
import socket
import sys

import setproctitle

from pfxhttpd.__main__ import main
from pfxhttpd.io.jail import kernel

PRELOADED = ("pfxhttpd.cli.run",)
"""What `run` imports after its start."""

LARGEST_REQUEST = 1 << 17
"""Bytes of the arguments and the environment."""


def serve(requests: socket.socket) -> bytes:
    """Forks a process for each request, and ends when there are no more. Returns in the forked processes alone, with
    their request."""
    parent = os.getpid()
    running: dict[int, tuple[int, int]] = {}  # descriptor (pidfd_open(2)) -> process id, pipe for the reports
    with requests, selectors.DefaultSelector() as selector:
        selector.register(requests, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not requests:
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    report_end(*running.pop(key.fd))
                    continue
                request, descriptors, _, _ = socket.recv_fds(requests, LARGEST_REQUEST, 4)
                if not request:
                    sys.exit()
                *streams, report = descriptors
                if not (pid := os.fork()):
                    kernel.set_parent_death_signal(signal.SIGKILL)
                    if os.getppid() != parent:
                        sys.exit(1)
                    os.setsid()
                    os.write(report, b"%d\n" % os.getpid())
                    for number, stream in enumerate(streams):
                        os.dup2(stream, number)
                    for descriptor in (*descriptors, *running, *(report for _, report in running.values())):
                        os.close(descriptor)
                    return request
                for stream in streams:
                    os.close(stream)
                descriptor = os.pidfd_open(pid)
                running[descriptor] = pid, report
                selector.register(descriptor, selectors.EVENT_READ)


def report_end(pid: int, report: int) -> None:
    """Reports the exit status of a process that has ended."""
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(BrokenPipeError):
        os.write(report, b"%d\n" % os.waitstatus_to_exitcode(status))
    os.close(report)


if __name__ == "__main__":
    requests = socket.socket(fileno=os.dup(sys.stdin.fileno()))
    for module in PRELOADED:
        importlib.import_module(module)
    setproctitle.getproctitle()  # finds the memory for titles, as long as the environment is next to the arguments
    sys.argv, environment, directory = json.loads(serve(requests))
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    sys.exit(main())

"""Runs a function in a forked child and hands back what it returns: for what changes a process for good."""

from __future__ import annotations

import os
import pickle
import select
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from kit.places import NOBODY
from kit.proc import die_with_parent

Result = TypeVar("Result")


class ChildFailed(Exception):
    """The function raised, or the child died before it returned. The text is the child's traceback, if it has one."""


def in_child(work: Callable[[], Result], timeout: float = 20.0) -> Result:
    """What `work` returns, in a child of its own that ends with it. Raises ChildFailed, also when time is up."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            die_with_parent()
            with open(writing, "wb") as pipe:
                pipe.write(_outcome(work))
        finally:
            os._exit(0)
    os.close(writing)
    try:
        answer = _read_all(reading, time.monotonic() + timeout)
    finally:
        os.close(reading)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    if not answer:
        raise ChildFailed(f"the child returned nothing (wait status {status})")
    outcome: tuple[Result, str] = pickle.loads(answer)
    result, failure = outcome
    if failure:
        raise ChildFailed(failure)
    return result


def as_nobody(work: Callable[[], Result]) -> Result:
    """What `work` returns in a child that is nobody, without any other right."""

    def child() -> Result:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        return work()

    return in_child(child)


def process_status() -> dict[str, str]:
    """The fields of this process's /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {name: " ".join(value.split()) for name, _, value in (line.partition(":") for line in lines)}


def _outcome(work: Callable[[], object]) -> bytes:
    try:
        return pickle.dumps((work(), ""))
    except BaseException:
        return pickle.dumps((None, traceback.format_exc()))


def _read_all(descriptor: int, deadline: float) -> bytes:
    received = b""
    while True:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise ChildFailed("the child took too long")
        piece = os.read(descriptor, 65536)
        if not piece:
            return received
        received += piece

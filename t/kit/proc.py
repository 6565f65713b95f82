"""What the kernel tells of a process: descriptors, memory, processor time, how it ended (proc(5))."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import time
from collections.abc import Iterator
from pathlib import Path

UTIME, STIME, PARENT = 11, 12, 1


def _after_name(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def ticks(pid: int) -> int:
    """Processor time spent so far, user and system, in ticks of 10 ms. Raises FileNotFoundError."""
    fields = _after_name(pid)
    return int(fields[UTIME]) + int(fields[STIME])


def state(pid: int) -> str:
    """`R`, `S`, `T` (stopped), `Z` …; "" when there is no such process."""
    try:
        return _after_name(pid)[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def children(pid: int) -> set[int]:
    """The children of a process, zombies too: one read, for those who must be quick."""
    try:
        return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    except (FileNotFoundError, ProcessLookupError):
        return set()


def descriptors(pid: int) -> list[str]:
    """What the process has open: `socket:[1234]`, `pipe:[1]`, paths."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        except FileNotFoundError:
            pass
    return found


def memory(pid: int) -> dict[str, int]:
    """kB by kind: `Rss`, `Pss` (shared pages divided by who shares them), `Private_Dirty` …"""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return {name: int(size) for name, size in re.findall(r"^(\w+): +(\d+) kB", text, re.M)}


def raise_descriptor_limit() -> int:
    """Lets this process open as many files as it may; how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def switches(pid: int) -> int:
    """How often the process has gone to sleep of its own accord."""
    found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M)
    assert found
    return int(found.group(1))


def wait_newborn(pid: int, known: set[int], timeout: float = 10.0) -> int:
    """A child that is not among the known, within microseconds of its birth. Raises TimeoutError."""
    deadline = time.monotonic() + timeout
    while not (born := children(pid) - known):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no new child of {pid} within {timeout} s")
    return min(born)


@contextlib.contextmanager
def limited(pid: int, descriptors: int) -> Iterator[None]:
    """A process that may open no more files than so many at once (prlimit(2)); its later children neither."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (descriptors, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)

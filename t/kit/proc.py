"""Processes as the kernel shows them (proc(5)), and what a test does to them: psutil, and what it does not have."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

PR_SET_PDEATHSIG = 1
WRITABLE_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw")

_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """For `preexec_fn` of subprocess.Popen: the kernel kills the child when the thread that started it ends (prctl(2)).

    So nothing that a test starts outlives it, as long as it is started from a thread that lasts as long as the test.
    """
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def raise_descriptor_limit() -> int:
    """Lets this process open as many files as it may; returns how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


# Which processes there are


def is_running(pid: int) -> bool:
    """Whether there is such a process; a zombie is none."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def running_children(pid: int) -> list[int]:
    """The children of a process, oldest first, without zombies."""
    try:
        found = psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return []
    found.sort(key=lambda child: (child.create_time(), child.pid))
    return [child.pid for child in found if is_running(child.pid)]


def children(pid: int) -> set[int]:
    """The children of a process, zombies too. It takes microseconds, where psutil reads every process."""
    try:
        return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    except (FileNotFoundError, ProcessLookupError):
        return set()


def wait_new_child(pid: int, known: set[int], timeout: float = 10.0) -> int:
    """A child that is not among the known, within microseconds of its fork. Raises TimeoutError."""
    deadline = time.monotonic() + timeout
    while not (new := children(pid) - known):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no new child of {pid} within {timeout} s")
    return min(new)


def session_members(session: int) -> list[int]:
    """The processes of a session (setsid(2)), without zombies."""
    members = []
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(pid) == session and is_running(pid):
                members.append(pid)
    return members


# What they are like


def command_line(pid: int) -> str:
    """What ps(1) shows of a process: its title or its arguments; "" when there is no such process."""
    try:
        return " ".join(psutil.Process(pid).cmdline()).strip()
    except psutil.NoSuchProcess:
        return ""


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped the process."""
    return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)


def cpu_ticks(pid: int) -> int:
    """Processor time spent so far, user and system, in the kernel's steps of 10 ms."""
    times = psutil.Process(pid).cpu_times()
    return round((times.user + times.system) * 100)


def sleeps(pid: int) -> int:
    """How often the process has given up the processor of its own accord."""
    return int(psutil.Process(pid).num_ctx_switches().voluntary)


def resident_memory(pid: int) -> int:
    """Bytes of memory in use, those that are shared with other processes included."""
    return int(psutil.Process(pid).memory_info().rss)


def private_memory(*pids: int) -> int:
    """Bytes of memory that no other process shares, of all of these together. Needs root, or the same user."""
    return sum(psutil.Process(pid).memory_full_info().uss for pid in pids)


def memory_contains(pid: int, *needles: bytes) -> set[bytes]:
    """Which of the byte strings, none of which begins or ends with a null byte, stand somewhere in what the process may
    write to. Needs root, or the same user."""
    found: set[bytes] = set()
    with open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            mapping = WRITABLE_MAPPING.match(line)
            if mapping and "[vvar" not in line:
                start, end = (int(edge, 16) for edge in mapping.groups())
                with contextlib.suppress(OSError, ValueError, OverflowError):
                    memory.seek(start)
                    data = memory.read(end - start).strip(b"\0")  # most of a thread's stack has never been used
                    found.update(needle for needle in needles if needle in data)
    return found


def descriptors(pid: int) -> list[str]:
    """What the process has open: `socket:[1234]`, `pipe:[1]`, paths."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


# What is done to them


def wait_end(pid: int, timeout: float = 10.0) -> None:
    """Returns when the process has ended, which need not be a child of ours. Raises TimeoutError."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ready, _, _ = select.select([descriptor], [], [], timeout)
    finally:
        os.close(descriptor)
    if not ready:
        raise TimeoutError(f"process {pid} still runs after {timeout} s")


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Signals a process and waits for its end."""
    os.kill(pid, number)
    wait_end(pid)


@contextlib.contextmanager
def suspended(*pids: int) -> Iterator[None]:
    """These processes do nothing at all meanwhile."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def limited_descriptors(pid: int, number: int) -> Iterator[None]:
    """The process and its later children may open no more files than so many at once (prlimit(2))."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (number, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):  # it may have ended
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)

"""Looking into running processes, and doing to them what a test needs: their memory, their size, their end."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw")


def wait_end(pid: int, timeout: float = 10.0) -> None:
    """Returns when the process has ended. Raises TimeoutError."""
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
def frozen(*pids: int) -> Iterator[None]:
    """These processes do nothing at all meanwhile."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def memory_holds(pid: int, *needles: bytes) -> set[bytes]:
    """Which of the byte strings stand somewhere in what the process may write to. Needs root, or the same user."""
    found: set[bytes] = set()
    with open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            mapping = _MAPPING.match(line)
            if mapping and "[vvar" not in line:
                start, end = (int(edge, 16) for edge in mapping.groups())
                with contextlib.suppress(OSError, ValueError, OverflowError):
                    memory.seek(start)
                    data = memory.read(end - start)
                    found.update(needle for needle in needles if needle in data)
    return found


def resident(pids: Iterable[int]) -> int:
    """Bytes of memory that the processes have for themselves alone: private pages, what they share counted nowhere."""
    total = 0
    for pid in pids:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        total += sum(int(size) * 1024 for size in re.findall(r"^Private_\w+:\s+(\d+) kB", rollup, re.MULTILINE))
    return total

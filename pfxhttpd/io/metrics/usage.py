"""What the kernel knows of a process: memory, processor time and open files (proc(5))."""

from __future__ import annotations

import os
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_UTIME, _STIME, _RSS = 11, 12, 21
"""Fields of /proc/PID/stat, counted from the state, which is the first one behind the name."""


class Usage(NamedTuple):
    """Resident memory in bytes, processor time in seconds, and the number of open files; None if it may not be known."""

    memory: int
    processor: float
    files: int | None


def usage(pid: int) -> Usage | None:
    """None if there is no such process, or no /proc, as in most chroots."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    processor = (int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS
    return Usage(int(fields[_RSS]) * _PAGE, processor, _open_files(pid))


def _open_files(pid: int) -> int | None:
    """A process that has changed its user shows its files to root only, but since Linux 6.2 their number to everybody, as
    the size of the directory."""
    path = f"/proc/{pid}/fd"
    try:
        return os.stat(path).st_size or len(os.listdir(path))
    except OSError:
        return None

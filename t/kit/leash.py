"""Nothing that a test starts may outlive it: ties a child process to its parent, in the kernel.

PR_SET_PDEATHSIG, prctl(2): the kernel kills the child when the thread that started it ends. So processes are
started from threads that last: a test's own, not one that it made for the purpose.
"""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """For `preexec_fn` of subprocess.Popen."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the command's name, state first; None when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def children(pid: int) -> list[int]:
    """The living children of a process, oldest first; zombies do not count."""
    found = []
    for candidate in _pids():
        stat = _stat(candidate)
        if stat and int(stat[1]) == pid and stat[0] != "Z":
            found.append((int(stat[19]), candidate))
    return [candidate for _, candidate in sorted(found)]


def session_members(session: int) -> list[int]:
    """The living processes of a session (setsid(2)); zombies do not count."""
    members = []
    for candidate in _pids():
        stat = _stat(candidate)
        if stat and int(stat[3]) == session and stat[0] != "Z":
            members.append(candidate)
    return members


def alive(pid: int) -> bool:
    stat = _stat(pid)
    return stat is not None and stat[0] != "Z"


def command_line(pid: int) -> str:
    """What ps(1) shows of a process: its title or its arguments."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""

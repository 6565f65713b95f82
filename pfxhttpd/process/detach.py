"""Into the background: the process that was started waits until the daemon serves, and ends with its exit code.

python-daemon does the detaching and nothing else of what it can: its order of chroot, owner and pid file is not ours
(see `start`), and the pid file is to name the process that serves.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from daemon import DaemonContext


@dataclass(frozen=True, slots=True)
class Starter:
    """The process that was started and waits for a word; -1 for `told` when there is none, in the foreground."""

    told: int = -1

    def serving(self) -> None:
        """It may go, and with it its terminal: standard error is nobody's from here on."""
        if self.told >= 0:
            self.failed(os.EX_OK)
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 2)
            os.close(null)

    def failed(self, code: int) -> None:
        if self.told >= 0:
            os.write(self.told, bytes([code]))
            os.close(self.told)


def detach(preserve: list[int]) -> Starter:
    """Go on as a daemon that keeps the descriptors `preserve` and, until it serves, standard error.

    Standard output stays when it is no terminal, since it may be where the log goes. In the process that was started
    this does not return: it exits with 0 when the daemon serves, or with the exit code that the daemon ended with.
    """
    heard, told = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    middle = os.fork()
    if middle:
        os.close(told)
        os.waitpid(middle, 0)
        word = os.read(heard, 1)
        os._exit(word[0] if word else os.EX_SOFTWARE)
    os.close(heard)
    DaemonContext(
        detach_process=True,
        umask=0o077,
        files_preserve=[told, *preserve],
        stdout=None if os.isatty(1) else sys.stdout,
        stderr=sys.stderr,
        signal_map={},
    ).open()
    return Starter(told)

"""The machine that is measured on, and how much of it other programs have used."""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from .nginx import find_nginx
from .server import TICKS, Server


def describe_machine() -> dict[str, object]:
    """Without these facts the figures mean nothing."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processors": len(os.sched_getaffinity(0)),
        "model": model,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "nginx": find_nginx() is not None,
        "load_before": os.getloadavg()[0],
    }


class OtherLoad:
    """A context manager that finds out how much processor time others used meanwhile.

    Others are all processes but `servers`, this process and its finished children; and what the host of a virtual machine
    withheld. `share` is their part of all processors' time, between 0 and 1.
    """

    def __init__(self, servers: Sequence[Server]) -> None:
        self._servers = servers
        self.share = 0.0

    def __enter__(self) -> Self:
        self._before = self._read()
        return self

    def __exit__(self, *_: object) -> None:
        (used, elapsed), (used_before, elapsed_before) = self._read(), self._before
        self.share = max(0.0, used - used_before) / (elapsed - elapsed_before)

    def _read(self) -> tuple[float, float]:
        """Seconds of processor time used by others, and seconds available, each since the system's start."""
        ticks = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        user, nice, system, _, _, _, _, stolen = ticks
        ours = sum(server.processor_time() for server in self._servers)
        for which in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
            usage = resource.getrusage(which)
            ours += usage.ru_utime + usage.ru_stime
        return (user + nice + system + stolen) / TICKS - ours, sum(ticks) / TICKS

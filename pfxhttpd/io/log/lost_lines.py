"""How many log lines all processes together have lost, in memory that they share."""

from __future__ import annotations

import mmap
import os
import time

_SLOTS = 512
"""Counts. A process uses the one of its process id, so that hardly ever two processes write the same one."""


class LostLines:
    """Made before the first fork."""

    def __init__(self) -> None:
        memory = memoryview(mmap.mmap(-1, 8 * (1 + _SLOTS)))
        self._ints, self._floats = memory.cast("q"), memory.cast("d")

    def add(self) -> None:
        """This process has lost a line."""
        self._ints[1 + os.getpid() % _SLOTS] += 1
        self._floats[0] = time.monotonic()

    @property
    def count(self) -> int:
        """The lines that were lost since the start."""
        return sum(self._ints[1:])

    @property
    def last_at(self) -> float:
        """When the last one was lost (monotonic seconds); 0 for never."""
        return self._floats[0]

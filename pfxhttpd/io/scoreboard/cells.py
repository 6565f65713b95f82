"""The scoreboard's memory: rows of 64-bit cells, shared with all processes forked later."""

from __future__ import annotations

import mmap

CELLS = 16
"""Cells of a row."""
_NAME_CELL, _NAME_BYTES = 11, 40
"""The last cells of a row hold a name instead of numbers."""


class Cells:
    """The shared memory, seen as integers, as floats and as bytes."""

    def __init__(self, rows: int) -> None:
        self.memory = mmap.mmap(-1, rows * CELLS * 8)
        self.ints = memoryview(self.memory).cast("q")
        self.floats = memoryview(self.memory).cast("d")

    def write_name(self, base: int, name: bytes) -> None:
        """Write a `padded` name into the row whose first cell is `base`."""
        start = (base + _NAME_CELL) * 8
        self.memory[start : start + _NAME_BYTES] = name

    def read_name(self, base: int) -> str:
        start = (base + _NAME_CELL) * 8
        return self.memory[start : start + _NAME_BYTES].rstrip(b"\0").decode("utf-8", "replace")


def padded(name: str) -> bytes:
    """`name` as a row holds it: 40 bytes, cut or filled with NUL. Made once per entry, not per request."""
    return name.encode("utf-8", "replace")[:_NAME_BYTES].ljust(_NAME_BYTES, b"\0")

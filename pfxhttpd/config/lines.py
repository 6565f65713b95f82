"""Offsets in a text to lines and columns."""

from __future__ import annotations

import bisect

from pfxhttpd.config.problem import Place


class Lines:
    """The line starts of one text. Columns count characters, from 1."""

    def __init__(self, text: str, file: str) -> None:
        self._file = file
        self._starts = [0]
        offset = text.find("\n")
        while offset >= 0:
            self._starts.append(offset + 1)
            offset = text.find("\n", offset + 1)

    def place(self, offset: int) -> Place:
        """The place of the character at `offset`."""
        line = bisect.bisect_right(self._starts, offset)
        return Place(self._file, line, offset - self._starts[line - 1] + 1)

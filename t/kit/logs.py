"""The log of a running process, read as it is written: searchable, and something one can wait for."""

from __future__ import annotations

import os
import re
import select
import threading
import time
from fcntl import ioctl
from typing import IO

TAIL = 40
FIONREAD = 0x541B


class Log:
    """Collects the lines of a stream in a thread until its end.

    What a server has written before it answered is found after the answer, however late the thread runs.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._changed = threading.Condition()
        self._lines: list[str] = []
        self._ended = False
        self._stream = stream
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        fd, rest = self._stream.fileno(), b""
        while not self._ended:
            select.select([fd], [], [])
            with self._changed:
                data = os.read(fd, 1 << 16)
                *whole, rest = (rest + data).split(b"\n")
                if not data:
                    self._ended = True
                    if rest:
                        whole.append(rest)
                self._lines += [line.decode("utf-8", "backslashreplace") for line in whole]
                self._changed.notify_all()

    def _catch_up(self) -> None:
        """Wait until all that has been written is among the lines. The caller holds the lock, which reading takes too."""
        while not self._ended and int.from_bytes(ioctl(self._stream, FIONREAD, bytes(4)), "little"):
            self._changed.wait()

    def lines(self, start: int = 0) -> list[str]:
        """The lines so far, from number `start` on."""
        with self._changed:
            self._catch_up()
            return self._lines[start:]

    @property
    def position(self) -> int:
        """How many lines there are: a mark for `wait_for(..., start=mark)`."""
        with self._changed:
            self._catch_up()
            return len(self._lines)

    @property
    def text(self) -> str:
        return "\n".join(self.lines())

    @property
    def tail(self) -> str:
        """The last lines, as many as a failure's message bears."""
        return "\n".join(self.lines()[-TAIL:])

    def find(self, pattern: str, start: int = 0) -> list[str]:
        """The lines in which the regular expression is found."""
        return [line for line in self.lines(start) if re.search(pattern, line)]

    def wait_for(self, pattern: str, timeout: float = 10.0, start: int = 0) -> str:
        """The first line, from number `start` on, in which the regular expression is found.

        Raises TimeoutError; at once when the stream has ended without such a line.
        """
        expression = re.compile(pattern)
        deadline = time.monotonic() + timeout
        position = start
        with self._changed:
            while True:
                for line in self._lines[position:]:
                    if expression.search(line):
                        return line
                position = max(position, len(self._lines))
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    why = "the log ended" if self._ended else f"{timeout} s went by"
                    raise TimeoutError(f"{why} without a line like {pattern!r}:\n" + "\n".join(self._lines[-TAIL:]))
                self._changed.wait(left)

    def wait_end(self, timeout: float = 10.0) -> None:
        """Returns when every process that held the stream has ended. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._ended, timeout):
                raise TimeoutError("some process still holds the log open")

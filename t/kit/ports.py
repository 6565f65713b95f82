"""Ports of the loopback interface: free ones, ones that refuse, and ones where nobody ever answers.

Free ports are taken from below the kernel's ephemeral range, so that no outgoing connection of a test
can sit on one between the moment it was found free and the moment a daemon binds it.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Iterator

LOWEST, HIGHEST, BLOCK = 20000, 32000, 500

_dice = random.Random(os.urandom(8))


class _Blocks:
    """The ports this process may give out, by blocks that no other test run on the machine has.

    A block belongs to whoever has bound the abstract Unix socket of its name (unix(7)): the kernel forgets it with the
    process, and keeps one per network namespace, as it does ports.
    """

    def __init__(self) -> None:
        self._claims: list[socket.socket] = []
        self._next = self._end = 0

    def take(self, number: int) -> range:
        """The next so many ports in a row, free or not. Raises RuntimeError when every block is another's."""
        if self._next + number > self._end:
            self._claim()
        row = range(self._next, self._next + number)
        self._next += number
        return row

    def _claim(self) -> None:
        starts = list(range(LOWEST, HIGHEST, BLOCK))
        _dice.shuffle(starts)
        for start in starts:
            claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                claim.bind(f"\0pfxhttpd-tests-ports-{start}")
            except OSError:
                claim.close()
                continue
            self._claims.append(claim)
            self._next, self._end = start, start + BLOCK
            return
        raise RuntimeError(f"test runs use up all ports from {LOWEST} to {HIGHEST}")


_blocks = _Blocks()


def _binds(family: int, address: str, port: int) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as candidate:
        try:
            candidate.bind((address, port))
        except OSError:
            return False
    return True


def has_ipv6() -> bool:
    """Whether this machine's loopback speaks IPv6."""
    return socket.has_ipv6 and _binds(socket.AF_INET6, "::1", 0)


def free(number: int = 1) -> int:
    """The first of so many TCP ports in a row that are free on every address; never the same twice in a test run."""
    while True:
        row = _blocks.take(number)
        if all(_is_free(port) for port in row):
            return row[0]


def _is_free(port: int) -> bool:
    return _binds(socket.AF_INET, "", port) and (not has_ipv6() or _binds(socket.AF_INET6, "::", port))


@contextlib.contextmanager
def refusing() -> Iterator[int]:
    """A port that refuses connections for as long as the context lasts: bound, but not listening."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@contextlib.contextmanager
def unanswered() -> Iterator[int]:
    """A port where connecting itself hangs: its accept queue is full, so the kernel drops further SYNs."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]

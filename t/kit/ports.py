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

LOWEST, HIGHEST = 20000, 32000

_dice = random.Random(os.urandom(8))
_given: set[int] = set()


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
    for _ in range(1000):
        first = _dice.randrange(LOWEST, HIGHEST - number)
        row = range(first, first + number)
        if all(_is_free(port) for port in row):
            _given.update(row)
            return first
    raise RuntimeError(f"no {number} free TCP ports between {LOWEST} and {HIGHEST}")


def _is_free(port: int) -> bool:
    if port in _given or not _binds(socket.AF_INET, "", port):
        return False
    return not has_ipv6() or _binds(socket.AF_INET6, "::", port)


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

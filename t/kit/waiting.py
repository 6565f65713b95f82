"""Waiting for what tells nobody that it has happened: a process that ends, a file that vanishes, a counter that moves."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")

STEP = 0.005
"""Seconds between looks."""


def until(look: Callable[[], Found], what: str, timeout: float = 10.0) -> Found:
    """What `look` returns, as soon as that is true. Raises TimeoutError, naming `what` and the last that was seen."""
    deadline = time.monotonic() + timeout
    while not (found := look()):
        if time.monotonic() >= deadline:
            raise TimeoutError(f"{what} awaited for {timeout} s; at last: {found!r}")
        time.sleep(STEP)
    return found

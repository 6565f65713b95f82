"""Ends what waits forever: for tests of code that must not wait."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager


class StillWaiting(Exception):
    """Not TimeoutError, which is an OSError and so is caught by the code that is tried."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raises StillWaiting in the middle of whatever the main thread waits for once the time is up."""

    def ring(number: int, frame: object) -> None:
        raise StillWaiting(f"after {seconds} s")

    began = time.monotonic()
    handler = signal.signal(signal.SIGALRM, ring)
    outer, _ = signal.setitimer(signal.ITIMER_REAL, seconds)  # pytest-timeout's limit for the test, or 0
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if outer:
            signal.setitimer(signal.ITIMER_REAL, max(0.001, outer - (time.monotonic() - began)))

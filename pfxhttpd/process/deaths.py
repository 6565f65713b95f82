"""The processes that have ended without having been told to."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass

from pfxhttpd.io.log import Logger
from pfxhttpd.process.child import Child

MAX_DEATHS = 1000
"""Deaths that are remembered."""


@dataclass(frozen=True, slots=True)
class Death:
    """When a process died (monotonic seconds), which, and why."""

    at: float
    process: str
    why: str


class Deaths:
    """The latest deaths, the oldest first."""

    def __init__(self) -> None:
        self._deaths: deque[Death] = deque(maxlen=MAX_DEATHS)
        self._vacant: set[str] = set()
        self.counts: Counter[str] = Counter()
        """All deaths since the start, by the role of the process."""

    def __iter__(self) -> Iterator[Death]:
        return iter(self._deaths)

    def add(self, child: Child, why: str, now: float, logger: Logger) -> None:
        """The child has died."""
        self._deaths.append(Death(now, child.name, why))
        self._vacant.add(child.name)
        self.counts[child.role] += 1
        if logger.error:
            logger.error("Process died", process=child.name, pid=child.pid, why=why)

    def log_replacement(self, child: Child, logger: Logger) -> None:
        """The child was started; log that if it takes the place of a dead one."""
        if child.name in self._vacant:
            self._vacant.discard(child.name)
            if logger.info:
                logger.info("Process replaced", process=child.name, pid=child.pid)

"""How busy the pools are. A pool is saturated while all its workers are busy and clients wait for one of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pfxhttpd.io import listen
from pfxhttpd.io.log import Logger
from pfxhttpd.io.scoreboard import Scoreboard
from pfxhttpd.process.child import Child, State
from pfxhttpd.process.generation import Generation

LOG_INTERVAL = 60.0
"""Seconds between two lines in the log about a pool that stays saturated."""


@dataclass(frozen=True, slots=True)
class PoolLoad:
    """A pool at one moment.

    `waiting` clients have sent something and wait in the ready queue, `backlog` clients wait for their connections to be
    accepted. `busy_since` is when the last of the workers became busy (monotonic seconds); 0 unless all are.
    """

    title: str
    workers: int
    busy: int
    waiting: int
    backlog: int
    busy_since: float

    @property
    def saturated(self) -> bool:
        return self.busy_since > 0 and self.waiting + self.backlog > 0


def pool_loads(generation: Generation, board: Scoreboard, children: Iterable[Child]) -> dict[str, PoolLoad]:
    """The load of each pool, by its key."""
    views = [board.view(child.row) for child in children if child.row >= 0 and child.state is State.SERVING]
    loads = {}
    for key, runtime in generation.pools.items():
        own = [view for view in views if view.pool == runtime.index]
        busy = [view.since for view in own if view.state == "busy"]
        loads[key] = PoolLoad(
            title=runtime.title,
            workers=len(own),
            busy=len(busy),
            waiting=board.pool(runtime.index).waiting,
            backlog=sum(map(listen.backlog, runtime.listeners.values())),
            busy_since=max(busy) if busy and len(busy) == len(own) else 0.0,
        )
    return loads


class SaturationLog:
    """Logs that a pool is saturated: once it has been for two looks, then once a minute, and when it is no longer."""

    def __init__(self) -> None:
        self.since: dict[str, float] = {}
        """The pools that are saturated, by key: since when (monotonic seconds)."""
        self._titles: dict[str, str] = {}
        self._logged_at: dict[str, float] = {}

    def look(self, loads: Mapping[str, PoolLoad], now: float, logger: Logger) -> None:
        """The loads of all pools at the time `now` (monotonic seconds)."""
        for key, load in loads.items():
            if not load.saturated:
                self._end(key, now, logger)
            elif key not in self.since:
                self.since[key], self._titles[key] = load.busy_since, load.title
            elif now >= self._logged_at.get(key, -math.inf) + LOG_INTERVAL:
                self._logged_at[key] = now
                if logger.error:
                    logger.error(
                        "All workers are busy and clients wait",
                        pool=load.title,
                        workers=load.workers,
                        waiting=load.waiting + load.backlog,
                        seconds=round(now - self.since[key], 1),
                    )
        for key in set(self.since) - set(loads):
            self._end(key, now, logger)

    def _end(self, key: str, now: float, logger: Logger) -> None:
        since = self.since.pop(key, None)
        if self._logged_at.pop(key, None) is not None and since is not None and logger.info:
            logger.info("Workers are free again", pool=self._titles[key], seconds=round(now - since, 1))

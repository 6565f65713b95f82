"""Which children do not respond any more: a request that lasts too long, or a heartbeat that is late.

Parking and the cache write a heartbeat to the scoreboard; so does a worker without a request. A worker with one has its
deadline there. A process that is stopped, or caught in an endless loop, does none of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pfxhttpd.io.scoreboard import Scoreboard
from pfxhttpd.process.child import Child, State

HEARTBEAT_INTERVAL = 3.0
"""Seconds between the heartbeats of a process that has nothing else to do."""
HEARTBEAT_TIMEOUT = 10.0
"""Seconds without a heartbeat after which a process counts as stuck."""
DEADLINE_GRACE = 5.0
"""Seconds past a request's deadline after which its worker counts as stuck."""
START_TIMEOUT = 20.0
"""Seconds that a child may take until it is ready."""


class Liveness:
    """Remembers when each child was last seen alive. All times are monotonic seconds."""

    def __init__(self, board: Scoreboard) -> None:
        self._board = board
        self._seen: dict[int, tuple[object, float]] = {}
        """By pid: what the child showed at the last change, and when that was seen first."""
        self._checked_at = 0.0

    def stuck(self, children: Iterable[Child], now: float) -> Iterator[tuple[Child, str]]:
        """The children that count as stuck, each with the reason."""
        paused = now - self._checked_at > HEARTBEAT_TIMEOUT / 2  # this process did not run either: a suspended machine
        self._checked_at = now
        seen, self._seen = self._seen, {}
        for child in children:
            sign = self._sign_of_life(child)
            before, since = seen.get(child.pid, (None, now))
            if sign != before or paused:
                since = now
            self._seen[child.pid] = sign, since
            reason = self._reason(child, now, since)
            if reason:
                yield child, reason

    def responsive(self, child: Child | None, now: float) -> bool:
        """Whether parking or the cache has shown a heartbeat in time."""
        return child is None or now - self._seen.get(child.pid, (None, now))[1] <= HEARTBEAT_TIMEOUT

    def _sign_of_life(self, child: Child) -> object:
        """Something that changes as long as the child runs."""
        if child.row < 0:
            return child.state, self._board.last_beat(child.name)
        view = self._board.view(child.row)
        return child.state, view.state, view.since, view.requests

    def _reason(self, child: Child, now: float, since: float) -> str:
        limit = START_TIMEOUT if child.state in (State.STARTING, State.LEAVING) else HEARTBEAT_TIMEOUT
        if child.row >= 0:
            view = self._board.view(child.row)
            if view.state == "busy":
                return "its request's deadline is over" if now > view.deadline + DEADLINE_GRACE else ""
        return f"no heartbeat for {now - since:.0f} s" if now - since > limit else ""

"""The circuit breaker at work: `rules.breaker`'s rule on a target's row of the scoreboard, shared by all workers.

A request to a healthy target reads one number and writes nothing, and so does one that is refused. Only where the state
may change is the row locked, for the time it takes to decide.

The breaker is a help, never a need: a row that cannot be locked, because a worker was stopped while it had it, is left as
it is, and requests go out as if there were no breaker.
"""

from __future__ import annotations

import math
import time

from pfxhttpd.io.log import Logger
from pfxhttpd.io.scoreboard import Scoreboard
from pfxhttpd.rules.breaker import (
    ALLOW,
    CLOSED,
    HALF_OPEN,
    PROBE,
    REFUSE,
    STATE_NAMES,
    BreakerRule,
    BreakerState,
    decide,
    record,
)
from pfxhttpd.rules.response import BackendError

STEP = 0.002
"""Seconds between looks at what others' requests come to."""


class BreakerOpen(BackendError):
    """The target has failed too often of late and is not asked for now."""


class SharedBreaker:
    """One target's breaker. `row` is its row on the board; `target` is its name in log lines.

    At most `probes` targets are probed at the same time: a probe may hold its worker until the timeout, and targets
    that share a host fail together.
    """

    def __init__(
        self, board: Scoreboard, row: int, rule: BreakerRule, probes: int, target: str, logger: Logger
    ) -> None:
        self._board, self._row, self._rule, self._probes = board, board.target(row), rule, probes
        self._target, self._log = target, logger
        self._late_at = -math.inf

    def enter(self) -> int:
        """Leave to ask the target, to be handed back to `leave`. Raises `Open` when it is to be left alone."""
        row = self._row
        if row.healthy:
            return ALLOW
        self._settle()
        if row.state == CLOSED:
            return ALLOW
        leave, _ = decide(BreakerState(*row.read()), time.monotonic(), self._rule)
        if leave == PROBE:
            leave = self._probe()
        if leave == REFUSE:
            raise BreakerOpen("backend has failed repeatedly and is given a pause")
        return leave

    def _settle(self) -> None:
        """If a request of this worker's has just timed out, see what becomes of those that others sent at that time."""
        row, until = self._row, self._late_at + self._rule.settle
        while row.state == CLOSED and not row.healthy and time.monotonic() < until:
            time.sleep(STEP)

    def _probe(self) -> int:
        """It seems to be time for a probe: see whether this request may be the one."""
        row = self._row
        if row.state != HALF_OPEN and self._board.count_targets(HALF_OPEN) >= self._probes:
            return REFUSE
        if not row.lock():
            return ALLOW
        try:
            before = BreakerState(*row.read())
            leave, after = decide(before, time.monotonic(), self._rule)
            if leave == PROBE:
                row.write(*after)
        finally:
            row.unlock()
        self._tell(before, after)
        return leave

    def leave(self, given: int, success: bool, late: bool = False) -> None:
        """How the request went that had been given leave; `late` if it took all the time there was."""
        row = self._row
        if late:
            self._late_at = time.monotonic()
        if row.healthy and (success or not self._rule.failures):
            return
        if not row.lock():
            return
        try:
            before = BreakerState(*row.read())
            after = record(before, given, success, time.monotonic(), self._rule)
            if after is not before:
                row.write(*after)
        finally:
            row.unlock()
        self._tell(before, after)

    def _tell(self, before: BreakerState, after: BreakerState) -> None:
        if before.state != after.state and self._log.info:
            self._log.info(
                "Circuit breaker changed", target=self._target, state=STATE_NAMES[after.state], failures=after.failures
            )

"""The circuit breaker at work: the rule of `rules.breaker` on a target's row of the scoreboard, shared by all workers.

A request to a healthy target reads one number and writes nothing; so does a request that is refused. The row is locked
only where its state may change, for as long as the decision takes. A row that cannot be locked, because a worker was
stopped while it held the lock, is left as it is, and requests are sent as if there were no breaker.
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
    Outcome,
    decide,
    record,
)
from pfxhttpd.rules.response import BackendError

POLL_INTERVAL = 0.002
"""Seconds between looks at the outcome of other workers' requests."""


class BreakerOpen(BackendError):
    """The target has failed too often of late and is not asked for now."""


class SharedBreaker:
    """One target's breaker. `row` is its row on the board; `target` is its name in log lines.

    At most `probes` targets are probed at the same time: a probe may occupy its worker until the timeout, and targets
    that share a host fail together.
    """

    def __init__(
        self, board: Scoreboard, row: int, rule: BreakerRule, probes: int, target: str, logger: Logger
    ) -> None:
        self._board, self._row, self._rule, self._probes = board, board.target(row), rule, probes
        self._target, self._log = target, logger
        self._timed_out_at = -math.inf

    @property
    def healthy(self) -> bool:
        """Whether the breaker is closed and counts no failure; then a success has not to be recorded."""
        return self._row.healthy

    def acquire(self) -> int:
        """The decision to send a request, to be handed to `record`. Raises BreakerOpen when none may be sent."""
        row = self._row
        if row.healthy:
            return ALLOW
        self._await_outcomes()
        if row.state == CLOSED:
            return ALLOW
        decision, _ = decide(BreakerState(*row.read()), time.monotonic(), self._rule)
        if decision == PROBE:
            decision = self._acquire_probe()
        if decision == REFUSE:
            raise BreakerOpen("backend has failed repeatedly and is given a pause")
        return decision

    def _await_outcomes(self) -> None:
        """Requests that were sent together time out together. If one of this worker's has just timed out, let the
        others be counted before it sends another."""
        row, until = self._row, self._timed_out_at + self._rule.settle
        while row.state == CLOSED and not row.healthy and time.monotonic() < until:
            time.sleep(POLL_INTERVAL)

    def _acquire_probe(self) -> int:
        """A probe seems to be due; decide whether this request may be it."""
        row = self._row
        if row.state != HALF_OPEN and self._board.count_targets(HALF_OPEN) >= self._probes:
            return REFUSE
        if not row.lock():
            return ALLOW
        try:
            before = BreakerState(*row.read())
            decision, after = decide(before, time.monotonic(), self._rule)
            if decision == PROBE:
                row.write(*after)
        finally:
            row.unlock()
        self._log_change(before, after)
        return decision

    def record(self, decision: int, outcome: Outcome, timed_out: bool = False, key: int = 0) -> None:
        """The outcome of a request for which `acquire` gave `decision`. A KEY_FAILURE needs the `key_hash`."""
        row = self._row
        if row.healthy and (outcome is Outcome.SUCCESS or not self._rule.failures):
            return
        if timed_out:
            self._timed_out_at = time.monotonic()
        if not row.lock():
            return
        try:
            before = BreakerState(*row.read())
            after = record(before, decision, outcome, time.monotonic(), self._rule, key)
            if after is not before:
                row.write(*after)
        finally:
            row.unlock()
        self._log_change(before, after)

    def _log_change(self, before: BreakerState, after: BreakerState) -> None:
        if before.state == after.state:
            return
        log = self._log.info if after.state == HALF_OPEN else self._log.error
        if log:
            log("Circuit breaker changed", target=self._target, state=STATE_NAMES[after.state], failures=after.failures)

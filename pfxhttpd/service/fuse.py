"""The circuit breaker at work: `exchange.breaker`'s rule on a target's row of the scoreboard, shared by all workers.

A request to a healthy target reads one number and writes nothing. Only where the state may change is the row locked, for
the time it takes to decide.
"""

from __future__ import annotations

import time

from pfxhttpd.exchange.answer import BackendFailure
from pfxhttpd.exchange.breaker import CLOSED, REFUSE, STATES, Breaker, Rule, allow, record
from pfxhttpd.outside.journal import Journal
from pfxhttpd.outside.scoreboard import TargetRow


class Open(BackendFailure):
    """The target has failed too often of late and is not asked for now."""


class Fuse:
    """One target's breaker. `target` is its name in log lines."""

    def __init__(self, row: TargetRow, rule: Rule, target: str, journal: Journal) -> None:
        self._row, self._rule, self._target, self._log = row, rule, target, journal

    def enter(self) -> int:
        """Leave to ask the target, to be handed back to `leave`. Raises `Open` when it is to be left alone."""
        if self._row.state == CLOSED:
            return 0
        with self._row.locked():
            leave, after = allow(Breaker(*self._row.read()), time.monotonic(), self._rule)
            changed = self._write(after)
        if changed:
            self._tell(after)
        if leave == REFUSE:
            raise Open("backend has failed repeatedly and is given a pause")
        return leave

    def leave(self, given: int, success: bool) -> None:
        """How the request went that had been given leave."""
        if success and self._row.healthy:
            return
        with self._row.locked():
            after = record(Breaker(*self._row.read()), given, success, time.monotonic(), self._rule)
            changed = self._write(after)
        if changed:
            self._tell(after)

    def _write(self, after: Breaker) -> bool:
        before = self._row.state
        self._row.write(after.state, after.failures, after.since)
        return before != after.state

    def _tell(self, breaker: Breaker) -> None:
        if self._log.info:
            self._log.info("Circuit breaker changed", target=self._target, state=STATES[breaker.state],
                           failures=breaker.failures)

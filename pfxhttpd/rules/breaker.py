"""The circuit breaker's rule: after so many failures in a row a target is left alone for a while, then one request probes.

A pure function of the state, the event and the time. The state is three numbers, so that its keeper can hold it in shared
memory; whoever keeps it sees to it that reading, deciding and writing back are one step.

            failures in a row              cooldown over, first to ask
    CLOSED ------------------> OPEN -----------------------------------> HALF_OPEN
       ^                        ^              probe failed                 |  |
       |                        +-------------------------------------------+  |
       +--------------------------------- any success -------------------------+
"""

from __future__ import annotations

from typing import NamedTuple

CLOSED, OPEN, HALF_OPEN = 0, 1, 2
STATE_NAMES = {CLOSED: "closed", OPEN: "open", HALF_OPEN: "half-open"}

ALLOW, PROBE, REFUSE = 0, 1, 2
"""What `decide` says: go ahead, go ahead and be the one that decides, or answer at once as a backend failure."""


class BreakerRule(NamedTuple):
    """`failures` in a row open the breaker (0: never); `cooldown` and `lease` are seconds.

    A probe that has not reported after `lease`, because its worker died, is given up and another one goes.
    The lease should be longer than the target's timeout.

    Requests that set out together time out together. For `settle` seconds after a timeout of its own, a worker lets the
    others' count before it asks again: else whoever is first would be held for another timeout.
    """

    failures: int
    cooldown: float
    lease: float
    settle: float = 0.0


class BreakerState(NamedTuple):
    """`state` is CLOSED, OPEN or HALF_OPEN; `failures` counts those in a row; `since` is when
    the state began, for OPEN after a failed probe when that probe began."""

    state: int
    failures: int
    since: float


FRESH = BreakerState(CLOSED, 0, 0.0)


def decide(breaker: BreakerState, now: float, rule: BreakerRule) -> tuple[int, BreakerState]:
    """Whether a request may go to the target now (ALLOW, PROBE or REFUSE), and the state from here on."""
    if breaker.state == CLOSED or not rule.failures:
        return ALLOW, breaker
    pause = rule.cooldown if breaker.state == OPEN else rule.lease
    if now < breaker.since + pause:
        return REFUSE, breaker
    return PROBE, BreakerState(HALF_OPEN, breaker.failures, now)


def record(breaker: BreakerState, leave: int, success: bool, now: float, rule: BreakerRule) -> BreakerState:
    """The state after a request has come to its end. `leave` is what `decide` told it: ALLOW or PROBE.

    A success closes the breaker whoever brings it. A failure of a request that set out before the breaker opened
    changes nothing any more: it neither prolongs the cooldown nor decides for the probe.
    """
    if success or not rule.failures:
        return FRESH if breaker.state or breaker.failures else breaker
    if breaker.state == CLOSED:
        failures = breaker.failures + 1
        return BreakerState(OPEN if failures >= rule.failures else CLOSED, failures, now)
    if breaker.state == HALF_OPEN and leave == PROBE:
        # The pause counts from the probe's start: a probe that hung until its timeout has waited already, and a
        # backend that came back in the meantime is found within one cooldown.
        return BreakerState(OPEN, breaker.failures, breaker.since)
    return breaker

"""The rule of the circuit breaker: a target that fails several times in a row gets no requests until a probe succeeds.

The rule is a pure function of state, event and time. The state is three numbers, so it can be kept in shared memory.
The caller makes sure that reading the state, applying the rule and writing the new state are one atomic step.

            failures in a row            first request after the cooldown
    CLOSED ------------------> OPEN -------------------------------------> HALF_OPEN
       ^                        ^               probe failed                  |  |
       |                        +---------------------------------------------+  |
       +---------------------------------- any success --------------------------+
"""

from __future__ import annotations

from typing import NamedTuple

CLOSED, OPEN, HALF_OPEN = 0, 1, 2
STATE_NAMES = {CLOSED: "closed", OPEN: "open", HALF_OPEN: "half-open"}

ALLOW, PROBE, REFUSE = 0, 1, 2
"""The decisions on a request: it may be sent, it may be sent as the probe, or it fails at once as a backend failure."""


class BreakerRule(NamedTuple):
    """The parameters of a breaker.

    `failures` in a row open it (0: never). It stays open for `cooldown` seconds. A probe without a result after `lease`
    seconds, for example because its worker died, is given up and another request becomes the probe; `lease` should be
    longer than the target's timeout.

    Requests that are sent together also time out together. A worker whose request has just timed out therefore waits up
    to `settle` seconds for the results of the others before it sends the next request, which could otherwise have to
    wait for one more timeout.
    """

    failures: int
    cooldown: float
    lease: float
    settle: float = 0.0


class BreakerState(NamedTuple):
    """`state` is CLOSED, OPEN or HALF_OPEN. `failures` is the number of failures in a row.

    `since` is the time in seconds at which the state began, or at which the probe was sent that failed.
    """

    state: int
    failures: int
    since: float


FRESH = BreakerState(CLOSED, 0, 0.0)


def decide(breaker: BreakerState, now: float, rule: BreakerRule) -> tuple[int, BreakerState]:
    """The decision on a request at the time `now` (ALLOW, PROBE or REFUSE), and the new state."""
    if breaker.state == CLOSED or not rule.failures:
        return ALLOW, breaker
    pause = rule.cooldown if breaker.state == OPEN else rule.lease
    if now < breaker.since + pause:
        return REFUSE, breaker
    return PROBE, BreakerState(HALF_OPEN, breaker.failures, now)


def record(breaker: BreakerState, decision: int, success: bool, now: float, rule: BreakerRule) -> BreakerState:
    """The new state after the end of a request. `decision` is what `decide` returned for it, ALLOW or PROBE.

    Any success closes the breaker. The failure of a request that was sent before the breaker opened changes nothing: it
    neither prolongs the cooldown nor counts as the result of the probe.
    """
    if success or not rule.failures:
        return FRESH if breaker.state or breaker.failures else breaker
    if breaker.state == CLOSED:
        failures = breaker.failures + 1
        return BreakerState(OPEN if failures >= rule.failures else CLOSED, failures, now)
    if breaker.state == HALF_OPEN and decision == PROBE:
        # The cooldown counts from the start of the probe. A probe that timed out has already waited, and a backend that
        # recovered in the meantime is found within one cooldown.
        return BreakerState(OPEN, breaker.failures, breaker.since)
    return breaker

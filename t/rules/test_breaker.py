"""The rule of the circuit breaker: an outage costs a few timeouts, not one per request, and its end is noticed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from pfxhttpd.rules.breaker import (
    ALLOW,
    CLOSED,
    FRESH,
    HALF_OPEN,
    OPEN,
    PROBE,
    REFUSE,
    STATE_NAMES,
    BreakerRule,
    BreakerState,
    decide,
    record,
)

RULE = BreakerRule(failures=3, cooldown=5.0, lease=60.0)
OFF = BreakerRule(failures=0, cooldown=5.0, lease=60.0)
BROKEN = BreakerState(OPEN, 3, 100.0)
PROBING = BreakerState(HALF_OPEN, 3, 105.0)


@pytest.mark.parametrize(
    ("breaker", "now", "decision", "after"),
    [
        (FRESH, 0.0, ALLOW, FRESH),
        (BreakerState(CLOSED, 2, 50.0), 51.0, ALLOW, BreakerState(CLOSED, 2, 50.0)),
        (BROKEN, 100.0, REFUSE, BROKEN),
        (BROKEN, 104.9, REFUSE, BROKEN),
        (BROKEN, 105.0, PROBE, PROBING),
        (PROBING, 105.0, REFUSE, PROBING),
        (PROBING, 164.9, REFUSE, PROBING),
        (PROBING, 165.0, PROBE, BreakerState(HALF_OPEN, 3, 165.0)),
    ],
)
def test_decisions(breaker: BreakerState, now: float, decision: int, after: BreakerState) -> None:
    assert decide(breaker, now, RULE) == (decision, after)


@pytest.mark.parametrize(
    ("breaker", "decision", "success", "after"),
    [
        (FRESH, ALLOW, True, FRESH),
        (FRESH, ALLOW, False, BreakerState(CLOSED, 1, 200.0)),
        (BreakerState(CLOSED, 1, 1.0), ALLOW, False, BreakerState(CLOSED, 2, 200.0)),
        (BreakerState(CLOSED, 2, 1.0), ALLOW, False, BreakerState(OPEN, 3, 200.0)),
        (BreakerState(CLOSED, 2, 1.0), ALLOW, True, FRESH),
        (BreakerState(CLOSED, 7, 1.0), ALLOW, False, BreakerState(OPEN, 8, 200.0)),
        (BROKEN, ALLOW, False, BROKEN),
        (BROKEN, ALLOW, True, FRESH),
        (BROKEN, PROBE, False, BROKEN),
        (PROBING, PROBE, True, FRESH),
        (PROBING, PROBE, False, BreakerState(OPEN, 3, 105.0)),
        (PROBING, ALLOW, False, PROBING),
        (PROBING, ALLOW, True, FRESH),
    ],
)
def test_the_result_of_a_request(breaker: BreakerState, decision: int, success: bool, after: BreakerState) -> None:
    assert record(breaker, decision, success, 200.0, RULE) == after


@pytest.mark.parametrize("breaker", [FRESH, BROKEN, PROBING, BreakerState(CLOSED, 99, 0.0)])
def test_a_rule_without_failures_allows_everything(breaker: BreakerState) -> None:
    assert decide(breaker, 0.0, OFF) == (ALLOW, breaker)
    assert record(breaker, ALLOW, False, 0.0, OFF) == FRESH


def test_an_outage_costs_the_number_of_failures_and_then_one_probe_per_cooldown() -> None:
    breaker, sent = FRESH, []
    for second in range(60):
        decision, breaker = decide(breaker, float(second), RULE)
        if decision != REFUSE:
            sent.append(second)
            breaker = record(breaker, decision, False, float(second), RULE)
    assert sent == [0, 1, *range(2, 60, 5)]


def test_a_rule_of_one_failure_opens_at_once() -> None:
    assert record(FRESH, ALLOW, False, 1.0, BreakerRule(1, 5.0, 60.0)) == BreakerState(OPEN, 1, 1.0)


def test_every_state_has_a_name() -> None:
    assert set(STATE_NAMES) == {CLOSED, OPEN, HALF_OPEN}


EVENTS = some.lists(
    some.tuples(some.sampled_from(["request", "success", "failure", "loss"]), some.floats(0, 20, allow_nan=False)),
    max_size=60,
)


@given(EVENTS)
def test_there_is_at_most_one_probe_and_no_target_is_refused_for_ever(events: list[tuple[str, float]]) -> None:
    breaker, now, pending = FRESH, 0.0, []
    probed_at = None
    for event, pause in events:
        now += pause
        if event == "request":
            decision, breaker = decide(breaker, now, RULE)
            if decision == PROBE:
                assert probed_at is None or now >= probed_at + min(RULE.cooldown, RULE.lease)
                probed_at = now
            if decision != REFUSE:
                pending.append(decision)
        elif pending:
            decision = pending.pop()
            if event != "loss":
                breaker = record(breaker, decision, event == "success", now, RULE)
                if event == "success":
                    assert breaker == FRESH
        assert (breaker.state == CLOSED) == (breaker.failures < RULE.failures)
    later = now + RULE.cooldown + RULE.lease
    assert decide(breaker, later, RULE)[0] != REFUSE

"""The circuit breaker: a black hole costs a few timeouts, not one a request, and its end is noticed."""

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
    ("breaker", "now", "leave", "after"),
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
def test_who_may_ask(breaker: BreakerState, now: float, leave: int, after: BreakerState) -> None:
    assert decide(breaker, now, RULE) == (leave, after)


@pytest.mark.parametrize(
    ("breaker", "leave", "success", "after"),
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
def test_what_an_end_changes(breaker: BreakerState, leave: int, success: bool, after: BreakerState) -> None:
    assert record(breaker, leave, success, 200.0, RULE) == after


@pytest.mark.parametrize("breaker", [FRESH, BROKEN, PROBING, BreakerState(CLOSED, 99, 0.0)])
def test_it_can_be_off(breaker: BreakerState) -> None:
    assert decide(breaker, 0.0, OFF) == (ALLOW, breaker)
    assert record(breaker, ALLOW, False, 0.0, OFF) == FRESH


def test_a_black_hole_costs_as_many_timeouts_as_the_rule_says_and_then_one_a_cooldown() -> None:
    breaker, asked = FRESH, []
    for second in range(60):
        leave, breaker = decide(breaker, float(second), RULE)
        if leave != REFUSE:
            asked.append(second)
            breaker = record(breaker, leave, False, float(second), RULE)
    assert asked == [0, 1, *range(2, 60, 5)]


def test_one_failure_of_the_rule_one_opens_at_once() -> None:
    assert record(FRESH, ALLOW, False, 1.0, BreakerRule(1, 5.0, 60.0)) == BreakerState(OPEN, 1, 1.0)


def test_every_state_has_a_name() -> None:
    assert set(STATE_NAMES) == {CLOSED, OPEN, HALF_OPEN}


EVENTS = some.lists(
    some.tuples(some.sampled_from(["ask", "succeed", "fail", "die"]), some.floats(0, 20, allow_nan=False)), max_size=60
)


@given(EVENTS)
def test_at_most_one_probe_is_under_way_and_nothing_stays_refused(events: list[tuple[str, float]]) -> None:
    breaker, now, under_way = FRESH, 0.0, []
    probed_at = None
    for event, pause in events:
        now += pause
        if event == "ask":
            leave, breaker = decide(breaker, now, RULE)
            if leave == PROBE:
                assert probed_at is None or now >= probed_at + min(RULE.cooldown, RULE.lease)
                probed_at = now
            if leave != REFUSE:
                under_way.append(leave)
        elif under_way:
            leave = under_way.pop()
            if event != "die":
                breaker = record(breaker, leave, event == "succeed", now, RULE)
                if event == "succeed":
                    assert breaker == FRESH
        assert (breaker.state == CLOSED) == (breaker.failures < RULE.failures)
    later = now + RULE.cooldown + RULE.lease
    assert decide(breaker, later, RULE)[0] != REFUSE

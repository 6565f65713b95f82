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
    MAX_KEYS,
    OPEN,
    PROBE,
    REFUSE,
    STATE_NAMES,
    BreakerRule,
    BreakerState,
    Outcome,
    decide,
    key_hash,
    outcome_of,
    record,
)

SUCCESS, FAILURE, KEY_FAILURE = Outcome.SUCCESS, Outcome.FAILURE, Outcome.KEY_FAILURE

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
    ("breaker", "decision", "outcome", "after"),
    [
        (FRESH, ALLOW, SUCCESS, FRESH),
        (FRESH, ALLOW, FAILURE, BreakerState(CLOSED, 1, 200.0)),
        (BreakerState(CLOSED, 1, 1.0), ALLOW, FAILURE, BreakerState(CLOSED, 2, 200.0)),
        (BreakerState(CLOSED, 2, 1.0), ALLOW, FAILURE, BreakerState(OPEN, 3, 200.0)),
        (BreakerState(CLOSED, 2, 1.0, (7,)), ALLOW, FAILURE, BreakerState(OPEN, 3, 200.0, (7,))),
        (BreakerState(CLOSED, 2, 1.0, (7, 8)), ALLOW, SUCCESS, FRESH),
        (BreakerState(CLOSED, 7, 1.0), ALLOW, FAILURE, BreakerState(OPEN, 8, 200.0)),
        (BROKEN, ALLOW, FAILURE, BROKEN),
        (BROKEN, ALLOW, SUCCESS, FRESH),
        (BROKEN, PROBE, FAILURE, BROKEN),
        (PROBING, PROBE, SUCCESS, FRESH),
        (PROBING, PROBE, FAILURE, BreakerState(OPEN, 3, 105.0)),
        (PROBING, ALLOW, FAILURE, PROBING),
        (PROBING, ALLOW, SUCCESS, FRESH),
    ],
)
def test_the_result_of_a_request(breaker: BreakerState, decision: int, outcome: Outcome, after: BreakerState) -> None:
    assert record(breaker, decision, outcome, 200.0, RULE) == after


KEY = 11
FULL = tuple(range(20, 20 + MAX_KEYS))


@pytest.mark.parametrize(
    ("breaker", "decision", "after"),
    [
        (FRESH, ALLOW, BreakerState(CLOSED, 1, 200.0, (KEY,))),
        (BreakerState(CLOSED, 1, 1.0, (KEY,)), ALLOW, BreakerState(CLOSED, 1, 1.0, (KEY,))),
        (BreakerState(CLOSED, 2, 1.0, (7, KEY)), ALLOW, BreakerState(CLOSED, 2, 1.0, (7, KEY))),
        (BreakerState(CLOSED, 2, 1.0, (7, 8)), ALLOW, BreakerState(OPEN, 3, 200.0, (7, 8, KEY))),
        (BreakerState(CLOSED, 2, 1.0, FULL), ALLOW, BreakerState(OPEN, 3, 200.0, FULL)),
        (BreakerState(OPEN, 3, 100.0, (KEY,)), ALLOW, BreakerState(OPEN, 3, 100.0, (KEY,))),
        (BreakerState(HALF_OPEN, 3, 105.0, (KEY,)), ALLOW, BreakerState(HALF_OPEN, 3, 105.0, (KEY,))),
        (PROBING, PROBE, BreakerState(OPEN, 3, 105.0, (KEY,))),
        (BreakerState(HALF_OPEN, 3, 105.0, (7, KEY)), PROBE, BreakerState(CLOSED, 2, 200.0, (7, KEY))),
    ],
)
def test_a_failure_that_may_be_due_to_the_key_counts_once_per_key(
    breaker: BreakerState, decision: int, after: BreakerState
) -> None:
    assert record(breaker, decision, KEY_FAILURE, 200.0, RULE, KEY) == after


def test_after_the_probe_of_a_counted_key_the_next_failure_of_another_one_opens_again() -> None:
    for failures in (1, 2, 3):
        rule = RULE._replace(failures=failures)
        probed = record(BreakerState(HALF_OPEN, failures, 105.0, (KEY,)), PROBE, KEY_FAILURE, 106.0, rule, KEY)
        assert record(probed, ALLOW, KEY_FAILURE, 107.0, rule, KEY) == probed and probed.state == CLOSED
        assert record(probed, ALLOW, KEY_FAILURE, 107.0, rule, 12).state == OPEN
        assert record(probed, ALLOW, FAILURE, 107.0, rule).state == OPEN


@given(some.lists(some.sampled_from(["request", "cooldown"]), max_size=40), some.integers(1, 12))
def test_one_key_alone_never_opens_it(events: list[str], failures: int) -> None:
    rule, breaker, now = RULE._replace(failures=failures), FRESH, 0.0
    for event in events:
        now += RULE.cooldown if event == "cooldown" else 0.001
        decision, breaker = decide(breaker, now, rule)
        assert decision == ALLOW
        breaker = record(breaker, decision, KEY_FAILURE, now, rule, KEY)


@pytest.mark.parametrize("failures", [1, 2, 5, MAX_KEYS, 3 * MAX_KEYS])
def test_different_keys_open_it(failures: int) -> None:
    rule, breaker, sent = RULE._replace(failures=failures), FRESH, 0
    while breaker.state == CLOSED:
        breaker = record(breaker, ALLOW, KEY_FAILURE, 1.0, rule, 100 + sent)
        sent += 1
    assert sent == max(2, failures) and len(breaker.keys) <= MAX_KEYS


@pytest.mark.parametrize(
    ("outcome", "statuses"),
    [
        (FAILURE, (0, 502, 503, 504)),
        (KEY_FAILURE, (500,)),
        (SUCCESS, (200, 204, 302, 400, 401, 403, 404, 408, 425, 429, 499, 501, 505, 599, 600)),
    ],
)
def test_what_a_status_code_says_about_the_backend(outcome: Outcome, statuses: tuple[int, ...]) -> None:
    assert {status: outcome_of(status) for status in statuses} == dict.fromkeys(statuses, outcome)


def test_the_hash_of_a_key_is_a_number_that_a_cell_can_hold() -> None:
    ignore = frozenset({"instance"})
    first = key_hash({"sender": "a", "instance": "1"}, ignore)
    assert first == key_hash({"instance": "2", "sender": "a"}, ignore) != key_hash({"sender": "b"}, ignore)
    assert key_hash("a", ignore) == key_hash("a", frozenset()) != key_hash("b", ignore)
    assert all(-(2**63) <= key_hash(str(number), ignore) < 2**63 for number in range(200))
    assert min(key_hash(str(number), ignore) for number in range(200)) < 0, "the whole range is used"


@pytest.mark.parametrize("breaker", [FRESH, BROKEN, PROBING, BreakerState(CLOSED, 99, 0.0)])
def test_a_rule_without_failures_allows_everything(breaker: BreakerState) -> None:
    assert decide(breaker, 0.0, OFF) == (ALLOW, breaker)
    assert record(breaker, ALLOW, FAILURE, 0.0, OFF) == FRESH
    assert record(breaker, ALLOW, KEY_FAILURE, 0.0, OFF, KEY) == FRESH


def test_an_outage_costs_the_number_of_failures_and_then_one_probe_per_cooldown() -> None:
    breaker, sent = FRESH, []
    for second in range(60):
        decision, breaker = decide(breaker, float(second), RULE)
        if decision != REFUSE:
            sent.append(second)
            breaker = record(breaker, decision, FAILURE, float(second), RULE)
    assert sent == [0, 1, *range(2, 60, 5)]


def test_a_rule_of_one_failure_opens_at_once() -> None:
    assert record(FRESH, ALLOW, FAILURE, 1.0, BreakerRule(1, 5.0, 60.0)) == BreakerState(OPEN, 1, 1.0)


def test_every_state_has_a_name() -> None:
    assert set(STATE_NAMES) == {CLOSED, OPEN, HALF_OPEN}


EVENTS = some.lists(
    some.tuples(
        some.sampled_from(["request", SUCCESS, FAILURE, KEY_FAILURE, "loss"]), some.floats(0, 20, allow_nan=False)
    ),
    max_size=60,
)


@given(EVENTS)
def test_there_is_at_most_one_probe_and_no_target_is_refused_for_ever(
    events: list[tuple[str | Outcome, float]],
) -> None:
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
                breaker = record(breaker, decision, event, now, RULE, len(pending) % 3 + 1)
                if event is SUCCESS:
                    assert breaker == FRESH
        assert (breaker.state == CLOSED) == (breaker.failures < RULE.failures)
    later = now + RULE.cooldown + RULE.lease
    assert decide(breaker, later, RULE)[0] != REFUSE

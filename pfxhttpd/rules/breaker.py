"""The rule of the circuit breaker: a target that fails several times in a row gets no requests until a probe succeeds.

The rule is a pure function of state, event and time. The state is a few numbers, so it can be kept in shared memory.
The caller makes sure that reading the state, applying the rule and writing the new state are one atomic step.

The breaker is for a backend that is down. A response that concerns one user or one key alone must not stop the requests
of all others, because whoever can make the API send such a response could then shut everybody out (`outcome_of`).

            failures in a row            first request after the cooldown
    CLOSED ------------------> OPEN -------------------------------------> HALF_OPEN
       ^                        ^               probe failed                  |  |
       |                        +---------------------------------------------+  |
       +---------------------------------- any success --------------------------+
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Set
from typing import NamedTuple

from pfxhttpd.rules.cache_key import map_key, policy_key

CLOSED, OPEN, HALF_OPEN = 0, 1, 2
STATE_NAMES = {CLOSED: "closed", OPEN: "open", HALF_OPEN: "half-open"}

SERVER_ERROR = 500
_DOWN = frozenset({0, 502, 503, 504})

ALLOW, PROBE, REFUSE = 0, 1, 2
"""The decisions on a request: it may be sent, it may be sent as the probe, or it fails at once as a backend failure."""

MAX_KEYS = 8
"""Number of keys that a BreakerState holds at most."""


class Outcome(enum.Enum):
    """What the end of a request says about the backend."""

    SUCCESS = enum.auto()
    """The backend works."""
    FAILURE = enum.auto()
    """The backend is down."""
    KEY_FAILURE = enum.auto()
    """The backend is down, or it cannot answer this one key. It counts once per key."""


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

    `since` is the time in seconds at which the state began, or at which the probe was sent that failed. `keys` are the
    hashes (`key_hash`) of the first MAX_KEYS keys whose failures are among `failures`.
    """

    state: int
    failures: int
    since: float
    keys: tuple[int, ...] = ()


FRESH = BreakerState(CLOSED, 0, 0.0)


def decide(breaker: BreakerState, now: float, rule: BreakerRule) -> tuple[int, BreakerState]:
    """The decision on a request at the time `now` (ALLOW, PROBE or REFUSE), and the new state."""
    if breaker.state == CLOSED or not rule.failures:
        return ALLOW, breaker
    pause = rule.cooldown if breaker.state == OPEN else rule.lease
    if now < breaker.since + pause:
        return REFUSE, breaker
    return PROBE, breaker._replace(state=HALF_OPEN, since=now)


def outcome_of(status: int) -> Outcome:
    """What a response with that status code says about the backend; 0 stands for no response and for a broken one.

    502, 503 and 504 are sent by a proxy whose backend is down, and by a backend that is overloaded. 500 may be due to
    the key. With any other code, 4xx included, the backend works.
    """
    if status in _DOWN:
        return Outcome.FAILURE
    return Outcome.KEY_FAILURE if status == SERVER_ERROR else Outcome.SUCCESS


def key_hash(key: str | Mapping[str, str], ignore: Set[str]) -> int:
    """A hash of what was asked for: the key of a lookup, the user of a login, or a policy request's attributes without
    those in `ignore`. It is a signed 64-bit number other than 0, and the same in all processes."""
    digest = map_key("", key) if isinstance(key, str) else policy_key("", key, ignore)
    return int.from_bytes(digest[:8], "little", signed=True) or 1


def record(
    breaker: BreakerState, decision: int, outcome: Outcome, now: float, rule: BreakerRule, key: int = 0
) -> BreakerState:
    """The new state after the end of a request. `decision` is what `decide` returned for it, ALLOW or PROBE. `key` is
    the `key_hash` of what was asked for; it is needed with a KEY_FAILURE only.

    Any success closes the breaker. The failure of a request that was sent before the breaker opened changes nothing: it
    neither prolongs the cooldown nor counts as the result of the probe. A KEY_FAILURE of a key that has been counted
    since the last success changes nothing either, and as the result of the probe it closes the breaker, which opens
    again with the next failure that counts. A KEY_FAILURE alone never opens it, even if `rule.failures` is 1.
    """
    if outcome is Outcome.SUCCESS or not rule.failures:
        return FRESH if breaker.state or breaker.failures else breaker
    of_key = outcome is Outcome.KEY_FAILURE
    counted = of_key and key in breaker.keys
    keys = (*breaker.keys, key) if of_key and not counted and len(breaker.keys) < MAX_KEYS else breaker.keys
    if breaker.state == CLOSED and not counted:
        failures = breaker.failures + 1
        opens = failures >= (max(rule.failures, 2) if of_key else rule.failures)
        return BreakerState(OPEN if opens else CLOSED, failures, now, keys)
    if breaker.state == HALF_OPEN and decision == PROBE:
        if counted:
            return BreakerState(CLOSED, max(1, rule.failures - 1), now, keys)
        # The cooldown counts from the start of the probe. A probe that timed out has already waited, and a backend that
        # recovered in the meantime is found within one cooldown.
        return BreakerState(OPEN, breaker.failures, breaker.since, keys)
    return breaker

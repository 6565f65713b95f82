"""One breaker for all workers: processes that fail, probe, stop and die while others look at the same row."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kit.child import in_child
from kit.logfmt import parse
from kit.proc import die_with_parent

from pfxhttpd.config.settings import Logging
from pfxhttpd.io.log import Logger
from pfxhttpd.io.scoreboard import Scoreboard, TargetRow
from pfxhttpd.rules.breaker import ALLOW, CLOSED, HALF_OPEN, OPEN, PROBE, BreakerRule, Outcome
from pfxhttpd.service import breaker as room
from pfxhttpd.service.breaker import BreakerOpen, SharedBreaker

SUCCESS, FAILURE, KEY_FAILURE = Outcome.SUCCESS, Outcome.FAILURE, Outcome.KEY_FAILURE
RULE = BreakerRule(failures=5, cooldown=10.0, lease=60.0)
TARGET = "http://127.0.0.1/map"
TOLERANCE = 0.3


class Clock:
    """Monotonic time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.meanwhile: Callable[[], object] = lambda: None

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()


class Site:
    """A board, and fuses for its targets; `transitions` are the states that the log tells of."""

    def __init__(self, log: Path, clock: Clock) -> None:
        self.board, self.clock, self._path = Scoreboard(), clock, log
        self._file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._journal = Logger.open(Logging(level="info", use_systemd=True), stream_fd=self._file)

    def fuse(self, rule: BreakerRule = RULE, target: int = 0, probes: int = 8) -> SharedBreaker:
        return SharedBreaker(self.board, target, rule, probes, TARGET, self._journal)

    def state(self, target: int = 0) -> int:
        return self.board.target(target).state

    @property
    def transitions(self) -> list[str]:
        lines = [parse(line) for line in self._path.read_text().splitlines()]
        assert all(line["msg"] == "Circuit breaker changed" and line["target"] == TARGET for line in lines), lines
        return [line["state"] for line in lines]

    def break_down(self, target: int = 0) -> None:
        fuse = self.fuse(target=target)
        for _ in range(RULE.failures):
            fuse.record(fuse.acquire(), FAILURE)
        assert self.state(target) == OPEN

    def close(self) -> None:
        os.close(self._file)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    clock = Clock()
    monkeypatch.setattr(room, "time", clock)
    made = Site(tmp_path / "log", clock)
    yield made
    made.close()


def at_once(number: int, work: Callable[[], int]) -> list[int]:
    """What `work` returns in so many processes that begin together."""
    gate, opener = os.pipe()
    results, result = os.pipe()
    pids = []
    for _ in range(number):
        pid = os.fork()
        if pid == 0:
            try:
                os.close(opener)
                die_with_parent()
                os.read(gate, 1)
                os.write(result, bytes([work()]))
            finally:
                os._exit(0)
        pids.append(pid)
    os.close(result)
    os.close(opener)
    for pid in pids:
        os.waitpid(pid, 0)
    told = os.read(results, 4096)
    os.close(results)
    os.close(gate)
    assert len(told) == number, "a process died"
    return list(told)


def fails(fuse: SharedBreaker) -> int:
    fuse.record(fuse.acquire(), FAILURE)
    return 0


REFUSED = 9


def enters(fuse: SharedBreaker) -> int:
    try:
        return fuse.acquire()
    except BreakerOpen:
        return REFUSED


def test_a_target_in_good_health_costs_no_lock(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TargetRow, "lock", None)
    fuse = site.fuse()
    leave = fuse.acquire()
    assert leave == ALLOW
    fuse.record(leave, SUCCESS)
    site.fuse(BreakerRule(0, 10.0, 60.0)).record(ALLOW, FAILURE)
    assert site.state() == CLOSED


def test_failures_of_all_workers_count_together(site: Site) -> None:
    fuse = site.fuse()
    at_once(RULE.failures - 1, lambda: fails(fuse))
    assert site.state() == CLOSED
    assert in_child(lambda: fails(fuse)) == 0
    assert site.state() == OPEN
    with pytest.raises(BreakerOpen, match="pause"):
        fuse.acquire()


def fails_for(breaker: SharedBreaker, key: int) -> int:
    breaker.record(breaker.acquire(), KEY_FAILURE, key=key)
    return 0


def test_the_keys_that_failed_are_counted_by_all_workers_together(site: Site) -> None:
    """One key that fails in every worker is one failure; different keys are several, and a success clears them."""
    breaker, row = site.fuse(), site.board.target(0)
    for _ in range(3):
        at_once(4, lambda: fails_for(breaker, -7))
        assert row.read()[1:] == (1, site.clock.now, (-7,))
    breaker.record(breaker.acquire(), SUCCESS)
    assert row.healthy and row.read()[3] == ()
    for key in range(1, RULE.failures + 1):
        assert site.state() == CLOSED
        in_child(lambda key=key: fails_for(breaker, key))
    assert site.state() == OPEN and row.read()[3] == tuple(range(1, RULE.failures + 1))
    site.clock.now += RULE.cooldown
    fails_for(breaker, 3)
    assert site.state() == CLOSED and site.transitions == ["open", "half-open", "closed"]


def test_a_success_starts_the_count_anew(site: Site) -> None:
    fuse = site.fuse()
    for _ in range(3):
        for _ in range(RULE.failures - 1):
            fails(fuse)
        fuse.record(fuse.acquire(), SUCCESS)
    assert site.state() == CLOSED and site.transitions == []


def test_a_refusal_costs_no_lock(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.break_down()
    monkeypatch.setattr(TargetRow, "lock", None)
    site.clock.now += RULE.cooldown - 0.1
    assert enters(site.fuse()) == REFUSED


@pytest.mark.parametrize("attempt", range(10))
def test_all_fail_at_once_and_all_come_back_at_once(site: Site, attempt: int) -> None:
    """Many count, one opens; many ask, one probes; and each change is told once."""
    fuse = site.fuse()
    at_once(8, lambda: fuse.record(ALLOW, FAILURE) or 0)
    assert site.state() == OPEN and site.transitions == ["open"]
    site.clock.now += RULE.cooldown
    told = at_once(8, lambda: enters(fuse))
    assert sorted(told) == [PROBE] + 7 * [REFUSED]
    assert site.state() == HALF_OPEN and site.transitions == ["open", "half-open"]
    site.clock.now += 1.0
    at_once(8, lambda: fuse.record(PROBE, SUCCESS) or 0)
    assert site.state() == CLOSED and site.transitions == ["open", "half-open", "closed"]


def test_a_probe_that_fails_opens_again_and_counts_its_own_time_as_pause(site: Site) -> None:
    site.break_down()
    fuse = site.fuse()
    site.clock.now += RULE.cooldown
    leave = fuse.acquire()
    site.clock.now += 2.0
    fuse.record(leave, FAILURE)
    assert enters(fuse) == REFUSED
    site.clock.now += RULE.cooldown - 2.0
    assert enters(fuse) == PROBE
    assert site.transitions == ["open", "half-open", "open", "half-open"]


def test_a_probe_that_dies_with_its_worker_is_replaced(site: Site) -> None:
    site.break_down()
    fuse = site.fuse()
    site.clock.now += RULE.cooldown
    assert in_child(lambda: enters(fuse)) == PROBE
    site.clock.now += RULE.lease - 0.1
    assert enters(fuse) == REFUSED
    site.clock.now += 0.1
    assert sorted(at_once(4, lambda: enters(fuse))) == [PROBE] + 3 * [REFUSED]


def test_probes_leave_workers_for_others(site: Site) -> None:
    """Ten targets on one black hole: without a bound, their probes would hold ten workers until the timeout."""
    for target in range(10):
        site.break_down(target)
    site.clock.now += RULE.cooldown
    told = [enters(site.fuse(target=target, probes=4)) for target in range(10)]
    assert told == 4 * [PROBE] + 6 * [REFUSED]
    site.fuse(target=0, probes=4).record(PROBE, FAILURE)
    assert enters(site.fuse(target=9, probes=4)) == PROBE
    site.clock.now += RULE.lease
    assert enters(site.fuse(target=1, probes=4)) == PROBE, "in place of one of its own that was lost"


def test_nobody_keeps_the_row_longer_than_a_decision_takes(site: Site) -> None:
    row = site.board.target(0)
    site.break_down()
    assert in_child(row.lock)
    site.clock.now += RULE.cooldown
    assert site.fuse().acquire() == PROBE
    assert in_child(row.lock)


def test_off_it_closes_what_was_open(site: Site) -> None:
    site.break_down()
    fuse = site.fuse(BreakerRule(0, 10.0, 60.0))
    assert fuse.acquire() == ALLOW
    fuse.record(ALLOW, FAILURE)
    assert site.state() == CLOSED


# -- requests that time out together ------------------------------------------------------------------------------------

SETTLING = RULE._replace(settle=0.1)


def test_who_times_out_first_waits_for_those_that_set_out_with_him(site: Site) -> None:
    first, other = site.fuse(SETTLING), site.fuse(SETTLING)
    first.record(first.acquire(), FAILURE, timed_out=True)
    site.clock.meanwhile = lambda: other.record(ALLOW, FAILURE, timed_out=True)
    assert enters(first) == REFUSED
    assert site.clock.now < 1000.0 + SETTLING.settle
    assert site.transitions == ["open"]


def test_he_waits_no_longer_than_it_makes_sense(site: Site) -> None:
    fuse, other = site.fuse(SETTLING), site.fuse(SETTLING)
    fuse.record(fuse.acquire(), FAILURE, timed_out=True)
    assert other.acquire() == ALLOW and site.clock.now == 1000.0, "whose own request did not time out"
    assert fuse.acquire() == ALLOW
    assert site.clock.now == pytest.approx(1000.0 + SETTLING.settle, abs=0.01)
    assert fuse.acquire() == ALLOW
    assert site.clock.now == pytest.approx(1000.0 + SETTLING.settle, abs=0.01), "and only once"


def test_a_sign_of_life_ends_the_wait(site: Site) -> None:
    fuse, other = site.fuse(SETTLING), site.fuse(SETTLING)
    fuse.record(fuse.acquire(), FAILURE, timed_out=True)
    site.clock.meanwhile = lambda: other.record(ALLOW, SUCCESS)
    assert fuse.acquire() == ALLOW
    assert site.clock.now < 1000.01


def test_what_fails_at_once_is_not_waited_for(site: Site) -> None:
    fuse = site.fuse(SETTLING)
    fuse.record(fuse.acquire(), FAILURE)
    assert fuse.acquire() == ALLOW and site.clock.now == 1000.0


# -- a worker that stops or dies while it has the row -------------------------------------------------------------------


@pytest.fixture
def holder(site: Site) -> Iterator[int]:
    """The process id of a worker that was stopped in the middle of a decision."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            die_with_parent()
            assert site.board.target(0).lock()
            os.write(writing, b"locked")
            signal.pause()
        finally:
            os._exit(0)
    os.close(writing)
    assert os.read(reading, 10)
    os.close(reading)
    os.kill(pid, signal.SIGSTOP)
    os.waitpid(pid, os.WUNTRACED)
    yield pid
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


BOUND = TargetRow.TRIES * TargetRow.PAUSE
"""Seconds that a row which somebody has may cost."""


def test_the_bound_is_short() -> None:
    assert BOUND <= 0.05


def test_a_worker_stopped_in_the_middle_stops_nobody_else(site: Site, holder: int) -> None:
    fuse = site.fuse()
    before = time.monotonic()
    for _ in range(3):
        fails(fuse)
    assert time.monotonic() - before < 3 * BOUND + TOLERANCE
    assert site.board.target(0).healthy, "what could not be counted was not"
    fuse = site.fuse(target=1)
    for _ in range(RULE.failures):
        fails(fuse)
    assert site.state(1) == OPEN, "other targets have rows of their own"


def test_a_breaker_that_nobody_can_decide_over_does_not_keep_requests_back(site: Site, holder: int) -> None:
    site.board.target(0).write(OPEN, 5, site.clock.now)
    fuse = site.fuse()
    assert enters(fuse) == REFUSED, "within the pause there is nothing to decide"
    site.clock.now += RULE.cooldown
    before = time.monotonic()
    assert enters(fuse) == ALLOW
    fuse.record(ALLOW, SUCCESS)
    assert time.monotonic() - before < 2 * BOUND + TOLERANCE


def test_the_lock_of_a_worker_that_dies_is_free(site: Site, holder: int) -> None:
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    site.break_down()
    assert site.transitions == ["open"]


# -- reloads ------------------------------------------------------------------------------------------------------------


def test_rows_of_targets_that_are_gone_start_anew(site: Site) -> None:
    for target in (0, 1, 2):
        site.break_down(target)
    site.board.reset_targets({1})
    assert [site.state(target) for target in (0, 1, 2)] == [CLOSED, OPEN, CLOSED]
    assert site.board.count_targets(OPEN) == 1
    assert site.board.target(0).healthy

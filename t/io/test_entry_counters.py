"""The counts of requests by entry: nothing is lost between the worker that counts and the sums that are shown."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as some
from kit.child import in_child

from pfxhttpd.io.scoreboard.entry_counters import (
    BOUNDS,
    FAILED,
    FOUND,
    NOT_FOUND,
    REFUSED,
    UNEXPECTED,
    EntryCounters,
    EntryCounts,
    EntryRow,
)

NAMES = {FOUND: "found", NOT_FOUND: "not_found", REFUSED: "refused", UNEXPECTED: "unexpected", FAILED: "failed"}
ENTRIES = (("socket_map", "one"), ("policy_service", "one"), ("socket_map", "two"))


def count(row: EntryRow, outcome: int, seconds: float = 0.0) -> None:
    row.began = time.monotonic() - seconds
    row.count(outcome)


def sums(*all_counters: EntryCounters) -> dict[tuple[str, str], EntryCounts]:
    found: dict[tuple[str, str], EntryCounts] = {}
    for counters in all_counters:
        for entry, before, after in counters.changes():
            found[entry] = found.get(entry, EntryCounts()).changed(before, after)
    return found


@given(some.lists(some.tuples(some.sampled_from(ENTRIES), some.sampled_from(sorted(NAMES)), some.floats(0, 200))))
def test_every_request_is_counted_once_under_its_entry_and_outcome(requests):
    counters = EntryCounters(ENTRIES)
    rows = {entry: counters.row(*entry, timeout=60) for entry in ENTRIES}
    for entry, outcome, seconds in requests:
        count(rows[entry], outcome, seconds)
    found = sums(counters)
    for entry in ENTRIES:
        shown = found.get(entry, EntryCounts())
        own = [outcome for name, outcome, _ in requests if name == entry]
        expected = {name: own.count(outcome) for outcome, name in NAMES.items()}
        assert shown.outcomes() == {**expected, "not_sent": 0}
        assert sum(shown.histogram()) == len(own)
        assert shown.seconds == pytest.approx(sum(s for name, _, s in requests if name == entry), abs=0.1)


def test_a_child_counts_and_its_parent_reads_only_what_has_changed():
    counters = EntryCounters(ENTRIES)

    def work() -> None:
        row = counters.row("socket_map", "two", timeout=60)
        count(row, FOUND)
        row.note_error("café")

    assert list(counters.changes()) == []
    in_child(work)
    [(entry, before, after)] = counters.changes()
    assert entry == ("socket_map", "two") and before == EntryCounts()
    assert after.outcomes()["found"] == 1 and after.error == "café"
    assert list(counters.changes()) == []


@pytest.mark.parametrize("method", ["count_not_sent", "count_cached"])
def test_what_was_not_sent_or_came_from_the_cache_is_a_change_too(method):
    counters = EntryCounters(ENTRIES)
    getattr(counters.row(*ENTRIES[0], timeout=60), method)()
    shown = sums(counters)[ENTRIES[0]]
    assert (shown.not_sent, shown.cached) == ((1, 0) if method == "count_not_sent" else (0, 1))
    assert shown.percentiles(0.5) == [None]


def test_the_latest_error_of_several_workers_is_shown():
    first, second = EntryCounters(ENTRIES), EntryCounters(ENTRIES)
    second.row(*ENTRIES[0], timeout=60).note_error("earlier")
    first.row(*ENTRIES[0], timeout=60).note_error("later " + "x" * 1000)
    shown = sums(first, second)[ENTRIES[0]]
    assert shown.error.startswith("later xxx") and len(shown.error) < 300
    assert shown.error_at == pytest.approx(time.monotonic(), abs=5)


@pytest.mark.parametrize(("outcome", "slow"), [(FOUND, 1), (FAILED, 0)])
def test_a_request_is_slow_after_three_quarters_of_its_timeout(outcome, slow):
    counters = EntryCounters(ENTRIES)
    row = counters.row(*ENTRIES[0], timeout=100)
    count(row, outcome, 74)
    count(row, outcome, 76)
    assert sums(counters)[ENTRIES[0]].slow == slow


@given(some.lists(some.floats(0.0001, 70), min_size=1, max_size=200))
def test_percentiles_are_in_the_cell_of_the_request_with_that_rank(durations):
    counters = EntryCounters(ENTRIES[:1])
    row = counters.row(*ENTRIES[0], timeout=60)
    for seconds in durations:
        count(row, FOUND, seconds)
    durations.sort()
    for part, shown in zip((0.5, 0.95), sums(counters)[ENTRIES[0]].percentiles(0.5, 0.95), strict=True):
        rank = -int(-part * len(durations) // 1)
        exact = durations[max(0, rank - 1)]
        lower = max((bound for bound in BOUNDS if bound <= exact), default=0.0)
        upper = min((bound for bound in BOUNDS if bound > exact + 0.05), default=BOUNDS[-1])
        assert lower * 0.999 <= shown <= upper

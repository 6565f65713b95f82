"""A worker's side of the cache: few calls, none of them for nothing, and what a lost cache has forgotten is told again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.cache_process import KEY, CacheProcess

from pfxhttpd.config.settings import ResponseCacheSettings
from pfxhttpd.io.cache import client
from pfxhttpd.io.cache.client import CacheClient
from pfxhttpd.service import cache_buffer as room
from pfxhttpd.service.cache_buffer import BATCH, HEAVY, RECENT, CacheBuffer

# The cache has 100 ms to answer, which is not enough where other tests keep the processors busy.
pytestmark = pytest.mark.alone

RULE = ResponseCacheSettings(enabled=True, ttl=60.0, max_entries=100_000)


class Clock:
    """Monotonic time that passes when told to."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(room, "time", made)
    return made


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CacheProcess]:
    for limit in ("CALL_TIMEOUT", "PUT_TIMEOUT"):
        monkeypatch.setattr(client, limit, 5.0)
    with CacheProcess(tmp_path / "cache") as started:
        yield started


def worker(cache: CacheProcess, rule: ResponseCacheSettings = RULE) -> CacheBuffer:
    return CacheBuffer(CacheClient(cache.directory, KEY), cache.row, rule)


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


K = key(1)


def held(cache: CacheProcess) -> int:
    return cache.row.read()["entries"]


def test_what_one_worker_hears_another_recalls(cache: CacheProcess) -> None:
    hearing, failing = worker(cache), worker(cache)
    hearing.put(K, "map", "value")
    assert failing.get(K) is None, "not yet sent"
    hearing.flush()
    assert failing.get(K) == "value"
    hearing.put(K, "map", None)
    hearing.flush()
    assert failing.get(K) is None


def test_a_worker_recalls_what_it_has_not_sent_yet(cache: CacheProcess) -> None:
    one = worker(cache)
    one.put(K, "map", "value")
    assert one.pending
    assert one.get(K) == "value"
    assert not one.pending


def test_writes_go_out_together(cache: CacheProcess, clock: Clock) -> None:
    one = worker(cache)
    for number in range(BATCH - 1):
        one.put(key(number), "map", "value")
        one.flush_if_due()
    assert one.pending and held(cache) == 0
    one.put(key(BATCH), "map", "value")
    assert held(cache) == 0, "not before its client has the answer"
    one.flush_if_due()
    assert not one.pending and held(cache) == BATCH


def test_no_write_waits_long(cache: CacheProcess, clock: Clock) -> None:
    one = worker(cache)
    one.put(K, "map", "value")
    clock.ahead = room.DELAY / 2
    one.flush_if_due()
    assert one.pending
    clock.ahead = room.DELAY + 0.01
    one.flush_if_due()
    assert not one.pending and held(cache) == 1


def test_heavy_writes_go_out_alone(cache: CacheProcess) -> None:
    one = worker(cache)
    for number in range(2):
        one.put(key(number), "map", "x" * (HEAVY - 1))
        one.flush_if_due()
    assert not one.pending and held(cache) == 2
    one.put(K, "map", "light")
    one.flush_if_due()
    assert one.pending, "the weight of what has gone does not count"


def test_a_value_too_long_to_send_is_not_remembered_and_takes_back_the_older_one(cache: CacheProcess) -> None:
    one = worker(cache)
    one.put(K, "map", "value")
    one.flush()
    one.put(K, "map", "x" * (HEAVY + 1))
    assert one.get(K) is None


def test_the_same_answer_is_not_stored_again_at_once(cache: CacheProcess, clock: Clock) -> None:
    one = worker(cache)
    one.put(K, "map", "value")
    one.flush()
    one.put(K, "map", "value")
    assert not one.pending
    for other in ("new value", None, "value"):
        one.put(K, "map", other)
        assert one.pending
        one.flush()
    clock.ahead = room.FRESH + 0.01
    one.put(K, "map", "value")
    assert one.pending, "it would have come to its end too early"


@pytest.mark.parametrize("ttl", [1.0, 2.0, 8.0, 3600.0])
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_an_answer_that_is_heard_again_is_stored_again_before_its_time_is_over(
    cache: CacheProcess, clock: Clock, ttl: float, steps: int
) -> None:
    """However often it is heard, what is stored is never older than a quarter of the ttl, nor than five seconds."""
    one, oldest = worker(cache, ResponseCacheSettings(enabled=True, ttl=ttl)), min(ttl / 4, room.FRESH)
    stored, writes = 0.0, 0
    for step in range(6 * steps):
        clock.ahead = step * (oldest + 0.001) / steps
        one.put(K, "map", "value")
        if one.pending:
            stored, writes = clock.ahead, writes + 1
            one.flush()
        assert clock.ahead - stored <= oldest
    assert writes <= 6 + 1, "but not each time"


def test_nothing_is_recalled_after_the_ttl(cache: CacheProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    past = Clock()
    past.ahead = -RULE.ttl
    one = worker(cache)
    with monkeypatch.context() as patch:
        patch.setattr(room, "time", past)
        one.put(K, "map", "value")
        past.ahead = -RULE.ttl / 2
        one.put(key(2), "map", "value")
        one.flush()
    assert one.get(K) is None
    assert worker(cache, ResponseCacheSettings(enabled=True, ttl=RULE.ttl / 4)).get(key(2)) is None, (
        "a reload made it shorter"
    )


def test_what_a_dead_cache_knew_is_told_to_the_next_one(cache: CacheProcess) -> None:
    one = worker(cache)
    for number in (1, 2):
        one.put(key(number), "map", "value")
    one.flush()
    cache.kill()
    cache.start()
    one.put(key(3), "map", "value")
    one.flush()
    one.put(key(1), "map", "value")
    assert one.get(key(1)) == "value"
    one.put(key(2), "map", "value")
    assert one.get(key(2)) == "value"
    one.put(key(2), "map", "value")
    assert not one.pending, "and that is the end of it"


def test_a_question_notices_a_loss_as_a_write_does(cache: CacheProcess) -> None:
    one = worker(cache)
    one.put(K, "map", "value")
    one.flush()
    cache.kill()
    cache.start()
    assert one.get(K) is None
    one.put(K, "map", "value")
    assert one.get(K) == "value"


def test_what_could_not_be_stored_is_not_taken_for_stored(tmp_path: Path) -> None:
    absent = CacheProcess(tmp_path / "cache")
    one = worker(absent)
    for _ in range(3):
        one.put(K, "map", "value")
        assert one.pending
        one.flush()


def test_what_others_have_changed_is_stored_again(cache: CacheProcess) -> None:
    one, other = worker(cache), worker(cache)
    for undo in (lambda: other.put(K, "map", None), lambda: other.put(K, "map", "new")):
        one.put(K, "map", "value")
        one.flush()
        undo()
        other.flush()
        one.put(K, "map", "value")
        assert other.get(K) != "value"
        assert one.get(K) == other.get(K) == "value"


def test_what_was_purged_is_stored_again(cache: CacheProcess) -> None:
    one = worker(cache)
    one.put(K, "map", "value")
    one.flush()
    CacheClient(cache.directory, KEY).purge("map", [K])
    one.put(K, "map", "value")
    assert one.get(K) == "value"


def test_a_write_that_came_too_late_is_not_believed_to_have_been_in_time(cache: CacheProcess) -> None:
    one, other = worker(cache), worker(cache)
    one.put(K, "map", "value")
    other.put(K, "map", None)
    other.flush()
    one.flush()
    assert other.get(K) is None
    one.put(K, "map", "value")
    one.flush()
    assert other.get(K) == "value"


def test_what_a_worker_remembers_of_its_own_writes_is_bounded(cache: CacheProcess) -> None:
    one = worker(cache)
    for number in range(RECENT):
        one.put(key(number), "map", "value")
        one.flush_if_due()
    one.flush()
    one.put(key(0), "map", "value")
    assert one.pending, "forgotten, so it is stored again"
    one.flush()
    for number in range(1, RECENT - 1):
        one.put(key(number), "map", "value")
        one.flush()
    one.put(key(0), "map", "value")
    assert not one.pending


def test_a_cache_that_is_off_says_so(cache: CacheProcess) -> None:
    assert worker(cache).enabled
    assert not worker(cache, ResponseCacheSettings(enabled=False)).enabled

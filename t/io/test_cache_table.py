"""The table of answers: bounded, never stale, and not to be confused by writes that arrive late."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from pfxhttpd.io.cache.table import MAX_DELETED, CacheTable

K, L, M = b"k" * 16, b"l" * 16, b"m" * 16
MANY = 1000


def table(*items: tuple[bytes, str, str | None, float], most: int = MANY) -> CacheTable:
    made = CacheTable()
    made.put(items, most)
    return made


def test_what_was_put_is_there_until_its_time_is_over() -> None:
    made = table((K, "map", "value", 100.0))
    assert made.get(K, 5.0, 104.999) == "value"
    assert made.get(L, 5.0, 100.0) is None
    assert made.get(K, 5.0, 105.0) is None
    assert (made.counts.hits, made.counts.misses) == (1, 2)
    assert (made.counts.entries, made.counts.bytes) == (0, 0)


def test_a_reader_with_a_shorter_ttl_is_given_nothing_older() -> None:
    made = table((K, "map", "value", 100.0))
    assert made.get(K, 300.0, 110.0) == "value"
    assert made.get(K, 10.0, 110.0) is None


def test_a_newer_answer_replaces_an_older_one_and_starts_its_time_anew() -> None:
    made = table((K, "map", "old", 100.0), (K, "map", "new", 103.0))
    assert made.get(K, 5.0, 107.0) == "new"
    assert made.counts.entries == 1


def test_an_older_answer_that_arrives_late_changes_nothing() -> None:
    made = table((K, "map", "new", 103.0))
    made.put([(K, "map", "old", 100.0)], MANY)
    assert made.get(K, 5.0, 104.0) == "new"


def test_an_answer_that_was_taken_back_does_not_come_again() -> None:
    made = table((K, "map", "value", 100.0), (L, "map", "other", 100.0))
    made.put([(K, "map", None, 101.0)], MANY)
    assert made.get(K, 5.0, 101.0) is None
    made.put([(K, "map", "late", 100.5)], MANY)
    assert made.get(K, 5.0, 101.0) is None
    made.put([(K, "map", "newer", 102.0)], MANY)
    assert made.get(K, 5.0, 102.0) == "newer"
    made.put([(K, "map", None, 101.5)], MANY)
    assert made.get(K, 5.0, 102.0) == "newer"
    assert made.get(L, 5.0, 102.0) == "other"


def test_what_is_taken_back_takes_no_room() -> None:
    made = table((K, "map", "value", 1.0), most=2)
    made.put([(number.to_bytes(16, "big"), "map", None, 2.0) for number in range(3 * MAX_DELETED)], 2)
    assert made.get(K, 5.0, 2.0) == "value"
    assert made.counts.evictions == 0


@pytest.mark.parametrize(
    ("name", "keys", "forgotten", "left"),
    [
        (None, [], 3, set()),
        ("map", [], 2, {M}),
        ("map", [K], 1, {L, M}),
        ("nothing", [], 0, {K, L, M}),
        ("map", [b"unknown"], 0, {K, L, M}),
    ],
)
def test_purging(name: str | None, keys: list[bytes], forgotten: int, left: set[bytes]) -> None:
    entries = {K: "map", L: "map", M: "policy"}
    made = table(*((key, named, "value", 100.0) for key, named in entries.items()))
    assert made.purge(name, keys, 110.0) == forgotten
    assert {key for key in entries if made.get(key, 60.0, 110.0)} == left
    made.put([(key, named, "late", 109.0) for key, named in entries.items() if key not in left], MANY)
    assert {key for key in entries if made.get(key, 60.0, 110.0)} == left
    made.put([(key, named, "new", 111.0) for key, named in entries.items() if key not in left], MANY)
    assert {key for key in entries if made.get(key, 60.0, 111.0)} == set(entries)


def test_the_least_recently_used_go_first() -> None:
    made = table((K, "map", "k", 1.0), (L, "map", "l", 2.0))
    made.get(K, 60.0, 3.0)
    made.put([(M, "map", "m", 3.0)], 2)
    assert [made.get(key, 60.0, 3.0) for key in (K, L, M)] == ["k", None, "m"]
    assert (made.counts.entries, made.counts.evictions) == (2, 1)


def test_it_has_room_for_so_many_bytes_and_no_more() -> None:
    made = CacheTable(max_bytes=100_000)
    made.put([(number.to_bytes(16, "big"), "map", "x" * 1000, 1.0) for number in range(500)], MANY)
    assert 60 < made.counts.entries < 80 and made.counts.bytes <= 100_000
    wide = CacheTable(max_bytes=100_000)
    wide.put([(number.to_bytes(16, "big"), "map", "\U0001f4ee" * 1000, 1.0) for number in range(500)], MANY)
    assert 15 < wide.counts.entries < 25, "characters that take four bytes each"
    made.put([(K, "map", "x" * 200_000, 2.0)], MANY)
    assert (made.counts.entries, made.counts.bytes) == (0, 0), "what is larger than all there is empties it, no more"


NAMES = {K: "map", L: "map", M: "policy"}
TTL = 5.0
KEYS = some.sampled_from(list(NAMES))
STEPS = some.lists(
    some.one_of(
        some.tuples(some.just("put"), KEYS, some.one_of(some.none(), some.text(max_size=3)), some.integers(0, 3)),
        some.tuples(some.just("get"), KEYS, some.none(), some.just(0)),
        some.tuples(some.just("purge"), KEYS, some.sampled_from(["key", "name", "all"]), some.just(0)),
    ),
    max_size=30,
)


@given(STEPS, some.integers(1, 4))
def test_it_gives_the_last_word_on_a_key_or_nothing(steps, most: int) -> None:
    """Beside a model that keeps every word ever heard. Nothing is lost unless there is no room for it."""
    made, now = CacheTable(), 10.0
    words: dict[bytes, list[tuple[float, int, str | None]]] = {key: [(0.0, 0, None)] for key in NAMES}
    for number, (step, key, what, late) in enumerate(steps, 1):
        now += 1.0
        if step == "put":
            made.put([(key, NAMES[key], what, now - late)], most)
            words[key].append((now - late, number, what))
        elif step == "purge":
            name = None if what == "all" else NAMES[key]
            made.purge(name, [key] if what == "key" else [], now)
            for each in [key] if what == "key" else [each for each in NAMES if name in (None, NAMES[each])]:
                words[each].append((now, number, None))
        else:
            when, _, value = max(words[key], key=lambda word: word[:2])
            alive = value if now - when < TTL else None
            told = made.get(key, TTL, now)
            assert told == alive if most >= len(NAMES) else told in (alive, None)
        assert made.counts.entries <= most
        assert (made.counts.bytes == 0) == (made.counts.entries == 0)

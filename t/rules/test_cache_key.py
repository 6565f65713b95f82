"""Cache keys: equal requests have the same key, different requests have different ones."""

from __future__ import annotations

import subprocess
import sys
from random import Random

from hypothesis import given
from hypothesis import strategies as some

from pfxhttpd.rules import cache_key

ANY_TEXT = some.text(some.characters(exclude_categories=()), max_size=8)
REQUESTS = some.dictionaries(ANY_TEXT, ANY_TEXT, max_size=4)
IGNORED = frozenset({"instance", "queue_id"})


def copied(text: str) -> str:
    """An equal text that is a different object and not interned."""
    return "".join(list(text))


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_lookups_have_the_same_key_exactly_if_they_are_equal(
    entry: str, key: str, other_entry: str, other_key: str
) -> None:
    same = (entry, key) == (other_entry, other_key)
    assert (cache_key.map_key(entry, key) == cache_key.map_key(other_entry, other_key)) == same
    assert cache_key.map_key(copied(entry), copied(key)) == cache_key.map_key(entry, key)


def test_requests_that_are_equal_when_joined_have_different_keys() -> None:
    assert cache_key.map_key("ab", "c") != cache_key.map_key("a", "bc")
    keys = [
        {"a": "b=c"}, {"a=b": "c"}, {"a": "b\nc=d"}, {"a": "b", "c": "d"}, {"a": "", "b": ""}, {"a": "b"}, {"b": "a"}, {},
        {"a": "c", "b": "d"}, {"a": "d", "b": "c"},
    ]  # fmt: skip
    assert len({cache_key.policy_key("p", attributes, IGNORED) for attributes in keys}) == len(keys)


@given(REQUESTS, REQUESTS)
def test_policy_requests_have_the_same_key_exactly_if_they_are_equal(
    one: dict[str, str], other: dict[str, str]
) -> None:
    same = cache_key.policy_key("p", one, IGNORED) == cache_key.policy_key("p", other, IGNORED)
    assert same == (one == other)


@given(REQUESTS, some.randoms())
def test_order_and_ignored_attributes_do_not_matter(attributes: dict[str, str], random: Random) -> None:
    shuffled = list(attributes.items())
    random.shuffle(shuffled)
    noisy = {"instance": "1", **{copied(name): copied(value) for name, value in shuffled}, "queue_id": "2"}
    assert cache_key.policy_key("p", noisy, IGNORED) == cache_key.policy_key("p", attributes, IGNORED)


def test_the_entry_and_its_kind_matter() -> None:
    assert cache_key.policy_key("p", {"a": "b"}, IGNORED) != cache_key.policy_key("q", {"a": "b"}, IGNORED)
    assert cache_key.policy_key("p", {}, IGNORED) != cache_key.map_key("p", "")
    assert cache_key.policy_key("p", {"instance": "1"}, frozenset()) != cache_key.policy_key(
        "p", {"instance": "2"}, frozenset()
    )


def test_a_key_has_a_fixed_size() -> None:
    assert len(cache_key.map_key("m", "k" * 100_000)) == cache_key.SIZE == len(cache_key.policy_key("p", {}, IGNORED))


def test_all_processes_agree() -> None:
    program = "from pfxhttpd.rules.cache_key import *; print(map_key('m', 'k').hex(), policy_key('p', {'b': 'x', 'a': 'x'}, {'q'}).hex())"
    runs = {
        subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed},
                       capture_output=True, text=True, check=True).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert runs == {
        f"{cache_key.map_key('m', 'k').hex()} {cache_key.policy_key('p', {'a': 'x', 'b': 'x'}, frozenset()).hex()}\n"
    }

"""The value in a backend's JSON document: where it is found, and how it is written as text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from pfxhttpd.rules.value import MISSING, UnsupportedValue, find, render

DOCUMENT = {
    "data": {"result": "deep", "list": [{"name": "first"}, {"name": "second"}], "null": None, "0": "zero"},
    "items": [["a", "b"], ["c"]],
    "dotted.name": "literal",
    "data.result": "shadowed",
    "empty": {},
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data.result", "deep"),
        ("data.list.1.name", "second"),
        ("data.null", None),
        ("data.0", "zero"),
        ("items.0.1", "b"),
        ("items.1", ["c"]),
        ("dotted.name", "literal"),
        ("empty", {}),
    ],
)
def test_a_path_selects_members_by_name_and_elements_by_index(path: str, value: Any) -> None:
    assert find(DOCUMENT, path) == value


@pytest.mark.parametrize(
    "path",
    ["data.nothing", "data.result.more", "data.list.2.name", "data.list.-1.name", "data.list.name", "items.9999999999",
     "items.0x0", "items.٠", "items.²", "items.", "data..result", ".data", "data.null.x", "nowhere", "a.b", "deep"],
)  # fmt: skip
def test_a_path_without_a_value(path: str) -> None:
    assert find(DOCUMENT, path) is MISSING


def test_a_name_without_a_dot_is_found_at_any_depth() -> None:
    assert find(DOCUMENT, "result") == "deep"
    assert find(DOCUMENT, "name") == "first"
    assert find([[{"x": 1}]], "x") == 1


def test_the_shallowest_and_then_first_match_is_taken() -> None:
    deep_first = {"a": {"b": {"x": "deep"}}, "c": {"x": "shallow"}}
    assert find(deep_first, "x") == "shallow"
    assert find({"a": [{"x": 1}, {"x": 2}], "b": {"c": {"x": 3}}}, "x") == 1
    assert find({"a": [[{"x": "deep"}]], "b": [{"x": "shallow"}]}, "x") == "shallow"
    assert find({"x": None, "a": {"x": "deep"}}, "x") is None


def test_a_path_with_a_dot_is_not_searched_for() -> None:
    assert find({"a": {"b": {"c": 1}}}, "b.c") is MISSING
    assert find({"a": {"b.c": 1}}, "b.c") is MISSING


@pytest.mark.parametrize("document", ["text", 5, None, True])
def test_a_scalar_has_no_members(document: Any) -> None:
    assert find([document], "x") is MISSING


def test_any_depth_is_searched() -> None:
    document: Any = {"x": "bottom"}
    for _ in range(100_000):
        document = [document]
    assert find(document, "x") == "bottom"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ('"value"', "value"),
        ('" "', " "),
        ('"a\\nb"', "a\nb"),
        ("true", "true"),
        ("false", "false"),
        ("0", "0"),
        ("5", "5"),
        ("-5", "-5"),
        ("5.0", "5"),
        ("5.5", "5.5"),
        ("-0.0", "0"),
        ("1e3", "1000"),
        ("1e15", "1000000000000000"),
        ("1e300", "1e+300"),
        ("1e-7", "1e-07"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ('["a", "b"]', "a,b"),
        ('["a", 1, 2.0, true]', "a,1,2,true"),
        ('["a", null, "", "b"]', "a,b"),
        ('["a,b", "c"]', "a,b,c"),
        ("null", None),
        ('""', None),
        ("[]", None),
        ("[null]", None),
        ('[""]', None),
    ],
)
def test_a_value_as_text(source: str, text: str | None) -> None:
    assert render(json.loads(source)) == text


def test_missing_counts_as_absent() -> None:
    assert render(MISSING) is None


@pytest.mark.parametrize(
    ("source", "what"),
    [("{}", "object"), ('{"a": 1}', "object"), ('[{"a": 1}]', "object"), ('["a", {}]', "object"), ("[[]]", "list"),
     ('["a", ["b"]]', "list"), ("1e400", "number"), ("-1e400", "number"), ("[1e400]", "number")],
)  # fmt: skip
def test_an_unsupported_value(source: str, what: str) -> None:
    with pytest.raises(UnsupportedValue, match=what):
        render(json.loads(source))


SCALARS = some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False) | some.text(max_size=5)
NAMES = some.sampled_from(["a", "b", "c", "0", "1"])
DOCUMENTS = some.recursive(
    SCALARS, lambda inner: some.lists(inner, max_size=3) | some.dictionaries(NAMES, inner, max_size=3), max_leaves=12
)


def depths(document: Any, name: str, depth: int = 0) -> list[int]:
    """The depths of the objects that have a member of that name."""
    children = document.values() if isinstance(document, dict) else document if isinstance(document, list) else []
    own = [depth] if isinstance(document, dict) and name in document else []
    return own + [found for child in children for found in depths(child, name, depth + 1)]


@given(DOCUMENTS, some.sampled_from(["a", "b", "c"]))
def test_a_name_is_found_exactly_if_it_exists(document: Any, name: str) -> None:
    found = find(document, name)
    assert (found is not MISSING) == bool(depths(document, name))


@given(DOCUMENTS, some.lists(NAMES, min_size=1, max_size=4))
def test_any_path_in_any_document_has_a_result(document: Any, steps: list[str]) -> None:
    try:
        text = render(find(document, ".".join(steps)))
    except UnsupportedValue:
        return
    assert text is None or (isinstance(text, str) and text)

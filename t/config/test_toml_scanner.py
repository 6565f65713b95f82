"""The scan for locations in TOML: it must find every value that tomllib finds, in every layout."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.examples import examples

from pfxhttpd.config.errors import LineIndex
from pfxhttpd.config.formats.toml import Scanner

KEYS = st.sampled_from(["a", "b-1", "", "x y", "]", "#", "a.b", '"', "'", "\u00fc", "0", "true"])
TEXTS = st.sampled_from(
    ["", "[a]", "x = 1", "# no", "]", "}", ",", '"', "'''", '"""', "\\", "two\nlines", "\u00e9\U0001f600", "a = [\n"]
)
SCALARS = st.integers(-99, 99) | st.booleans() | st.sampled_from([1.5, -0.25, 1e30]) | TEXTS
VALUES = st.recursive(
    SCALARS, lambda below: st.lists(below, max_size=3) | st.dictionaries(KEYS, below, max_size=3), max_leaves=12
)
DOCUMENTS = st.dictionaries(KEYS, VALUES, max_size=5)


class Writer:
    """Writes a document in a layout that the drawn choices determine."""

    def __init__(self, draw: Any) -> None:
        self.choose = lambda *choices: draw(st.sampled_from(choices))

    def key(self, name: str) -> str:
        if name.isascii() and name.replace("-", "").replace("_", "").isalnum() and self.choose(True, False):
            return name
        if "'" not in name and self.choose(True, False):
            return f"'{name}'"
        return json.dumps(name, ensure_ascii=False)

    def text(self, text: str) -> str:
        basic = json.dumps(text, ensure_ascii=False)
        choices = [basic, f'"""{basic[1:-1]}"""']
        if "\n" not in text and "'" not in text:
            choices.append(f"'{text}'")
        if "'" not in text:
            choices.append(f"'''{text}'''")
        return self.choose(*choices)

    def value(self, value: Any) -> str:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            gap = self.choose("", " ", "\n", " # ]\n", "\r\n\t")
            return (
                "["
                + gap
                + f"{gap},{gap}".join(map(self.value, value))
                + gap
                + (self.choose("", ",") if value else "")
                + gap
                + "]"
            )
        if isinstance(value, dict):
            return "{" + ", ".join(self.pair(key, below) for key, below in value.items()) + "}"
        return json.dumps(value)

    def pair(self, key: str, value: Any) -> str:
        path = [self.key(key)]
        while isinstance(value, dict) and len(value) == 1 and self.choose(True, False):
            ((key, value),) = value.items()
            path.append(self.key(key))
        return self.choose(".", " . ").join(path) + self.choose("=", " = ", "\t=") + self.value(value)

    def document(self, value: dict[str, Any], path: tuple[str, ...] = ()) -> str:
        plain: list[str] = []
        tables: list[str] = []
        for key, below in value.items():
            header = ".".join(map(self.key, (*path, key)))
            if isinstance(below, dict) and self.choose(True, False):
                tables.append(f"[{header}]{self.choose('', ' # x')}\n{self.document(below, (*path, key))}")
            elif (
                isinstance(below, list)
                and below
                and all(isinstance(item, dict) for item in below)
                and self.choose(True, False)
            ):
                tables += [
                    f"{self.choose('', '  ')}[[ {header}]]\n{self.document(item, (*path, key))}" for item in below
                ]
            else:
                plain.append(self.pair(key, below) + self.choose("\n", " # [x]\n", "\n\n", "\r\n"))
        return "".join(plain + tables)


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    for key, below in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from paths(below, (*path, key))


@settings(max_examples=examples(80), deadline=None)
@given(DOCUMENTS, st.data())
def test_every_value_has_a_location(document: dict[str, Any], data: st.DataObject) -> None:
    text = Writer(data.draw).document(document)
    assert tomllib.loads(text) == document
    scanner = Scanner(text, LineIndex(text, "f"))
    scanner.run()
    assert not scanner.problems and not scanner.too_deep
    assert set(scanner.marks) == set(paths(document))
    lines = text.split("\n")
    for mark in scanner.marks.values():
        assert mark.key_location.column <= len(lines[mark.key_location.line - 1]) and mark.location >= mark.key_location
        if mark.text:
            assert lines[mark.location.line - 1].startswith(mark.text, mark.location.column - 1)


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "a =",
        "= 1",
        "a = [1",
        "a = {b",
        "[a",
        "[[a]",
        'a = "x',
        'a."\\q" = 1',
        "a = 1 b = 2",
        "a.. = 1",
        "{",
        "a = [1 2]",
    ],
)
def test_it_stops_without_an_error_at_what_is_not_toml(text: str) -> None:
    Scanner(text, LineIndex(text, "f")).run()

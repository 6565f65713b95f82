"""Properties of loading: any file either loads, or every mistake is one line with a location inside the file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from kit.examples import examples

from pfxhttpd.cli.config import as_yaml
from pfxhttpd.config import config_file, schema
from pfxhttpd.config.errors import ConfigError
from pfxhttpd.config.load import Loaded, load_text

slow = settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.too_slow])

FORMATS = st.sampled_from(config_file.FORMATS)
VALID = (Path(__file__).parent / "manual/overview.yml").read_text()


def outcome(content: bytes | str, form: str) -> Loaded | ConfigError:
    """The result of loading. Problems are checked for their form."""
    try:
        text = config_file.decode(content, "f") if isinstance(content, bytes) else content
        return load_text(text, "f", form, {})
    except ConfigError as caught:
        error = caught
    assert error.problems
    size = len(content.splitlines()) + 1
    for problem in error.problems:
        assert str(problem).isprintable(), "one line, printable"
        assert problem.message
        assert 1 <= problem.line <= size and problem.column >= 1, problem
    return error


def toml(value: Any) -> str:
    """The value in TOML, inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(child)}" for key, child in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


# Whole words rather than letters, so that more than the syntax is tested.

NAMES = [*sorted(schema.key_locations()), "defaults", "a", "b", "", "a b", "\u00fc", "Server", "listne"]
SCALARS = st.one_of(
    st.sampled_from(
        [
            0,
            1,
            25,
            65536,
            -1,
            10**30,
            200,
            1.5,
            True,
            False,
            "",
            "a",
            "b",
            "5",
            "true",
            "30s",
            "1w",
            "tcp",
            "unix",
            "/run/x",
            "::",
            "0.0.0.0",
            "http://h/",
            "http://h/{{ .Key }}",
            "https://u:p@h/#x",
            "ftp://h",
            "u:p",
            "A: b",
            "A",
            "socket_map",
            "policy_service",
            "dovecot_sasl",
            "0660",
            "private_key_jwt",
            "a\nb",
            "\t",
            "/none",
            "$CREDENTIALS_DIRECTORY/x",
            "2020-01-01",
            "no",
            "~",
            "*x",
            "&x",
            "!x",
            "- a",
            "12:30",
        ]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
)
KEYS = st.sampled_from(NAMES)
TREES = st.recursive(
    SCALARS, lambda below: st.lists(below, max_size=3) | st.dictionaries(KEYS, below, max_size=5), max_leaves=25
)


def fitting(part: schema.Subschema) -> st.SearchStrategy[Any]:
    """Values that mostly fit the schema, so that the checks after the schema's are reached."""
    kinds = schema.types(part)
    found: list[st.SearchStrategy[Any]] = []
    if "enum" in part:
        found.append(st.sampled_from(part["enum"]))
    elif "object" in kinds:
        known = {
            key: st.deferred(lambda below=below: nearly(below))
            for key, below in schema.properties(part)
            if key != "$schema"
        }
        required = {key: known.pop(key) for key in part.get("required", [])}
        rest = part.get("additionalProperties")
        if isinstance(rest, dict):
            below = schema.resolved(rest)
            known |= {name: st.deferred(lambda: nearly(below)) for name in ("a", "b")}
        found.append(st.fixed_dictionaries(required, optional=known))
    elif "array" in kinds:
        found.append(st.lists(nearly(schema.resolved(part["items"])), max_size=3))
    if "integer" in kinds:
        found.append(st.integers(part["minimum"], part["maximum"]))
    if "boolean" in kinds:
        found.append(st.booleans())
    if "duration" in part:
        found.append(st.sampled_from(["1s", "30s", "5m", 7, "0.5s", 2.5]))
    elif "string" in kinds and "enum" not in part:
        found.append(
            st.sampled_from(
                ["a", "b", "/run/x", "http://h/", "http://h/{{ .Key }}", "u:p", "A: b", "", "127.0.0.1", "::", "0660"]
            )
        )
    return st.one_of(found)


def nearly(part: schema.Subschema) -> st.SearchStrategy[Any]:
    good = fitting(part)
    return st.integers(0, 30).flatmap(lambda dice: good if dice else SCALARS)


DOCUMENTS = fitting(schema.whole())


@slow
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")), FORMATS)
@example(b"\xff\xfe", "yaml")
@example(b'"\\U00110000"', "yaml")
@example(b"%YAML 9." + b"9" * 5000 + b"\n--- a", "yaml")
@example(b"a: " + b"1" * 5000, "yaml")
@example(b"a: 1" + b":59" * 200 + b".5", "yaml")
@example(b'{"a": ' + b"1" * 5000 + b"}", "json")
@example(b"a = 1979-05-27T07:32:00Z", "toml")
def test_garbage(content: bytes, form: str) -> None:
    outcome(content, form)


MARKS = st.sampled_from(
    [
        *"[]{}():,.=#&*!|>'\"%@`-? \t\n\\",
        "\n  ",
        ": ",
        "- ",
        "server",
        "listen",
        "socket_maps",
        "kind",
        "<<",
        "<<: *a",
        "&a ",
        "*a",
        '"""',
        "'''",
        "[[",
        "]]",
        "!!int ",
        "---\n",
        "...",
        "true",
        "0x1F",
        "\\u0000",
        "\u00e9",
        "1.5",
    ]
)


@slow
@given(st.lists(MARKS, max_size=40).map("".join), FORMATS)
def test_pieces_of_syntax(text: str, form: str) -> None:
    outcome(text, form)


@slow
@given(st.data(), st.sampled_from(["yaml", "json", "toml"]))
def test_a_valid_file_with_pieces_of_syntax_in_it(data: st.DataObject, form: str) -> None:
    plain = yaml.safe_load(VALID)
    text = {
        "yaml": VALID,
        "json": json.dumps(plain, indent=1),
        "toml": "\n".join(f"{key} = {toml(value)}" for key, value in plain.items()),
    }[form]
    assert isinstance(outcome(text, form), Loaded)
    for _ in range(data.draw(st.integers(1, 3))):
        begin = data.draw(st.integers(0, len(text)))
        end = begin + data.draw(st.integers(0, 12))
        text = text[:begin] + data.draw(st.lists(MARKS, max_size=3).map("".join)) + text[end:]
    outcome(text, form)


@slow
@given(st.dictionaries(KEYS, TREES, max_size=5), FORMATS)
def test_any_structure(document: dict[str, Any], form: str) -> None:
    text = {
        "yaml": as_yaml,
        "json": json.dumps,
        "toml": lambda value: "\n".join(f"{toml(k)} = {toml(v)}" for k, v in value.items()),
    }[form](document)
    outcome(text, form)


def result(found: Loaded | ConfigError) -> Any:
    return found if isinstance(found, Loaded) else sorted((problem.path, problem.message) for problem in found.problems)


def without_lines(results: Any) -> Any:
    """Problems without the mention of another line, which differs between layouts."""
    return (
        [(path, message.rpartition(" in line ")[0] or message) for path, message in results]
        if isinstance(results, list)
        else results
    )


@slow
@given(DOCUMENTS)
def test_formats_agree(document: dict[str, Any]) -> None:
    assume(document)
    found = [
        result(outcome(json.dumps(document, indent=1), "json")),
        result(outcome(as_yaml(document), "yaml")),
        result(outcome("\n".join(f"{toml(key)} = {toml(value)}" for key, value in document.items()), "toml")),
    ]
    assert without_lines(found[0]) == without_lines(found[1]) == without_lines(found[2])


@slow
@given(DOCUMENTS)
def test_what_loads_loads_again_from_its_effective_document(document: dict[str, Any]) -> None:
    loaded = outcome(json.dumps(document), "json")
    if isinstance(loaded, Loaded):
        again = outcome(as_yaml(loaded.document), "yaml")
        assert isinstance(again, Loaded)
        assert again.settings == loaded.settings


@pytest.mark.parametrize("form", config_file.FORMATS)
def test_valid_files_are_among_the_generated(form: str) -> None:
    plain = yaml.safe_load(VALID)
    text = {
        "yaml": as_yaml(plain),
        "json": json.dumps(plain),
        "toml": "\n".join(f"{k} = {toml(v)}" for k, v in plain.items()),
    }[form]
    assert isinstance(outcome(text, form), Loaded)

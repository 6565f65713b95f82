"""Every record becomes one line of bounded length and printable characters that can be parsed again, in both formats."""

from __future__ import annotations

import json
import math
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kit import logfmt

from pfxhttpd.rules.log_line import LINE_LIMIT, VALUE_LIMIT, Encoder, encoder, field_name
from pfxhttpd.rules.redact import REDACTED, Redactor

STAMP = "2026-01-02T03:04:05.678+01:00"

names = st.text(min_size=1, max_size=80) | st.sampled_from(["session", "key", "time", "msg", "level", "left_out"])
hostile = st.text(max_size=1500) | st.text(
    alphabet='\x00\n\r\t\x1b\x7f\x85\u2028\u2029\u202e\u2066\ud800\udcff\U000e0001\U0001f600"\\=e\u0301 ', max_size=1500
)
values = (
    hostile | st.binary(max_size=300) | st.integers() | st.floats() | st.booleans() | st.lists(st.text(), max_size=3)
)
# Names are keywords in the program, so two that become equal when they are cleaned are not tested.
fields_ = st.lists(st.tuples(names, values), max_size=12, unique_by=lambda pair: field_name(pair[0])[0]).map(dict)
records = st.tuples(hostile, fields_)


def new_encoder(json_format: bool) -> Encoder:
    return encoder(json_format, Redactor())


def read(json_format: bool, line: bytes) -> dict[str, object]:
    """The fields of the line, which must have the properties of every line."""
    assert line.endswith(b"\n") and line.count(b"\n") == 1 and len(line) <= LINE_LIMIT
    text = line[:-1].decode("utf-8")
    assert text.isprintable()
    return json.loads(text, object_pairs_hook=unique) if json_format else dict(logfmt.parse(text))


def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    assert len({name for name, _ in pairs}) == len(pairs)
    return dict(pairs)


class Broken:
    """A value whose str() raises."""

    def __str__(self) -> str:
        raise RuntimeError("no")


def test_lines_are_those_of_the_original() -> None:
    fields = {"session": "a1b2c3d4e5f67890", "sub_session": "9f8e7d6c5b4a3210", "client": "127.0.0.1:12345"}
    assert new_encoder(False).encode("", "DEBUG", "Received request", fields) == (
        b'level=DEBUG msg="Received request" session=a1b2c3d4e5f67890 sub_session=9f8e7d6c5b4a3210 '
        b"client=127.0.0.1:12345\n"
    )
    assert new_encoder(False).encode(STAMP, "INFO", "Ready", {}) == (
        b'time=2026-01-02T03:04:05.678+01:00 level=INFO msg="Ready"\n'
    )
    assert new_encoder(True).encode(STAMP, "INFO", "Ready", {"workers": 8}) == (
        b'{"time":"2026-01-02T03:04:05.678+01:00","level":"INFO","msg":"Ready","workers":8}\n'
    )


@pytest.mark.parametrize(
    ("value", "shown", "in_json"),
    [
        ("plain", "plain", '"plain"'),
        ("two words", '"two words"', '"two words"'),
        ("", '""', '""'),
        ('say "hi"', r'"say \"hi\""', r'"say \"hi\""'),
        ("a=b", '"a=b"', '"a=b"'),
        ("back\\slash", r'"back\\slash"', r'"back\\slash"'),
        ("line\nline\tr\r", r'"line\nline\tr\r"', r'"line\nline\tr\r"'),
        ("nul\0bel\x07esc\x1b[2J", r'"nul\u0000bel\u0007esc\u001b[2J"', r'"nul\u0000bel\u0007esc\u001b[2J"'),
        ("next\x85 \u2028\u2029", r'"next\u0085 \u2028\u2029"', r'"next\u0085 \u2028\u2029"'),
        ("\u202eevil\u2066", r'"\u202eevil\u2066"', r'"\u202eevil\u2066"'),
        ("\ud800 \udcff", r'"\ud800 \udcff"', r'"\ud800 \udcff"'),
        ("tag \U000e0001", r'"tag \udb40\udc01"', r'"tag \udb40\udc01"'),
        ("b\u00fccher", '"b\u00fccher"', '"b\u00fccher"'),
        (b"bytes \xff", r'"bytes \\xff"', r'"bytes \\xff"'),
        (3, "3", "3"),
        (1.5, "1.5", "1.5"),
        (True, "true", "true"),
        (False, "false", "false"),
        (math.inf, "inf", '"inf"'),
        (math.nan, "nan", '"nan"'),
        (2**60, str(2**60), f'"{2**60}"'),
        (ValueError("bad\nvalue"), r'"bad\nvalue"', r'"bad\nvalue"'),
        (Broken(), '"<Broken without text: RuntimeError>"', '"<Broken without text: RuntimeError>"'),
        pytest.param(10**5000, '"<int without text: ValueError>"', '"<int without text: ValueError>"', id="huge"),
    ],
)
def test_how_a_value_is_written(value: object, shown: str, in_json: str) -> None:
    assert new_encoder(False).encode("", "INFO", "m", {"v": value}).decode() == f'level=INFO msg="m" v={shown}\n'
    assert (
        new_encoder(True).encode("", "INFO", "m", {"v": value}).decode()
        == f'{{"level":"INFO","msg":"m","v":{in_json}}}\n'
    )


@pytest.mark.parametrize("json_format", [False, True])
@settings(deadline=None)
@given(record=records)
@example(record=("\0" * 3000, {"a" * 100: "\U000e0001" * 3000, "b": "\u2028" * 3000}))
@example(record=("m", {f"name{number}": "x" * 2000 for number in range(12)}))
def test_any_record_becomes_one_bounded_line_that_can_be_parsed(
    json_format: bool, record: tuple[str, dict[str, object]]
) -> None:
    msg, fields = record
    back = read(json_format, new_encoder(json_format).encode(STAMP, "ERROR", msg, fields))
    assert list(back)[:3] == ["time", "level", "msg"]
    assert (back["time"], back["level"]) == (STAMP, "ERROR")


@pytest.mark.parametrize("json_format", [False, True])
@settings(deadline=None)
@given(text=hostile.filter(lambda text: Redactor().redact(text, VALUE_LIMIT) == (text, 0) and len(text) < 80))
def test_a_parsed_value_is_unchanged(json_format: bool, text: str) -> None:
    back = read(json_format, new_encoder(json_format).encode("", "INFO", text, {"v": text}))
    # A JSON parser joins two escaped surrogates to one character. No text of a client can contain them.
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    assert back["msg"] == back["v"] == whole


@pytest.mark.parametrize("json_format", [False, True])
@settings(deadline=None)
@given(text=hostile, field=st.sampled_from(["v", "error", "body"]))
def test_no_secret_in_any_value_is_shown(json_format: bool, text: str, field: str) -> None:
    line = new_encoder(json_format).encode(
        STAMP,
        "INFO",
        f"{text} password=Zq7hunter",
        {field: f"{text} Bearer Zq7hunter", "password": f"Zq7hunter{text}", "client_secret": b"Zq7hunter"},
    )
    assert b"Zq7hunter" not in line
    assert read(json_format, line)["password"] == REDACTED


@pytest.mark.parametrize("json_format", [False, True])
def test_long_values_are_cut_with_a_mark(json_format: bool) -> None:
    back = read(json_format, new_encoder(json_format).encode("", "INFO", "m", {"key": "k " * 50_000, "client": "c"}))
    assert back["key"] == "k " * (VALUE_LIMIT // 2) + "[+99000 cut]"
    assert back["client"] == "c"


def test_the_limit_of_a_value_is_in_bytes() -> None:
    back = read(False, new_encoder(False).encode("", "INFO", "m", {"v": "\u00fc" * 900, "w": '"' * 900}))
    assert (
        back["v"] == "\u00fc" * (VALUE_LIMIT // 2) + "[+400 cut]"
        and back["w"] == '"' * (VALUE_LIMIT // 2) + "[+400 cut]"
    )


@pytest.mark.parametrize("json_format", [False, True])
def test_the_length_of_a_full_line_is_bounded(json_format: bool) -> None:
    filling = dict.fromkeys("abcd", "x" * 990) | {"left": "x" * 900}
    for size in range(100):
        read(json_format, new_encoder(json_format).encode(STAMP, "INFO", "m", filling | {"e": "x" * size}))


def test_the_cache_of_messages_is_bounded() -> None:
    once = new_encoder(False)
    once.encode("", "INFO", "first", {})
    tracemalloc.start()
    try:
        for number in range(3000):
            once.encode("", "INFO", f"{number} " + "x" * 500, {})
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 600_000


def test_an_escape_is_never_cut_in_two() -> None:
    for shift in range(12):
        back = read(True, new_encoder(True).encode("", "INFO", "m", {"v": "x" * shift + "\U000e0001" * 1000}))
        shown = str(back["v"]).rpartition("[+")[0]
        assert shown == "x" * shift + "\U000e0001" * ((VALUE_LIMIT - shift) // 12)


@pytest.mark.parametrize("json_format", [False, True])
def test_fields_that_do_not_fit_are_left_out_and_counted(json_format: bool) -> None:
    fields = {f"long{number}": str(number) * 2000 for number in range(9)} | {"session": "a1b2"}
    back = read(json_format, new_encoder(json_format).encode(STAMP, "INFO", "m", fields))
    assert back["session"] == "a1b2" and str(back["left_out"]) == "6" and "long2" in back and "long3" not in back


@pytest.mark.parametrize("json_format", [False, True])
def test_a_field_cannot_use_a_reserved_name(json_format: bool) -> None:
    back = read(
        json_format,
        new_encoder(json_format).encode(STAMP, "INFO", "m", {"level": "x", "msg": "y", "ti me": "z", "": 1}),
    )
    assert back == {
        "time": STAMP,
        "level": "INFO",
        "msg": "m",
        "field_level": "x",
        "field_msg": "y",
        "ti_me": "z",
        "_": 1 if json_format else "1",
    }


def test_fields_with_none_are_left_out() -> None:
    assert new_encoder(False).encode("", "INFO", "m", {"a": None, "b": 0}) == b'level=INFO msg="m" b=0\n'


def test_the_same_message_is_encoded_alike_every_time() -> None:
    once = new_encoder(False)
    lines = {
        once.encode("", level, msg, {}) for level in ("INFO", "ERROR") for msg in ("a", "b\n", "Bearer x") for _ in "ab"
    }
    assert len(lines) == 6


def test_a_message_may_be_any_object() -> None:
    assert new_encoder(False).encode("", "INFO", ["a", 1], {}) == b"""level=INFO msg="['a', 1]"\n"""

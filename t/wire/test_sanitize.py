"""Sanitizing of text: no value or reason can start a second line, and an account that could is refused."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as some

from pfxhttpd.wire.sanitize import ACCOUNT_LIMIT, REASON_LIMIT, account_error, clean, one_line

ANY_TEXT = some.text(some.characters(exclude_categories=()), max_size=60)
LINE_BREAKING = "\n\r\t\0\x0b\x0c\x1b\x1f\x7f\x80\x85\x9b\x9f\u2028\u2029"


@pytest.mark.parametrize("character", LINE_BREAKING)
def test_a_line_breaking_character_becomes_a_space(character: str) -> None:
    assert clean(f"a{character}b") == "a b"
    assert one_line(f"a{character}b") == "a b"


@pytest.mark.parametrize(
    "text", ["", "plain", "grün 日本", "a\u00a0b", "zero\u200bwidth", "👩‍👩‍👧", " edges ", "\ue000", "~"]
)
def test_harmless_text_is_not_changed(text: str) -> None:
    assert clean(text) == text


def test_the_neighbours_of_line_breaking_characters_are_kept() -> None:
    assert clean("\n ~\u00a0\u2027\u202a\ud7ff\ue000") == "  ~\u00a0\u2027\u202a\ud7ff\ue000"


def test_a_lone_surrogate_is_replaced() -> None:
    assert clean("a\ud800b\udfff") == "a\ufffdb\ufffd"
    assert one_line("a\ud800b") == "a b"


@given(ANY_TEXT)
def test_clean_text_is_one_line_and_can_be_encoded(text: str) -> None:
    cleaned = clean(text)
    assert len(cleaned) == len(text)
    assert len(cleaned.splitlines()) <= 1
    assert not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in cleaned)
    assert cleaned.encode().decode() == cleaned
    assert clean(cleaned) == cleaned


@given(ANY_TEXT, some.integers(min_value=3, max_value=70))
def test_a_reason_is_printable_and_short(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert line.isprintable()
    assert len(line) <= limit
    assert line == line.strip()
    assert one_line(line, limit) == line


def test_a_long_reason_is_cut_visibly() -> None:
    assert one_line("x" * REASON_LIMIT) == "x" * 200
    assert one_line("x" * (REASON_LIMIT + 1)) == "x" * 197 + "..."


def test_a_reason_has_no_direction_marks_and_unusual_spaces() -> None:
    assert one_line("a\u202eb\u00a0c\u200bd") == "a b c d"


@pytest.mark.parametrize(
    "account", ["a", "user@example.org", "Jürgen", "a b", "a=b", "x" * ACCOUNT_LIMIT, "\\001t", "日本"]
)
def test_a_valid_account(account: str) -> None:
    assert account_error(account) == ""


@pytest.mark.parametrize(
    "account",
    [
        "",
        " ",
        "\u3000",
        "a\tb",
        "\ta",
        "a\n",
        "a\r",
        "a\x00",
        "a\x01t",
        "\x7f",
        "a\x85b",
        "a\u2028b",
        "a\u2029",
        "\ud800",
        "x" * (ACCOUNT_LIMIT + 1),
        "ü" * (ACCOUNT_LIMIT // 2 + 1),
    ],
)
def test_an_invalid_account_is_not_quoted(account: str) -> None:
    error = account_error(account)
    assert error and error.isprintable() and len(error) < 60

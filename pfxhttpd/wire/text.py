"""Cleaning of texts that go onto a line: what a client or a backend wrote must never begin a second one.

Two strengths. A *value* keeps whatever is harmless, since it is data (`clean`). A *reason* is read by people,
so it is printable and short (`one_line`).
"""

from __future__ import annotations

REASON_LIMIT = 200
"""Characters in a reason, the longest that a reply or a log line quotes."""

_BREAKERS = (*range(0x00, 0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)
_SURROGATES = range(0xD800, 0xE000)
_CLEAN = dict.fromkeys(_BREAKERS, " ") | dict.fromkeys(_SURROGATES, "\ufffd")


def clean(text: str) -> str:
    """The text with each control character (C0, DEL, C1) and each line or paragraph separator turned into a space.

    A lone surrogate, which JSON can hold and UTF-8 cannot, becomes U+FFFD. The length does not change.
    """
    if text.isprintable():  # nothing that must go is printable, and nearly every text is
        return text
    return text.translate(_CLEAN)


def one_line(text: str, limit: int = REASON_LIMIT) -> str:
    """The text as one printable line of at most `limit` characters, without blanks around it.

    Whatever is not printable becomes a space, direction marks and exotic blanks included. A text that is cut ends in "...".
    """
    text = text.strip()
    if len(text) > limit:
        text = text[: limit - 3] + "..."
    if text.isprintable():
        return text
    return "".join([letter if letter.isprintable() else " " for letter in text]).strip()

"""Cleaning of text that goes onto a line: nothing that a client or a backend wrote may begin a second line.

There are two strengths. A *value* is data, so it keeps whatever is harmless (`clean`). A *reason* is read by people,
so it is printable and short (`one_line`). An *account* decides whose mailbox and sending rights a login gets; it is
checked by one rule (`account_error`) where it enters (the backend's response) and where it leaves (the protocol line).
"""

from __future__ import annotations

REASON_LIMIT = 200
"""Characters in a reason, the longest that a reply or a log line quotes."""

_BREAKERS = (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)
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


ACCOUNT_LIMIT = 1024
"""Longest account, in bytes of UTF-8."""


def account_error(account: str) -> str:
    """What makes `account` unfit to be written, as a text without any of it; "" when it is fit."""
    if not account or account.isspace():
        return "empty account"
    if clean(account) != account:  # a tab, another control character, a line separator, a lone surrogate
        return "control character in account"
    if len(account.encode()) > ACCOUNT_LIMIT:
        return "account too long"
    return ""

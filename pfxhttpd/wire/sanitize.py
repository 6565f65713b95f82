"""Sanitizing of text from clients and backends before it is written to a line, so that it cannot start a second line.

A value is data and keeps every harmless character (`clean`). A reason is for people to read and is printable and short
(`one_line`). An account is never changed, because it decides whose mailbox and sending rights a login gets. It is
checked (`account_error`) both in the backend's response and before it is written.
"""

from __future__ import annotations

REASON_LIMIT = 200
"""Length of the longest reason in a reply or a log line, in characters."""

ACCOUNT_LIMIT = 1024
"""Length of the longest account, in bytes of UTF-8."""

_LINE_BREAKING = (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)
_SURROGATES = range(0xD800, 0xE000)
_CLEAN = dict.fromkeys(_LINE_BREAKING, " ") | dict.fromkeys(_SURROGATES, "\ufffd")


def clean(text: str) -> str:
    """The text with a space for each control character (C0, DEL, C1) and each line or paragraph separator.

    A lone surrogate, which JSON can express and UTF-8 cannot, becomes U+FFFD. The length does not change.
    """
    if text.isprintable():  # the common case: none of the replaced characters is printable
        return text
    return text.translate(_CLEAN)


def one_line(text: str, limit: int = REASON_LIMIT) -> str:
    """The text as one printable line of at most `limit` characters, without surrounding white space.

    Characters that are not printable become spaces, including direction marks and unusual spaces. A text that is cut
    ends in "...".
    """
    text = text.strip()
    if len(text) > limit:
        text = text[: limit - 3] + "..."
    if text.isprintable():
        return text
    return "".join([character if character.isprintable() else " " for character in text]).strip()


def account_error(account: str) -> str:
    """Why `account` cannot be written to a line, as a text that quotes nothing of it; "" if it can be written."""
    if not account or account.isspace():
        return "empty account"
    if clean(account) != account:  # a tab, another control character, a line separator, a lone surrogate
        return "control character in account"
    if len(account.encode()) > ACCOUNT_LIMIT:
        return "account too long"
    return ""

"""Which account names may be told to a mail server.

The name after `user=` decides whose mailbox and whose sending rights a login gets, so it is checked where it enters (the
backend's answer) and again where it leaves (the protocol line), by this one rule.
"""

from __future__ import annotations

from pfxhttpd.wire.text import clean

LIMIT = 1024
"""Longest account, in bytes of UTF-8."""


def flaw(account: str) -> str:
    """What makes `account` unfit to be written, as a text without any of it; "" when it is fit."""
    if not account or account.isspace():
        return "empty account"
    if clean(account) != account:  # a tab, another control character, a line separator, a lone surrogate
        return "control character in account"
    if len(account.encode()) > LIMIT:
        return "account too long"
    return ""

"""The four ways in which a mail client says user and password to an SMTP server (RFC 4954; LOGIN has no RFC)."""

from __future__ import annotations

import base64
import smtplib
from collections.abc import Callable
from typing import NamedTuple


class Outcome(NamedTuple):
    """The server's last word: 235 in, 535 wrong, 454 or 435 not now."""

    code: int
    text: str


class Unprompted(AssertionError):
    """The server did not ask for what comes next."""


def _base64(text: bytes) -> str:
    return base64.b64encode(text).decode()


def _said(client: smtplib.SMTP, line: str, argument: str = "") -> Outcome:
    code, text = client.docmd(line, argument)
    return Outcome(code, text.decode("utf-8", "replace"))


def _prompted(client: smtplib.SMTP, line: str, argument: str, prompt: bytes) -> None:
    outcome = _said(client, line, argument)
    if outcome != (334, _base64(prompt)):
        raise Unprompted(f"the prompt {prompt!r} awaited after {line!r}, not {outcome}")


def plain_at_once(client: smtplib.SMTP, user: bytes, password: bytes) -> Outcome:
    return _said(client, "AUTH", "PLAIN " + _base64(b"\0" + user + b"\0" + password))


def plain_when_asked(client: smtplib.SMTP, user: bytes, password: bytes) -> Outcome:
    _prompted(client, "AUTH", "PLAIN", b"")
    return _said(client, _base64(b"\0" + user + b"\0" + password))


def login_at_once(client: smtplib.SMTP, user: bytes, password: bytes) -> Outcome:
    _prompted(client, "AUTH", "LOGIN " + _base64(user), b"Password:")
    return _said(client, _base64(password))


def login_when_asked(client: smtplib.SMTP, user: bytes, password: bytes) -> Outcome:
    _prompted(client, "AUTH", "LOGIN", b"Username:")
    _prompted(client, _base64(user), "", b"Password:")
    return _said(client, _base64(password))


Way = Callable[[smtplib.SMTP, bytes, bytes], Outcome]

WAYS: dict[str, Way] = {way.__name__: way for way in (plain_at_once, plain_when_asked, login_at_once, login_when_asked)}

"""How a mail client logs in with a token (RFC 7628; Google's XOAUTH2), to an SMTP server."""

from __future__ import annotations

import base64
import json
import smtplib
from collections.abc import Callable
from typing import Any, NamedTuple


class TokenOutcome(NamedTuple):
    """The server's last word (235, 535, 454), and the error challenge that came before it, {} for none."""

    code: int
    challenge: dict[str, Any]


def xoauth2_message(user: str, token: str) -> str:
    return f"user={user}\x01auth=Bearer {token}\x01\x01"


def oauthbearer_message(user: str, token: str) -> str:
    name = user.replace("=", "=3D").replace(",", "=2C")
    return f"n,{f'a={name}' if user else ''},\x01host=mx.example.test\x01port=25\x01auth=Bearer {token}\x01\x01"


MESSAGES: dict[str, Callable[[str, str], str]] = {"XOAUTH2": xoauth2_message, "OAUTHBEARER": oauthbearer_message}


def log_in(client: smtplib.SMTP, mechanism: str, user: str, token: str) -> TokenOutcome:
    """A whole exchange. The message comes after the prompt: as an initial response it may be too long for a command."""
    code, text = client.docmd("AUTH", mechanism)
    if code != 334:
        return TokenOutcome(code, {})
    message = MESSAGES[mechanism](user, token).encode()
    code, text = client.docmd(base64.b64encode(message).decode())
    if code != 334:
        return TokenOutcome(code, {})
    challenge = json.loads(base64.b64decode(text))
    acknowledgement = "" if mechanism == "XOAUTH2" else "AQ=="
    code, _ = client.docmd(acknowledgement)
    return TokenOutcome(code, challenge)

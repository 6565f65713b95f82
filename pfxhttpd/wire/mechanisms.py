"""What the SASL mechanisms say: the server's prompts, and the client's messages turned into credentials.

A mechanism is a row in a table: the steps of its dialogue, each with the prompt that asks for it and a check that can
refuse the message at once, and the function that reads the messages when all are there. The connection runs every
mechanism the same way. Messages are the decoded bytes; base64 is the protocol's business (`decode`, `encode`).

Sources: PLAIN RFC 4616; LOGIN draft-murchison-sasl-login-00; OAUTHBEARER RFC 7628 with the GS2 header of RFC 5801;
XOAUTH2 Google's "OAuth 2.0 Mechanism".
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

USER_LIMIT = 1024
"""Longest user name and authorization identity, in bytes. Only a line's own bound holds for passwords and tokens."""

_TOKEN = re.compile(r"[\x21-\x7e]+")
_PAIR_VALUE = re.compile(r"[\t\n\r\x20-\x7e]*")
_PAIR_KEY = re.compile(r"[A-Za-z]+")
_SASLNAME = re.compile(r"(?:[^\x00,=]|=2C|=3D)+")
_BEARER = "bearer "


class BadMessage(ValueError):
    """A message that fails its exchange and nothing else. `reason` is one line without any byte of the message."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who the client says it is, and its proof: a password, or a token for the mechanisms with `token` set.

    `user` is "" only for an OAUTHBEARER client that names nobody. `authzid` is PLAIN's, "" when not given.
    """

    user: str
    secret: str = field(repr=False)
    authzid: str = ""


def _unread(message: bytes) -> None:
    """No check of its own: the message is read with the others when all are there."""


@dataclass(frozen=True, slots=True)
class Step:
    """One message of the client: the `prompt` that asks for it, and a `check` that raises BadMessage to refuse it at once."""

    prompt: bytes
    check: Callable[[bytes], object] = _unread


@dataclass(frozen=True, slots=True)
class Mechanism:
    """A row of the table. `read` takes one message for each step and raises BadMessage; `token` says that a failure is
    told to the client by an error challenge (RFC 7628, 3.2.2) before the final answer."""

    name: str
    steps: tuple[Step, ...]
    read: Callable[..., Credentials]
    token: bool = False


def decode(text: bytes) -> bytes:
    """The bytes that `text` writes in base64 (RFC 4648, 4; padding required, nothing else allowed). Raises BadMessage."""
    if len(text) % 4 or text.endswith(b"==="):  # more padding than is needed, which Python allows before 3.13
        raise BadMessage("bad base64")
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        raise BadMessage("bad base64") from None


def encode(message: bytes) -> bytes:
    """Base64 on one line."""
    return binascii.b2a_base64(message, newline=False)


def challenge(status: str, scope: str = "", discovery: str = "") -> bytes:
    """The error challenge of RFC 7628, 3.2.2: why a token failed, what scope it needs, where the provider is described."""
    error = {"status": status, "schemes": "bearer"}
    if scope:
        error["scope"] = scope
    if discovery:
        error["openid-configuration"] = discovery
    return json.dumps(error, separators=(",", ":")).encode()


def plain(message: bytes) -> Credentials:
    """[authzid] NUL authcid NUL password, all UTF-8 (RFC 4616, 2). Raises BadMessage, also for an authzid unlike the user."""
    parts = message.split(b"\x00")
    if len(parts) != 3:
        raise BadMessage("malformed PLAIN message")
    user, secret = _name(parts[1]), _password(parts[2])
    authzid = _text(parts[0])
    if authzid and authzid != user:
        raise BadMessage("authorization identity differs from user")
    return Credentials(user, secret, authzid)


def login(user: bytes, secret: bytes) -> Credentials:
    """The two messages of LOGIN. Raises BadMessage."""
    return Credentials(_name(user), _password(secret))


def xoauth2(message: bytes) -> Credentials:
    """user=NAME ^A auth=Bearer TOKEN ^A ^A. Raises BadMessage."""
    text = _text(message)
    if not text.endswith("\x01\x01"):
        raise BadMessage("malformed XOAUTH2 message")
    pairs = _pairs(text[:-2].split("\x01"))
    user = pairs.get("user", "")
    _name(user.encode())
    return Credentials(user, _token(pairs))


def oauthbearer(message: bytes) -> Credentials:
    """n,a=NAME, ^A key=value ^A … ^A (RFC 7628, 3.1). Raises BadMessage, also for channel binding (p=), which needs TLS here."""
    header, *rest = _text(message).split("\x01")
    if len(rest) < 2 or rest[-2:] != ["", ""]:
        raise BadMessage("malformed OAUTHBEARER message")
    pairs = _pairs(rest[:-2])
    if any(not _PAIR_VALUE.fullmatch(value) for value in pairs.values()):
        raise BadMessage("malformed OAUTHBEARER message")
    return Credentials(_claimed(header), _token(pairs))


def _claimed(header: str) -> str:
    """The name in a GS2 header (RFC 5801, 4), "" when there is none."""
    binding, comma, identity = header.partition(",")
    if binding.startswith("p="):
        raise BadMessage("channel binding not supported")
    if binding not in ("n", "y") or not comma or not identity.endswith(","):
        raise BadMessage("malformed GS2 header")
    identity = identity[:-1]
    if not identity:
        return ""
    if not identity.startswith("a=") or not _SASLNAME.fullmatch(identity, 2):
        raise BadMessage("malformed GS2 header")
    user = identity[2:].replace("=2C", ",").replace("=3D", "=")
    _name(user.encode())
    return user


def _pairs(fields: list[str]) -> dict[str, str]:
    """key=value fields; unknown keys are kept and looked at by nobody, a repeated one is refused: which would hold?"""
    pairs: dict[str, str] = {}
    for item in fields:
        key, equals, value = item.partition("=")
        if not equals or not _PAIR_KEY.fullmatch(key) or key in pairs:
            raise BadMessage("malformed key-value pair")
        pairs[key] = value
    return pairs


def _token(pairs: dict[str, str]) -> str:
    """The bearer token of the auth pair (RFC 6750, 2.1; the scheme's name in any case)."""
    scheme = pairs.get("auth", "")
    token = scheme[len(_BEARER) :].strip(" ")
    if scheme[: len(_BEARER)].lower() != _BEARER or not _TOKEN.fullmatch(token):
        raise BadMessage("no bearer token")
    return token


def _text(message: bytes) -> str:
    try:
        return message.decode()
    except UnicodeDecodeError:
        raise BadMessage("not UTF-8") from None


def _name(message: bytes) -> str:
    """A user name: anything of UTF-8 but NUL, which no mechanism can carry and some backends would cut the name at."""
    if not message:
        raise BadMessage("empty user")
    if len(message) > USER_LIMIT:
        raise BadMessage("user too long")
    if b"\x00" in message:
        raise BadMessage("NUL in user")
    return _text(message)


def _password(message: bytes) -> str:
    if not message:
        raise BadMessage("empty password")
    if b"\x00" in message:
        raise BadMessage("NUL in password")
    return _text(message)


PLAIN = Mechanism("PLAIN", (Step(b""),), plain)
LOGIN = Mechanism("LOGIN", (Step(b"Username:", _name), Step(b"Password:")), login)
XOAUTH2 = Mechanism("XOAUTH2", (Step(b""),), xoauth2, token=True)
OAUTHBEARER = Mechanism("OAUTHBEARER", (Step(b""),), oauthbearer, token=True)

PASSWORD_MECHANISMS = (PLAIN, LOGIN)
TOKEN_MECHANISMS = (XOAUTH2, OAUTHBEARER)

"""The SASL mechanisms: the server's prompts, and the parsing of the client's messages into credentials.

A mechanism is a table row. It lists the steps of the exchange, each with the prompt that asks for the client's message
and a check that can refuse that message at once, and the function that parses the messages when all have been received.
`SaslSession` runs every mechanism in the same way. Messages are bytes, already decoded from base64.

Sources: PLAIN RFC 4616; LOGIN draft-murchison-sasl-login-00; OAUTHBEARER RFC 7628 with the GS2 header of RFC 5801;
XOAUTH2 Google's "OAuth 2.0 Mechanism".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

USER_LIMIT = 1024
"""Length of the longest user name, in bytes. Passwords and tokens are bounded only by the length of a line."""

_TOKEN = re.compile(r"[\x21-\x7e]+")
_PAIR_VALUE = re.compile(r"[\t\n\r\x20-\x7e]*")
_PAIR_KEY = re.compile(r"[A-Za-z]+")
_SASLNAME = re.compile(r"(?:[^\x00,=]|=2C|=3D)+")
_BEARER = "bearer "


class BadMessage(ValueError):
    """A message of the client that fails its exchange. `reason` is one line and quotes nothing of the message."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Credentials:
    """The user name that the client gave, and a password or, for the mechanisms with `token` set, a token.

    `user` is empty only with OAUTHBEARER, where the name is optional.
    """

    user: str
    secret: str = field(repr=False)


def _no_check(message: bytes) -> None:
    """The check of a step whose message is parsed only when all messages have been received."""


@dataclass(frozen=True, slots=True)
class Step:
    """One message of the client. `prompt` asks for it, and `check` raises BadMessage to refuse it at once."""

    prompt: bytes
    check: Callable[[bytes], object] = _no_check


@dataclass(frozen=True, slots=True)
class Mechanism:
    """A mechanism. `parse` takes one message for each step and raises BadMessage.

    `challenge` is set for the OAuth mechanisms: their secret is a token, and before the final failure the client receives
    an error challenge. It is made of the error (RFC 6750 section 3.1), the scopes that are required, separated by blanks,
    and the URL of the discovery document.
    """

    name: str
    steps: tuple[Step, ...]
    parse: Callable[..., Credentials]
    challenge: Callable[[str, str, str], bytes] | None = None

    @property
    def token(self) -> bool:
        """The secret is a token."""
        return self.challenge is not None


def xoauth2_challenge(error: str, scope: str = "", discovery: str = "") -> bytes:
    """The error challenge as clients of Google's mechanism know it: `status` is an HTTP status code."""
    status = "400" if error == "invalid_request" else "401"
    return _json({"status": status, "schemes": "bearer", "scope": scope})


def oauthbearer_challenge(status: str, scope: str = "", discovery: str = "") -> bytes:
    """The error challenge of RFC 7628 section 3.2.2.

    It consists of the error `status`, the `scope` that is required and the URL of the `discovery` document.
    """
    error = {"status": status, "schemes": "bearer"}
    if scope:
        error["scope"] = scope
    if discovery:
        error["openid-configuration"] = discovery
    return _json(error)


def _json(members: Mapping[str, str]) -> bytes:
    return json.dumps(members, separators=(",", ":")).encode()


def parse_plain(message: bytes) -> Credentials:
    """`[authzid] NUL authcid NUL password`, all of them UTF-8 (RFC 4616 section 2).

    Raises BadMessage, also if the authorization identity is given and differs from the user.
    """
    parts = message.split(b"\x00")
    if len(parts) != 3:
        raise BadMessage("malformed PLAIN message")
    user, password = _parse_user(parts[1]), _parse_password(parts[2])
    authzid = _decode_utf8(parts[0])
    if authzid and authzid != user:
        raise BadMessage("authorization identity differs from user")
    return Credentials(user, password)


def parse_login(user: bytes, password: bytes) -> Credentials:
    """The two messages of LOGIN. Raises BadMessage."""
    return Credentials(_parse_user(user), _parse_password(password))


def parse_xoauth2(message: bytes) -> Credentials:
    """`user=NAME ^A auth=Bearer TOKEN ^A ^A`. Raises BadMessage."""
    text = _decode_utf8(message)
    if not text.endswith("\x01\x01"):
        raise BadMessage("malformed XOAUTH2 message")
    pairs = _parse_pairs(text[:-2].split("\x01"))
    user = _parse_user(pairs.get("user", "").encode())
    return Credentials(user, _bearer_token(pairs))


def parse_oauthbearer(message: bytes) -> Credentials:
    """`n,a=NAME, ^A key=value ^A ... ^A` (RFC 7628 section 3.1).

    Raises BadMessage, also for channel binding (`p=`), which cannot be verified here because TLS ends in the mail
    server.
    """
    header, *rest = _decode_utf8(message).split("\x01")
    if len(rest) < 2 or rest[-2:] != ["", ""]:
        raise BadMessage("malformed OAUTHBEARER message")
    pairs = _parse_pairs(rest[:-2])
    if any(not _PAIR_VALUE.fullmatch(value) for value in pairs.values()):
        raise BadMessage("malformed OAUTHBEARER message")
    return Credentials(_parse_gs2_header(header), _bearer_token(pairs))


def _parse_gs2_header(header: str) -> str:
    """The authorization identity in a GS2 header (RFC 5801 section 4), "" if there is none."""
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
    return _parse_user(identity[2:].replace("=2C", ",").replace("=3D", "=").encode())


def _parse_pairs(fields: list[str]) -> dict[str, str]:
    """The key=value pairs in `fields`. Unknown keys are allowed. A repeated key is refused, because it is ambiguous."""
    pairs: dict[str, str] = {}
    for item in fields:
        key, equals, value = item.partition("=")
        if not equals or not _PAIR_KEY.fullmatch(key) or key in pairs:
            raise BadMessage("malformed key-value pair")
        pairs[key] = value
    return pairs


def _bearer_token(pairs: dict[str, str]) -> str:
    """The token in the `auth` pair (RFC 6750 section 2.1). The name of the scheme is case-insensitive."""
    scheme = pairs.get("auth", "")
    token = scheme[len(_BEARER) :].strip(" ")
    if scheme[: len(_BEARER)].lower() != _BEARER or not _TOKEN.fullmatch(token):
        raise BadMessage("no bearer token")
    return token


def _decode_utf8(message: bytes) -> str:
    try:
        return message.decode()
    except UnicodeDecodeError:
        raise BadMessage("not UTF-8") from None


def _parse_user(message: bytes) -> str:
    """A user name in UTF-8. NUL is refused, because some backends end the name there."""
    if not message:
        raise BadMessage("empty user")
    if len(message) > USER_LIMIT:
        raise BadMessage("user too long")
    if b"\x00" in message:
        raise BadMessage("NUL in user")
    return _decode_utf8(message)


def _parse_password(message: bytes) -> str:
    if not message:
        raise BadMessage("empty password")
    if b"\x00" in message:
        raise BadMessage("NUL in password")
    return _decode_utf8(message)


PLAIN = Mechanism("PLAIN", (Step(b""),), parse_plain)
LOGIN = Mechanism("LOGIN", (Step(b"Username:", _parse_user), Step(b"Password:")), parse_login)
XOAUTH2 = Mechanism("XOAUTH2", (Step(b""),), parse_xoauth2, xoauth2_challenge)
OAUTHBEARER = Mechanism("OAUTHBEARER", (Step(b""),), parse_oauthbearer, oauthbearer_challenge)

PASSWORD_MECHANISMS = (PLAIN, LOGIN)
TOKEN_MECHANISMS = (XOAUTH2, OAUTHBEARER)

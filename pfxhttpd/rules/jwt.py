"""Parsing of a JSON Web Token (RFC 7515 section 5.2, RFC 7519, RFC 8725). Nothing is verified here.

python-jose's own parser is not strict enough. It splits the token at its last dot and ignores characters that are not
base64, so that it accepts some tokens of four parts; it ignores `crit`; and of a repeated member it uses the last one.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import NamedTuple

from pfxhttpd.rules.strict_json import JsonObject, parse_object

MAX_TOKEN = 32 * 1024
"""Characters. Postfix accepts 12288 by default (smtpd_sasl_response_limit), and those are base64."""
MAX_KEY_ID = 256
"""Characters of a `kid`."""

_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")


class TokenRefused(Exception):
    """The token is not accepted; a second attempt would have the same result.

    `reason` is one line for the log and contains no part of the token. `status` is the error code for the client,
    `invalid_token` or `insufficient_scope` (RFC 6750 section 3.1).
    """

    def __init__(self, reason: str, status: str = "invalid_token") -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


class Jwt(NamedTuple):
    """The parts of a token. `key_id` is "" if the header has no `kid`; `signed` is the input of the signature."""

    algorithm: str
    key_id: str
    claims: JsonObject
    signed: bytes
    signature: bytes


def looks_like_jwt(token: str) -> bool:
    """Whether the token has the form of a signed JWT. All other tokens, also encrypted JWTs, are opaque to pfxhttpd."""
    parts = token.split(".")
    if len(parts) != 3 or len(token) > MAX_TOKEN:
        return False
    try:
        return "alg" in parse_object(_decoded(parts[0]))
    except ValueError:
        return False


def read_jwt(token: str) -> Jwt:
    """The token's parts. Raises `TokenRefused` if it is not a signed JWT, or if its header requires an extension."""
    if len(token) > MAX_TOKEN:
        raise TokenRefused("the token is too long")
    parts = token.split(".")
    if len(parts) != 3:
        raise TokenRefused("the token is no signed JWT")
    try:
        header, claims = parse_object(_decoded(parts[0])), parse_object(_decoded(parts[1]))
        signature = _decoded(parts[2]) if parts[2] else b""
    except ValueError:
        raise TokenRefused("the token is no valid JWT") from None
    algorithm, key_id = header.get("alg"), header.get("kid", "")
    if type(algorithm) is not str:
        raise TokenRefused("the token's header names no algorithm")
    if "crit" in header:
        raise TokenRefused("the token's header demands an extension (crit)")
    if type(key_id) is not str or len(key_id) > MAX_KEY_ID:
        raise TokenRefused("the token's header has no usable kid")
    return Jwt(algorithm, key_id, claims, f"{parts[0]}.{parts[1]}".encode("ascii"), signature)


def unverified_issuer(token: str) -> str:
    """The `iss` claim, or "". It is not verified, and only selects the provider that verifies the token."""
    try:
        issuer = read_jwt(token).claims.get("iss")
    except TokenRefused:
        return ""
    return issuer if type(issuer) is str else ""


def _decoded(part: str) -> bytes:
    """Base64url without padding (RFC 7515 section 2). Raises ValueError."""
    if not _BASE64URL.fullmatch(part):
        raise ValueError("no base64url")
    try:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except binascii.Error:
        raise ValueError("no base64url") from None

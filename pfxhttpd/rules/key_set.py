"""The key set of a provider (RFC 7517), and the selection of the keys that may have signed a token.

The algorithms that are allowed are a property of the key: of its type, its curve and its `alg`. The header of a token
must name one of them. So a token cannot make an RSA key be used as an HMAC secret, and an unsigned token is never
accepted (RFC 8725 sections 2.1 and 3.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pfxhttpd.rules.jwt import MAX_KEY_ID, TokenRefused
from pfxhttpd.rules.response import BackendError
from pfxhttpd.rules.strict_json import parse_object

MAX_DOCUMENT = 512 * 1024
"""Bytes of a key set or a discovery document."""
MAX_KEYS = 100

_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_EDDSA = frozenset({"EdDSA", "Ed25519"})  # RFC 8037, and RFC 9864 that gives it its own name

FITTING: Mapping[tuple[str, str], frozenset[str]] = {
    ("RSA", ""): _RSA,
    ("EC", "P-256"): frozenset({"ES256"}),
    ("EC", "P-384"): frozenset({"ES384"}),
    ("EC", "P-521"): frozenset({"ES512"}),
    ("OKP", "Ed25519"): _EDDSA,
}
"""Type and curve of a key -> the algorithms that it may be used for (RFC 7518 sections 3.3 to 3.5)."""

ALGORITHMS = frozenset().union(*FITTING.values())

_MEMBERS: Mapping[str, tuple[str, ...]] = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}


class PublicKey(NamedTuple):
    """One key. `algorithms` are those that it may be used with; `members` are the members of the JWK that define the
    key."""

    key_id: str
    algorithms: frozenset[str]
    members: Mapping[str, str]


class UnknownKey(TokenRefused):
    """The set has no key that can have signed the token. The provider may have published new keys."""


class KeySet:
    """The usable keys of a document."""

    def __init__(self, keys: tuple[PublicKey, ...]) -> None:
        self.keys = keys

    def candidates(self, key_id: str, algorithm: str) -> list[PublicKey]:
        """The keys that can have signed a token with this header.

        Raises `TokenRefused` for an algorithm that is not one of `ALGORITHMS`, and `UnknownKey` if there is no key.
        """
        if algorithm not in ALGORITHMS:
            raise TokenRefused("the token is signed with no algorithm that is allowed")
        named = [key for key in self.keys if key.key_id == key_id] if key_id else list(self.keys)
        fitting = [key for key in named if algorithm in key.algorithms]
        if fitting:
            return fitting
        if key_id and named:
            raise TokenRefused("the key of the token's kid is not for the token's algorithm")
        raise UnknownKey("the provider has no key that the token may be signed with")


def parse_key_set(body: bytes) -> KeySet:
    """The keys of the document, without those of unknown types and those for encryption (RFC 7517 section 5).

    Raises `BackendError` for a document that is not a key set, and for more than MAX_KEYS keys.
    """
    if len(body) > MAX_DOCUMENT:
        raise BackendError("the provider's key set is too large")
    try:
        keys = parse_object(body)["keys"]
    except (ValueError, KeyError):
        raise BackendError("the provider's key set is invalid") from None
    if keys is None:
        keys = []
    if type(keys) is not list:
        raise BackendError("the provider's key set is invalid")
    if len(keys) > MAX_KEYS:
        raise BackendError(f"the provider's key set has more than {MAX_KEYS} keys")
    return KeySet(tuple(_usable(keys)))


def _usable(keys: list[Any]) -> Iterator[PublicKey]:
    for jwk in keys:
        if type(jwk) is not dict or jwk.get("use", "sig") != "sig":
            continue
        operations = jwk.get("key_ops")
        if operations is not None and (type(operations) is not list or "verify" not in operations):
            continue
        kty, crv, key_id = jwk.get("kty"), jwk.get("crv", ""), jwk.get("kid", "")
        if type(kty) is not str or type(crv) is not str or type(key_id) is not str or len(key_id) > MAX_KEY_ID:
            continue
        algorithms = FITTING.get((kty, "" if kty == "RSA" else crv))
        if algorithms is None:
            continue
        if "alg" in jwk:
            algorithms &= _EDDSA if jwk["alg"] in _EDDSA else frozenset({str(jwk["alg"])})
        names = _MEMBERS[kty]
        if algorithms and all(type(jwk.get(name)) is str and jwk[name] for name in names):
            yield PublicKey(key_id, algorithms, {"kty": kty, **{name: jwk[name] for name in names}})

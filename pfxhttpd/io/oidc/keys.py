"""Verification of the signatures of tokens by python-jose (RFC 7518).

python-jose 3.5 has neither EdDSA (RFC 8037) nor RSASSA-PSS (RFC 7518 section 3.5). Both are registered here with
`jose.jwk.register_key`, its extension point.
"""

from __future__ import annotations

import base64
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jose import jwk
from jose.backends import RSAKey
from jose.backends.base import Key
from jose.exceptions import JOSEError, JWKError

from pfxhttpd.rules.jwt import Jwt, TokenRefused
from pfxhttpd.rules.key_set import PublicKey

MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
"""The minimum is that of RFC 7518 section 3.3. Signatures of keys beyond the maximum take too long to verify."""
MAX_PREPARED = 64
"""Constructed keys that are kept."""

EDDSA = ("EdDSA", "Ed25519")
PSS = ("PS256", "PS384", "PS512")


class EdDSAKey(Key):
    """An Ed25519 key for python-jose (RFC 8037): a JWK of type OKP, or one of cryptography's objects."""

    def __init__(self, key: Any, algorithm: str) -> None:
        super().__init__(key, algorithm)
        self._algorithm = algorithm
        if isinstance(key, dict):
            key = _ed25519(key)
        if not isinstance(key, (Ed25519PublicKey, Ed25519PrivateKey)):
            raise JWKError("no Ed25519 key")
        self._key = key

    def sign(self, msg: bytes) -> bytes:
        if not isinstance(self._key, Ed25519PrivateKey):
            raise JWKError("a public key cannot sign")
        return self._key.sign(msg)

    def verify(self, msg: bytes, sig: bytes) -> bool:
        key = self._key.public_key() if isinstance(self._key, Ed25519PrivateKey) else self._key
        try:
            key.verify(sig, msg)
        except InvalidSignature:
            return False
        return True

    def public_key(self) -> EdDSAKey:
        if isinstance(self._key, Ed25519PublicKey):
            return self
        return EdDSAKey(self._key.public_key(), self._algorithm)

    def to_dict(self) -> dict[str, str]:
        key = self._key.public_key() if isinstance(self._key, Ed25519PrivateKey) else self._key
        # public_bytes_raw() came with cryptography 40, and Debian 12 has an earlier version.
        x = base64.urlsafe_b64encode(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).rstrip(b"=").decode("ascii")
        return {"alg": self._algorithm, "kty": "OKP", "crv": "Ed25519", "x": x}


def _ed25519(members: dict[str, str]) -> Ed25519PublicKey:
    if members.get("kty") != "OKP" or members.get("crv") != "Ed25519":
        raise JWKError("no Ed25519 key")
    x = members.get("x", "")
    try:
        return Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(x + "=" * (-len(x) % 4)))
    except ValueError as error:
        raise JWKError("no Ed25519 key") from error


class PSSKey(RSAKey):  # type: ignore[misc, valid-type]
    """An RSA key for RSASSA-PSS. The salt is as long as the hash (RFC 7518 section 3.5)."""

    def __init__(self, key: Any, algorithm: str) -> None:
        super().__init__(key, algorithm.replace("PS", "RS"))

    def _padding(self) -> padding.PSS:
        return padding.PSS(padding.MGF1(self.hash_alg()), padding.PSS.DIGEST_LENGTH)

    def sign(self, msg: bytes) -> bytes:
        signature: bytes = self.prepared_key.sign(msg, self._padding(), self.hash_alg())
        return signature

    def verify(self, msg: bytes, sig: bytes) -> bool:
        try:
            self.public_key().prepared_key.verify(sig, msg, self._padding(), self.hash_alg())
        except InvalidSignature:
            return False
        return True


for _name in EDDSA:
    jwk.register_key(_name, EdDSAKey)
for _name in PSS:
    jwk.register_key(_name, PSSKey)


class Verifier:
    """Verifies signatures, and keeps the key objects, because constructing one takes longer than using it."""

    def __init__(self) -> None:
        self._prepared: OrderedDict[tuple[str, ...], Key | None] = OrderedDict()

    def check(self, token: Jwt, keys: Iterable[PublicKey]) -> None:
        """Raises `TokenRefused` if none of the keys has signed the token. Each key must allow the algorithm of the
        token."""
        for public in keys:
            key = self._key(public, token.algorithm)
            if key is not None and _verifies(key, token):
                return
        raise TokenRefused("the token's signature is wrong")

    def _key(self, public: PublicKey, algorithm: str) -> Key | None:
        """The key object, or None for a key that cannot be used."""
        name = (algorithm, *public.members.values())
        if name in self._prepared:
            return self._prepared[name]
        key = self._prepared[name] = _construct(public, algorithm)
        if len(self._prepared) > MAX_PREPARED:
            self._prepared.popitem(last=False)
        return key


def _construct(public: PublicKey, algorithm: str) -> Key | None:
    try:
        key = jwk.construct(dict(public.members), algorithm)
    except (JOSEError, ValueError, TypeError):  # cryptography raises them for invalid numbers
        return None
    prepared = getattr(key, "prepared_key", None)
    if isinstance(prepared, rsa.RSAPublicKey) and not MIN_RSA_BITS <= prepared.key_size <= MAX_RSA_BITS:
        return None
    return key


def _verifies(key: Key, token: Jwt) -> bool:
    try:
        return bool(key.verify(token.signed, token.signature))
    except (JOSEError, ValueError):
        return False

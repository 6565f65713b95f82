"""Signing keys for tests, and tokens of any shape, made with `cryptography` alone: not with what is tested."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

CURVES = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
NAMES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value: int, size: int = 0) -> str:
    return b64(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


@cache
def _rsa(number: int, bits: int) -> rsa.RSAPrivateKey:
    """Making one takes long, so each test run makes few."""
    return rsa.generate_private_key(65537, bits)


class SigningKey:
    """A private key with an algorithm and a `kid`. RSA keys of one `number` and size are the same key."""

    def __init__(self, algorithm: str = "RS256", kid: str = "k1", number: int = 0, bits: int = 2048) -> None:
        self.algorithm, self.kid = algorithm, kid
        self.private: PrivateKey
        if algorithm[0] in "RP":
            self.private = _rsa(number, bits)
        elif algorithm in CURVES:
            self.private = ec.generate_private_key(CURVES[algorithm])
        else:
            self.private = ed25519.Ed25519PrivateKey.generate()

    def public_jwk(self, **more: Any) -> dict[str, Any]:
        """The key as a key set has it; `more` replaces and adds members, None removes one."""
        public = self.private.public_key()
        if isinstance(public, rsa.RSAPublicKey):
            numbers = public.public_numbers()
            members = {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e)}
        elif isinstance(public, ec.EllipticCurvePublicKey):
            size, point = (public.curve.key_size + 7) // 8, public.public_numbers()
            members = {
                "kty": "EC",
                "crv": NAMES[self.algorithm],
                "x": number(point.x, size),
                "y": number(point.y, size),
            }
        else:
            # public_bytes_raw() came with cryptography 40, and Debian 12 has an earlier version.
            raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
            members = {"kty": "OKP", "crv": "Ed25519", "x": b64(raw)}
        members |= {"kid": self.kid, "use": "sig", "alg": self.algorithm}
        return {name: value for name, value in {**members, **more}.items() if value is not None}

    def private_jwk(self) -> dict[str, Any]:
        """The key as a provider's own configuration has it."""
        private = self.private
        if isinstance(private, rsa.RSAPrivateKey):
            secret = private.private_numbers()
            values = {
                "d": secret.d,
                "p": secret.p,
                "q": secret.q,
                "dp": secret.dmp1,
                "dq": secret.dmq1,
                "qi": secret.iqmp,
            }
            return self.public_jwk(**{name: number(value) for name, value in values.items()})
        if isinstance(private, ec.EllipticCurvePrivateKey):
            size = (private.curve.key_size + 7) // 8
            return self.public_jwk(d=number(private.private_numbers().private_value, size))
        raw = private.private_bytes(
            serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
        )
        return self.public_jwk(d=b64(raw))

    def pem(self, password: bytes = b"") -> str:
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if password:
            encryption = serialization.BestAvailableEncryption(password)
        return self.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        ).decode()

    def public_pem(self) -> bytes:
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def raw_signature(self, message: bytes, algorithm: str = "") -> bytes:
        algorithm = algorithm or self.algorithm
        private = self.private
        if isinstance(private, rsa.RSAPrivateKey):
            digest = HASHES[algorithm[2:]]
            scheme = padding.PSS(padding.MGF1(digest), padding.PSS.DIGEST_LENGTH)
            return private.sign(message, scheme if algorithm[0] == "P" else padding.PKCS1v15(), digest)
        if isinstance(private, ec.EllipticCurvePrivateKey):
            size = (private.curve.key_size + 7) // 8
            r, s = decode_dss_signature(private.sign(message, ec.ECDSA(HASHES[algorithm[2:]])))
            return r.to_bytes(size, "big") + s.to_bytes(size, "big")
        return private.sign(message)

    def sign(self, claims: Mapping[str, Any] | str, header: Mapping[str, Any] | str | None = None) -> str:
        """A token. `header` replaces and adds members, None removes one; as text it is taken as it is."""
        algorithm = self.algorithm
        if not isinstance(header, str):
            members = {"alg": self.algorithm, "kid": self.kid, "typ": "JWT", **(header or {})}
            algorithm = str(members.get("alg"))
            header = json.dumps({name: value for name, value in members.items() if value is not None})
        text = claims if isinstance(claims, str) else json.dumps(claims)
        signed = f"{b64(header.encode())}.{b64(text.encode())}"
        known = algorithm[2:] in HASHES and algorithm[:2] == self.algorithm[:2]
        return f"{signed}.{b64(self.raw_signature(signed.encode(), algorithm if known else self.algorithm))}"


def hmac_signed(claims: Mapping[str, Any], header: Mapping[str, Any], secret: bytes) -> str:
    """A token signed with a shared secret, such as a public key that is taken for one."""
    signed = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims).encode())}"
    digest = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}[header["alg"]]
    return f"{signed}.{b64(hmac.new(secret, signed.encode(), getattr(hashlib, digest)).digest())}"


def unsigned(claims: Mapping[str, Any], algorithm: str = "none", signature: str = "") -> str:
    header = {"alg": algorithm, "kid": "k1"}
    return f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims).encode())}.{signature}"


def key_set(*keys: SigningKey | Mapping[str, Any]) -> dict[str, Any]:
    return {"keys": [key.public_jwk() if isinstance(key, SigningKey) else dict(key) for key in keys]}

"""Prints, as a JSON object, the processor time in microseconds that it takes to validate a JWT, by its algorithm.

    verify.py SECONDS

The key is at hand, as it is for all logins but the first. It measures the functions that a login calls: reading the token,
verifying its signature, checking its claims and choosing the account. SECONDS is how long each algorithm is measured.
"""

from __future__ import annotations

import base64
import json
import sys
import time
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from pfxhttpd.config.settings import SaslOidc
from pfxhttpd.io.oidc.keys import Verifier
from pfxhttpd.rules.jwt import read_jwt
from pfxhttpd.rules.key_set import parse_key_set
from pfxhttpd.rules.token import JWT_ACCOUNT, account_of, check_jwt_claims

ISSUER = "https://auth.example.com"


def base64url(data: bytes) -> str:
    """RFC 7515 section 2."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value: int, size: int) -> str:
    """RFC 7518 section 2."""
    return base64url(value.to_bytes(size, "big"))


def rsa_token(signed: bytes) -> tuple[dict[str, str], bytes]:
    """A new key of 2048 bits, as a JWK, and its signature."""
    key = rsa.generate_private_key(65537, 2048)
    public = key.public_key().public_numbers()
    jwk = {"kty": "RSA", "n": number(public.n, 256), "e": number(public.e, 3)}
    return jwk, key.sign(signed, padding.PKCS1v15(), hashes.SHA256())


def ec_token(signed: bytes) -> tuple[dict[str, str], bytes]:
    """A new key on the curve P-256, as a JWK, and its signature."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_numbers()
    jwk = {"kty": "EC", "crv": "P-256", "x": number(public.x, 32), "y": number(public.y, 32)}
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA256())))
    return jwk, r.to_bytes(32, "big") + s.to_bytes(32, "big")


def measure(algorithm: str, make: Any, seconds: float) -> float:
    """Microseconds of processor time for one token."""
    now = int(time.time())
    header = {"alg": algorithm, "kid": "key", "typ": "JWT"}
    claims = {"iss": ISSUER, "sub": "user@example.com", "aud": "mail", "exp": now + 3600, "scope": "mail openid"}
    signed = f"{base64url(json.dumps(header).encode())}.{base64url(json.dumps(claims).encode())}"
    jwk, signature = make(signed.encode())
    token = f"{signed}.{base64url(signature)}"
    keys = parse_key_set(json.dumps({"keys": [{**jwk, "kid": "key", "alg": algorithm}]}).encode())
    settings = SaslOidc(enabled=True, audience=("mail",), required_scopes=("mail",))
    verifier = Verifier()

    def validate() -> str:
        jwt = read_jwt(token)
        verifier.check(jwt, keys.candidates(jwt.key_id, jwt.algorithm))
        check_jwt_claims(jwt.claims, settings, ISSUER, now)
        return account_of(jwt.claims, settings, JWT_ACCOUNT, "user@example.com")

    validate()
    count, begin, end = 0, time.process_time(), time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(100):
            validate()
        count += 100
    return (time.process_time() - begin) / count * 1e6


if __name__ == "__main__":
    print(
        json.dumps(
            {algorithm: measure(algorithm, make, float(sys.argv[1])) for algorithm, make in
             (("RS256", rsa_token), ("ES256", ec_token))}
        )
    )  # fmt: skip

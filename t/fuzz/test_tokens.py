"""Whatever comes as a token, a key set or a provider's answer: it is refused, or it is what it seems, and nothing else."""

from __future__ import annotations

import base64
import json

from hypothesis import given, settings
from hypothesis import strategies as some
from kit.examples import examples

from pfxhttpd.config.settings import SaslOidc
from pfxhttpd.rules.discovery import parse_discovery
from pfxhttpd.rules.introspection import introspection_claims
from pfxhttpd.rules.jwt import TokenRefused, looks_like_jwt, read_jwt, unverified_issuer
from pfxhttpd.rules.key_set import parse_key_set
from pfxhttpd.rules.response import BackendError, BackendResponse
from pfxhttpd.rules.token import JWT_ACCOUNT, account_of, check_jwt_claims

NAMES = some.sampled_from(
    [
        "alg",
        "kid",
        "crit",
        "typ",
        "iss",
        "sub",
        "aud",
        "exp",
        "nbf",
        "iat",
        "scope",
        "scp",
        "cnf",
        "azp",
        "client_id",
        "tid",
        "email",
        "email_verified",
        "active",
        "keys",
        "kty",
        "n",
        "e",
        "use",
    ]
)
VALUES = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=20) | some.sampled_from(
        ["RS256", "none", "RSA", "sig", "https://p", "mail", 2_000_000_000, "AQAB"]
    ),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(NAMES | some.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
OBJECTS = some.dictionaries(NAMES | some.text(max_size=5), VALUES, max_size=8)


def coded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def as_json(value: object) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


TOKENS = some.text(max_size=60) | some.lists(
    OBJECTS.map(as_json).map(coded) | some.binary(max_size=20).map(coded) | some.text(max_size=10), max_size=5
).map(".".join)


@given(TOKENS)
def test_any_token_is_read_or_refused(token: str):
    try:
        jwt = read_jwt(token)
    except TokenRefused as refused:
        assert refused.reason.isprintable() and len(refused.reason) < 100
        assert unverified_issuer(token) == ""
    else:
        assert looks_like_jwt(token) and token.count(".") == 2
        assert token.startswith(jwt.signed.decode() + ".") and type(jwt.algorithm) is str
    assert looks_like_jwt(token) in (True, False)


@given(OBJECTS, some.lists(some.text(max_size=5)).map(tuple), some.booleans())
@settings(max_examples=examples(300))
def test_any_claims_name_an_account_or_are_refused(claims: dict[str, object], scopes: tuple[str, ...], match: bool):
    provider = SaslOidc(enabled=True, audience=("mail",), required_scopes=scopes, username_match=match)
    try:
        check_jwt_claims(claims, provider, "https://p", 1_900_000_000.0)
        account = account_of(claims, provider, JWT_ACCOUNT, "user")
    except TokenRefused as refused:
        assert refused.reason.isprintable() and len(refused.reason) < 120
    else:
        assert account and account.isprintable() and claims["iss"] == "https://p" and claims["exp"] > 1_899_999_900


@given(some.binary(max_size=60) | VALUES.map(as_json) | OBJECTS.map(as_json))
@settings(max_examples=examples(300))
def test_any_document_is_understood_or_an_outage(body: bytes):
    for read in (parse_key_set, lambda text: parse_discovery(text, "https://p/.well-known/openid-configuration")):
        try:
            read(body)
        except BackendError as error:
            assert error.reason.isprintable()
    try:
        assert introspection_claims(BackendResponse(200, {}, body))["active"] is True
    except TokenRefused:
        assert json.loads(body)["active"] is False
    except BackendError as error:
        assert error.reason.isprintable()

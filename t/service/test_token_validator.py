"""Tokens that users log in with, good ones and every attack that is known: who gets in, who does not, what is temporary.

The provider is a scripted one over real HTTP, since no honest one makes such tokens; t/system/test_oidc_login.py has a real one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs

import pytest
from kit.answer import Answer
from kit.oidc.keys import SigningKey, hmac_signed, key_set, unsigned
from kit.oidc.scripted import DISCOVERY, LocalCache, ScriptedProvider, Worker, soon

from pfxhttpd.config.settings import SaslOidc
from pfxhttpd.rules.breaker import Outcome
from pfxhttpd.rules.jwt import TokenRefused
from pfxhttpd.rules.response import BackendError

RSA, EC, ED = SigningKey("RS256", "rsa"), SigningKey("ES256", "ec"), SigningKey("EdDSA", "ed")
FOREIGN = SigningKey("RS256", "rsa", number=1)
"""Another key that calls itself like ours."""
ANN = "ann@example.test"
NOW = int(time.time())


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider(key_set(RSA, EC, ED)) as started:
        yield started


def claims(provider: ScriptedProvider, **changes: Any) -> dict[str, Any]:
    """Those of a good token; None removes one."""
    good = {"iss": provider.issuer, "sub": ANN, "aud": "mail", "exp": NOW + 600, "iat": NOW, "scope": "mail openid"}
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def a_worker(cache: LocalCache | None = None) -> Worker:
    return Worker(cache, clock=lambda: NOW)


def account(settings: SaslOidc, token: str, user: str = "", **context: str) -> str:
    return a_worker().login(settings).account(token, user, context, soon())


def refusal(settings: SaslOidc, token: str, user: str = "") -> TokenRefused:
    with pytest.raises(TokenRefused) as caught:
        account(settings, token, user)
    assert not any(part and part in caught.value.reason for part in token.split("."))
    return caught.value


# -- signatures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "algorithm",
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"],
)
def test_every_algorithm(algorithm: str):
    key = SigningKey(algorithm, "k")
    with ScriptedProvider(key_set(key)) as provider:
        settings = provider.settings(validation="jwks")
        token = key.sign(claims(provider))
        assert account(settings, token) == ANN
        head, payload, signature = token.split(".")
        changed = "A" if signature[10] != "A" else "B"
        broken = f"{head}.{payload}.{signature[:10]}{changed}{signature[11:]}"
        assert refusal(settings, broken).reason == "the token's signature is wrong"


def test_the_newer_name_of_eddsa(provider: ScriptedProvider):
    """RFC 9864 calls it Ed25519; the key set may say one and the token the other."""
    token = ED.sign(claims(provider), {"alg": "Ed25519"})
    assert account(provider.settings(validation="jwks"), token) == ANN


def test_keys_without_alg_and_tokens_without_kid():
    keys = [key.public_jwk(alg=None, kid=None, use=None) for key in (RSA, EC, ED)]
    with ScriptedProvider({"keys": keys}) as provider:
        for key in (RSA, EC, ED):
            assert account(provider.settings(validation="jwks"), key.sign(claims(provider), {"kid": None})) == ANN


def test_a_token_without_kid_gets_one_more_fetch():
    """How a rotation shows where keys have no names."""
    with ScriptedProvider(key_set(FOREIGN.public_jwk(kid=None))) as provider:
        login = a_worker().login(provider.settings(validation="jwks"))
        token = RSA.sign(claims(provider), {"kid": None})
        with pytest.raises(TokenRefused):
            login.account(token, "", {}, soon())
        assert provider.count("/jwks") == 1, "the set is too new for another fetch"


def forged(provider: ScriptedProvider) -> dict[str, str]:
    """Attack -> the token that tries it."""
    good = claims(provider)
    evil = FOREIGN.public_jwk()
    head, payload, signature = RSA.sign(good).split(".")
    duplicate = json.dumps(good)[:-1] + f', "sub": "admin@{provider.host}"}}'
    return {
        "alg none": unsigned(good),
        "alg none, other case": unsigned(good, "nOnE"),
        "alg none with a signature": unsigned(good, "none", signature),
        "no alg": RSA.sign(good, {"alg": None}),
        "alg no text": RSA.sign(good, {"alg": ["RS256"]}),
        "unsigned RS256": f"{head}.{payload}.",
        "HS256 with the RSA public key": hmac_signed(good, {"alg": "HS256", "kid": "rsa"}, RSA.public_pem()),
        "HS256 with its modulus": hmac_signed(good, {"alg": "HS256", "kid": "rsa"}, RSA.public_jwk()["n"].encode()),
        "another key of the same kid": FOREIGN.sign(good),
        "a key of another type with the right kid": EC.sign(good, {"kid": "rsa"}),
        "another algorithm of the same key": RSA.sign(good, {"alg": "RS512"}),
        "PSS with a key for PKCS 1": RSA.sign(good, {"alg": "PS256"}),
        "JWK in the header": FOREIGN.sign(good, {"jwk": evil}),
        "JWK in the header, its kid": FOREIGN.sign(good, {"jwk": evil, "kid": "evil"}),
        "jku": FOREIGN.sign(good, {"jku": provider.url("/evil"), "kid": "evil"}),
        "x5u": FOREIGN.sign(good, {"x5u": provider.url("/evil"), "kid": "evil"}),
        "x5c": FOREIGN.sign(good, {"x5c": [evil["n"]]}),
        "crit": RSA.sign(good, {"crit": ["exp"]}),
        "crit, empty": RSA.sign(good, {"crit": []}),
        "b64 false": RSA.sign(good, {"crit": ["b64"], "b64": False}),
        "kid with a path": RSA.sign(good, {"kid": "../../../../etc/passwd"}),
        "kid no text": RSA.sign(good, {"kid": {"a": 1}}),
        "kid of 10 kB": RSA.sign(good, {"kid": "k" * 10_000}),
        "four parts": f"{head}.{payload}.{signature}.{signature}",
        "four parts, one empty": f"{head}.{payload}..{signature}",
        "two parts": f"{head}.{payload}",
        "a dot alone": "..",
        "padding": f"{head}=.{payload}.{signature}",
        "plain base64": f"{head}.{payload}.{signature.replace('_', '/').replace('-', '+')}+/",
        "a blank": f"{head}. {payload}.{signature}",
        "no JSON": RSA.sign("sub=admin"),
        "a list": RSA.sign("[]"),
        "deep": RSA.sign("[" * 20_000),
        "duplicate claims": RSA.sign(duplicate),
        "duplicate header members": RSA.sign(good, '{"alg": "none", "alg": "RS256", "kid": "rsa"}'),
        "1 MB": RSA.sign({**good, "x": "x" * 1_000_000}),
        "no exp": RSA.sign(claims(provider, exp=None)),
        "exp as text": RSA.sign(claims(provider, exp=str(NOW + 600))),
        "exp true": RSA.sign(claims(provider, exp=True)),
        "exp null": RSA.sign(json.dumps({**good, "exp": None})),
        "exp a list": RSA.sign(claims(provider, exp=[NOW + 600])),
        "huge exp": RSA.sign(claims(provider, exp=10**15)),
        "exp of 5000 digits": RSA.sign(json.dumps(good)[:-1].replace(str(NOW + 600), "9" * 5000) + "}"),
        "infinite exp": RSA.sign(json.dumps(good).replace(str(NOW + 600), "1e999")),
        "exp NaN": RSA.sign(json.dumps(good).replace(str(NOW + 600), "NaN")),
        "negative exp": RSA.sign(claims(provider, exp=-1)),
        "expired": RSA.sign(claims(provider, exp=NOW - 60)),
        "nbf in the future": RSA.sign(claims(provider, nbf=NOW + 120)),
        "nbf as text": RSA.sign(claims(provider, nbf="0")),
        "no iss": RSA.sign(claims(provider, iss=None)),
        "another iss": RSA.sign(claims(provider, iss="https://elsewhere.example.test")),
        "iss with a slash more": RSA.sign(claims(provider, iss=provider.issuer + "/")),
        "iss a list": RSA.sign(claims(provider, iss=[provider.issuer])),
        "bound to a certificate": RSA.sign(claims(provider, cnf={"x5t#S256": "x"})),
        "bound to a key": RSA.sign(claims(provider, cnf={"jkt": "x"})),
        "bound, empty": RSA.sign(claims(provider, cnf={})),
        "an ID token": RSA.sign(claims(provider, scope=None, nonce="n")),
        "an ID token with auth_time": RSA.sign(claims(provider, scope=None, auth_time=NOW)),
        "Keycloak's ID token": RSA.sign(claims(provider, typ="ID")),
        "Keycloak's refresh token": RSA.sign(claims(provider, typ="Refresh")),
        "Cognito's ID token": RSA.sign(claims(provider, token_use="id")),
        "a service's token": RSA.sign(claims(provider, sub="mail-service", client_id="mail-service")),
        "a service's token, azp": RSA.sign(claims(provider, sub="mail-service", azp="mail-service")),
        "no account": RSA.sign(claims(provider, sub=None)),
        "an empty account": RSA.sign(claims(provider, sub="")),
        "an account that is no text": RSA.sign(claims(provider, sub={"a": 1})),
        "an account with a tab": RSA.sign(claims(provider, sub="ann\tadmin")),
        "an account with a line feed": RSA.sign(claims(provider, sub="ann\nOK")),
    }


with ScriptedProvider() as any_provider:
    ATTACKS = tuple(forged(any_provider))


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_forged_gets_nobody_in(provider: ScriptedProvider, attack: str):
    """And asks nobody else for his opinion: neither introspection nor a URL in the token."""
    provider.active(sub=ANN)
    provider.answer("/evil", json=key_set(FOREIGN.public_jwk(kid="evil")))
    settings = provider.settings(validation="jwks")
    login = a_worker().login(settings)
    with pytest.raises(TokenRefused) as caught:
        login.account(forged(provider)[attack], ANN, {}, soon())
    assert caught.value.status == "invalid_token"
    assert caught.value.reason.isprintable() and len(caught.value.reason) < 100
    assert not provider.count("/evil") and not provider.count("/introspect")
    assert login.account(RSA.sign(claims(provider)), "", {}, soon()) == ANN, "that worker is as good as before"


UNDECIDED_BY_KEYS = {
    "a key of another type with the right kid",
    "another iss",
    "iss with a slash more",
    "expired",
    "bound to a key",
    "another key of the same kid",
}


@pytest.mark.parametrize("attack", sorted(UNDECIDED_BY_KEYS))
def test_auto_does_not_ask_again_what_a_check_has_refused(provider: ScriptedProvider, attack: str):
    provider.active(sub=ANN)
    refusal(provider.settings(validation="auto"), forged(provider)[attack])
    assert not provider.count("/introspect")


def test_a_token_of_12_kb(provider: ScriptedProvider):
    token = RSA.sign(claims(provider, groups="g" * 9000))
    assert len(token) > 12_000
    assert account(provider.settings(validation="jwks"), token) == ANN


# -- key sets -------------------------------------------------------------------------------------------------------


def test_a_new_key_is_found_by_its_kid(provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch):
    fresh = SigningKey("RS256", "new", number=2)
    worker = a_worker()
    login = worker.login(provider.settings(validation="jwks"))
    assert login.account(RSA.sign(claims(provider)), "", {}, soon()) == ANN
    provider.answer("/jwks", json=key_set(fresh))
    token = fresh.sign(claims(provider))
    with pytest.raises(TokenRefused):
        login.account(token, "", {}, soon())
    assert provider.count("/jwks") == 1, "the set was fetched a moment ago"
    monkeypatch.setattr("pfxhttpd.service.oidc.provider.KEY_REFETCH", 0.0)
    assert login.account(token, "", {}, soon()) == ANN
    assert provider.count("/jwks") == 2
    with pytest.raises(TokenRefused):
        login.account(RSA.sign(claims(provider)), "", {}, soon())


def test_a_wrong_signature_by_a_known_key_fetches_nothing(provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pfxhttpd.service.oidc.provider.KEY_REFETCH", 0.0)
    login = a_worker().login(provider.settings(validation="jwks"))
    for _ in range(3):
        with pytest.raises(TokenRefused, match="signature"):
            login.account(FOREIGN.sign(claims(provider)), "", {}, soon())
    assert provider.count("/jwks") == 1


def test_unknown_kids_are_no_way_to_have_the_provider_flooded(provider: ScriptedProvider):
    login = a_worker().login(provider.settings(validation="jwks"))
    for number in range(20):
        with pytest.raises(TokenRefused, match="no key"):
            login.account(RSA.sign(claims(provider), {"kid": f"unknown-{number}"}), "", {}, soon())
    assert provider.count("/jwks") == 1


def test_a_worker_without_a_key_gets_the_set_that_another_one_has_fetched(provider: ScriptedProvider):
    settings = provider.settings(validation="jwks")
    old = a_worker()
    assert old.login(settings).account(RSA.sign(claims(provider)), "", {}, soon()) == ANN
    new = a_worker(old.cache)
    assert new.login(settings).account(EC.sign(claims(provider)), "", {}, soon()) == ANN
    assert provider.count("/jwks") == 1 and provider.count(DISCOVERY) == 1


SHORT_KEY = {**RSA.public_jwk(), "n": RSA.public_jwk()["n"][:40]}
TEN_THOUSAND = {"keys": [{**SHORT_KEY, "kid": f"k{number}"} for number in range(10_000)]}
BAD_SETS = {
    "101 keys": Answer(json={"keys": [EC.public_jwk(kid=f"k{number}") for number in range(100)] + [RSA.public_jwk()]}),
    "ten thousand keys": Answer(json=TEN_THOUSAND),
    "HTML": Answer(body=b"<html>", headers={"Content-Type": "text/html"}),
    "a list": Answer(json=[RSA.public_jwk()]),
    "no keys": Answer(json={"key": []}),
    "keys no list": Answer(json={"keys": {"rsa": RSA.public_jwk()}}),
    "404": Answer(404),
    "500": Answer(500),
    "a redirect": Answer(302, {"Location": "/other"}),
    "hang-up": Answer(drop=True),
}


@pytest.mark.parametrize("kind", BAD_SETS)
def test_a_key_set_that_is_none_is_temporary(provider: ScriptedProvider, kind: str):
    provider.answer("/jwks", BAD_SETS[kind])
    provider.answer("/other", json=key_set(RSA))
    with pytest.raises(BackendError):
        account(provider.settings(validation="jwks"), RSA.sign(claims(provider)))
    assert not provider.count("/other")


@pytest.mark.parametrize("kind", BAD_SETS)
def test_auto_asks_the_provider_where_it_has_no_keys(provider: ScriptedProvider, kind: str):
    provider.answer("/jwks", BAD_SETS[kind])
    provider.active(sub="from-introspection")
    assert account(provider.settings(validation="auto"), RSA.sign(claims(provider))) == "from-introspection"


UNUSABLE_KEYS = {
    "encryption": RSA.public_jwk(use="enc"),
    "key_ops": RSA.public_jwk(use=None, key_ops=["encrypt"]),
    "another alg": RSA.public_jwk(alg="RS512"),
    "alg for encryption": RSA.public_jwk(alg="RSA-OAEP"),
    "alg HS256": RSA.public_jwk(alg="HS256"),
    "symmetric": {"kty": "oct", "kid": "rsa", "k": "c2VjcmV0"},
    "1024 bits": SigningKey("RS256", "rsa", number=9, bits=1024).public_jwk(),
    "no modulus": RSA.public_jwk(n=None),
    "modulus no base64": RSA.public_jwk(n="!!!"),
    "modulus no text": RSA.public_jwk(n=12345),
    "exponent 1": RSA.public_jwk(e="AQ"),
    "point not on the curve": {**EC.public_jwk(), "kid": "rsa", "y": EC.public_jwk()["x"]},
    "unknown curve": {**EC.public_jwk(), "kid": "rsa", "crv": "secp256k1"},
    "unknown type": {"kty": "PQC", "kid": "rsa"},
    "no object": "rsa",
}


@pytest.mark.parametrize("kind", UNUSABLE_KEYS)
def test_a_key_that_cannot_be_used_is_as_good_as_none(provider: ScriptedProvider, kind: str):
    provider.answer("/jwks", json={"keys": [UNUSABLE_KEYS[kind], EC.public_jwk()]})
    refusal(provider.settings(validation="jwks"), RSA.sign(claims(provider)))
    assert account(provider.settings(validation="jwks"), EC.sign(claims(provider))) == ANN


def test_a_short_key_signs_nothing():
    """RFC 7518 section 3.3."""
    short = SigningKey("RS256", "rsa", number=9, bits=1024)
    with ScriptedProvider(key_set(short)) as provider:
        refused = refusal(provider.settings(validation="jwks"), short.sign(claims(provider)))
        assert refused.reason == "the token's signature is wrong"


def test_a_hundred_keys_are_not_too_many():
    keys = [EC.public_jwk(kid=f"k{number}") for number in range(99)] + [RSA.public_jwk()]
    with ScriptedProvider({"keys": keys}) as provider:
        assert account(provider.settings(validation="jwks"), RSA.sign(claims(provider))) == ANN


def test_an_empty_set_may_be_null(provider: ScriptedProvider):
    """As Nauthilus has it."""
    provider.answer("/jwks", json={"keys": None})
    assert "no key" in refusal(provider.settings(validation="jwks"), RSA.sign(claims(provider))).reason


def test_the_set_is_fetched_again_when_its_time_is_over(provider: ScriptedProvider):
    login = a_worker().login(provider.settings(validation="jwks", jwks_cache_ttl=0.0))
    for number in (1, 2, 3):
        assert login.account(RSA.sign(claims(provider)), "", {}, soon()) == ANN
        assert provider.count("/jwks") == number


# -- claims ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("mail", True), (["mail"], True), (["other", "mail"], True), ("other", False), (["other"], False),
        ([], False), (None, False), (["mai", "l"], False), ({"mail": 1}, False), ("mail other", False),
    ],
)  # fmt: skip
def test_audience(provider: ScriptedProvider, given: Any, found: bool):
    settings = provider.settings(validation="jwks", audience=("smtp", "mail"))
    token = RSA.sign(claims(provider, aud=given))
    if found:
        assert account(settings, token) == ANN
    else:
        assert refusal(settings, token).reason == "the token is for another audience"


def test_two_audiences_that_two_readers_would_read_differently(provider: ScriptedProvider):
    text = json.dumps(claims(provider, aud="other"))[:-1] + ', "aud": "mail"}'
    refusal(provider.settings(validation="jwks", audience=("mail",)), RSA.sign(text))
    refusal(provider.settings(validation="jwks", audience=("other",)), RSA.sign(text))


@pytest.mark.parametrize("scope", ["openid mail", ["openid", "mail"]])
@pytest.mark.parametrize("claim", ["scope", "scp"])
def test_required_scopes(provider: ScriptedProvider, claim: str, scope: Any):
    token = RSA.sign(claims(provider, **{"scope": None, claim: scope}))
    assert account(provider.settings(validation="jwks", required_scopes=("mail",)), token) == ANN
    refused = refusal(provider.settings(validation="jwks", required_scopes=("mail", "send")), token)
    assert refused.status == "insufficient_scope"


@pytest.mark.parametrize(
    ("required", "given", "found"),
    [
        ("access_token", "access_token", True), ("access_token", "id_token", False), ("access_token", None, False),
        (True, True, True), (True, "true", False), (True, 1, False), (1, 1, True), (1, True, False),
        ("staff", ["guests", "staff"], True), ("staff", ["guests"], False), ("staff", "staff guests", False),
    ],
)  # fmt: skip
def test_required_claims(provider: ScriptedProvider, required: Any, given: Any, found: bool):
    settings = provider.settings(validation="jwks", required_claims={"kind": required})
    token = RSA.sign(claims(provider, kind=given))
    if found:
        assert account(settings, token) == ANN
    else:
        assert refusal(settings, token).reason == "the token lacks a required claim (kind)"


def test_issuers_and_tenants(provider: ScriptedProvider):
    settings = provider.settings(
        validation="jwks", issuers=("https://sts.example.test/{tenantid}/", "https://old.example.test")
    )
    tenant = "72f988bf-86f1-41af-91ab-2d7cd011db47"
    for issuer, tid in (
        (provider.issuer, None), ("https://old.example.test", None), (f"https://sts.example.test/{tenant}/", tenant)
    ):  # fmt: skip
        assert account(settings, RSA.sign(claims(provider, iss=issuer, tid=tid))) == ANN
    for issuer, tid in (
        (f"https://sts.example.test/{tenant}/", None), (f"https://sts.example.test/{tenant}/", "another"),
        ("https://sts.example.test/{tenantid}/", None), ("https://sts.example.test/a/b/", "a/b"),
        ("https://sts.example.test//", ""), ("https://old.example.test/", None),
    ):  # fmt: skip
        assert (
            refusal(settings, RSA.sign(claims(provider, iss=issuer, tid=tid))).reason == "the token is another issuer's"
        )


def test_clock_skew(provider: ScriptedProvider):
    for name, value in (("exp", NOW - 20), ("nbf", NOW + 20)):
        token = RSA.sign(claims(provider, **{name: value}))
        assert account(provider.settings(validation="jwks"), token) == ANN
        refusal(provider.settings(validation="jwks", clock_skew=0.0), token)


def test_which_claim_names_the_account(provider: ScriptedProvider):
    plain, chosen = provider.settings(validation="jwks"), provider.settings(validation="jwks", account_claim="upn")
    all_of_them = {"sub": "by-sub", "preferred_username": "by-preferred", "username": "by-username", "upn": "by-upn"}
    assert account(plain, RSA.sign(claims(provider, **all_of_them))) == "by-sub"
    assert account(plain, RSA.sign(claims(provider, **{**all_of_them, "sub": None}))) == "by-preferred"
    assert account(plain, RSA.sign(claims(provider, sub=None, username="by-username"))) == "by-username"
    assert account(chosen, RSA.sign(claims(provider, **all_of_them))) == "by-upn"
    refused = refusal(chosen, RSA.sign(claims(provider, **{**all_of_them, "upn": None})), user=ANN)
    assert refused.reason == "the token does not name the account (upn)"


@pytest.mark.parametrize(
    ("account_name", "user", "same"),
    [
        (ANN, ANN, True), (ANN, "ann@EXAMPLE.Test", True), ("ann@Example.TEST", ANN, True), (ANN, "Ann@example.test", False),
        (ANN, "bob@example.test", False), (ANN, "ann", False), (ANN, "", False), ("ann", "ann", True), ("ann", "ANN", False),
    ],
)  # fmt: skip
def test_username_match(provider: ScriptedProvider, account_name: str, user: str, same: bool):
    token = RSA.sign(claims(provider, sub=account_name))
    assert account(provider.settings(validation="jwks"), token, user) == account_name
    settings = provider.settings(validation="jwks", username_match=True)
    if same:
        assert account(settings, token, user) == account_name
    else:
        assert refusal(settings, token, user).reason == "the token is another user's"


@pytest.mark.parametrize(
    ("verified", "good"), [(True, True), ("true", True), (None, True), (False, False), ("false", False)]
)
def test_an_email_that_is_not_verified_is_nobodys(provider: ScriptedProvider, verified: Any, good: bool):
    settings = provider.settings(validation="jwks", account_claim="email")
    token = RSA.sign(claims(provider, email=ANN, email_verified=verified))
    if good:
        assert account(settings, token) == ANN
    else:
        assert refusal(settings, token).reason == "the token's email is not verified"
    assert account(provider.settings(validation="jwks"), token) == ANN


def test_an_access_token_may_have_auth_time_beside_a_scope(provider: ScriptedProvider):
    assert account(provider.settings(validation="jwks"), RSA.sign(claims(provider, auth_time=NOW))) == ANN


# -- discovery ------------------------------------------------------------------------------------------------------


def test_a_provider_of_another_name_is_not_believed(provider: ScriptedProvider):
    """Its configuration may have been put in place of the right one."""
    other = "https://elsewhere.example.test"
    provider.answer(DISCOVERY, json=provider.discovery(issuer=other))
    token = RSA.sign(claims(provider, iss=other))
    with pytest.raises(BackendError, match="another issuer"):
        account(provider.settings(validation="jwks"), token)
    assert account(provider.settings(validation="jwks", issuers=(other,)), token) == ANN


BAD_DISCOVERY = {
    "HTML": Answer(body=b"<html>"),
    "404": Answer(404),
    "500": Answer(500),
    "a redirect": Answer(301, {"Location": "/other"}),
    "no issuer": Answer(json={"jwks_uri": "http://127.0.0.1/"}),
    "endless": Answer(json={"issuer": "x" * 600_000}),
    "cut": Answer(json={"issuer": "x" * 100}, cut=20),
    "reset": Answer(drop=True, then="reset"),
}


@pytest.mark.parametrize("kind", BAD_DISCOVERY)
@pytest.mark.parametrize("validation", ["jwks", "introspection", "auto", "userinfo"])
def test_a_provider_that_cannot_be_had_is_temporary(provider: ScriptedProvider, kind: str, validation: str):
    provider.answer("/other", json=provider.discovery())
    provider.answer(DISCOVERY, BAD_DISCOVERY[kind])
    with pytest.raises(BackendError):
        account(provider.settings(validation=validation), RSA.sign(claims(provider)))
    assert not provider.count("/other")


@pytest.mark.parametrize("endpoint", ["jwks_uri", "introspection_endpoint", "userinfo_endpoint"])
def test_an_endpoint_that_the_provider_does_not_have_is_temporary(provider: ScriptedProvider, endpoint: str):
    provider.answer(DISCOVERY, json=provider.discovery(**{endpoint: None}))
    validation = {"jwks_uri": "jwks", "introspection_endpoint": "introspection", "userinfo_endpoint": "userinfo"}[
        endpoint
    ]
    with pytest.raises(BackendError, match=endpoint):
        account(provider.settings(validation=validation), RSA.sign(claims(provider)))


# -- introspection --------------------------------------------------------------------------------------------------


def test_introspection(provider: ScriptedProvider):
    provider.active(sub=ANN, iss=provider.issuer, exp=NOW + 60, aud="mail", scope="mail", token_type="Bearer")
    settings = provider.settings(
        audience=("mail",), required_scopes=("mail",), scopes=("introspect", "more"), auth_method="client_secret_basic",
        client_secret="p w+d",
    )  # fmt: skip
    context = {"protocol": "smtp", "client_ip": "192.0.2.1", "local_port": "587", "client_id": "of the mail client"}
    assert account(settings, "opaque", **context) == ANN
    (request,) = provider.requests("/introspect")
    assert request.header("content-type") == "application/x-www-form-urlencoded"
    assert request.header("accept") == "application/json"
    form = {name: values[0] for name, values in parse_qs(request.body.decode(), strict_parsing=True).items()}
    assert form == {
        "token": "opaque", "token_type_hint": "access_token", "scope": "introspect more", "protocol": "smtp",
        "client_ip": "192.0.2.1", "local_port": "587",
    }  # fmt: skip
    assert request.header("authorization") == "Basic dXM6cCt3JTJCZA=="  # us:p+w%2Bd


def test_the_shortest_yes(provider: ScriptedProvider):
    """Opaque answers of Nauthilus have no exp, iat and iss."""
    provider.active(sub=ANN)
    assert account(provider.settings(), "opaque") == ANN
    provider.active(username="by-username")
    assert account(provider.settings(), "opaque") == "by-username"


REFUSING = {
    "inactive": Answer(json={"active": False}),
    "inactive with claims": Answer(json={"active": False, "sub": ANN}),
    "no account": Answer(json={"active": True}),
    "expired": Answer(json={"active": True, "sub": ANN, "exp": NOW - 60}),
    "exp as text": Answer(json={"active": True, "sub": ANN, "exp": str(NOW + 60)}),
    "not yet": Answer(json={"active": True, "sub": ANN, "nbf": NOW + 60}),
    "another issuer": Answer(json={"active": True, "sub": ANN, "iss": "https://elsewhere.example.test"}),
    "another client's token": Answer(json={"active": True, "sub": ANN, "aud": "another-client"}),
    "no audience": Answer(json={"active": True, "sub": ANN}),
    "a service's": Answer(json={"active": True, "sub": "mail", "client_id": "mail", "aud": "mail"}),
    "bound": Answer(json={"active": True, "sub": ANN, "aud": "mail", "cnf": {"jkt": "x"}}),
    "a refresh token": Answer(json={"active": True, "sub": ANN, "aud": "mail", "typ": "Refresh"}),
}


@pytest.mark.parametrize("kind", REFUSING)
def test_a_clear_no(provider: ScriptedProvider, kind: str):
    provider.active(REFUSING[kind])
    refusal(provider.settings(audience=("mail",)), "opaque", ANN)


DOUBTFUL = {
    "HTML": Answer(body=b"<html>it works</html>", headers={"Content-Type": "text/html"}),
    "active as text": Answer(json={"active": "true", "sub": ANN}),
    "active 1": Answer(json={"active": 1, "sub": ANN}),
    "active null": Answer(json={"active": None, "sub": ANN}),
    "no active": Answer(json={"sub": ANN}),
    "active twice": Answer(body=b'{"active": false, "active": true, "sub": "ann"}'),
    "a list": Answer(json=[{"active": True, "sub": ANN}]),
    "empty": Answer(body=b""),
    "401": Answer(401, json={"error": "invalid_client"}),
    "403": Answer(403),
    "400": Answer(400, json={"error": "unsupported_token_type"}),
    "404": Answer(404),
    "429": Answer(429),
    "500": Answer(500),
    "503": Answer(503),
    "204": Answer(204),
    "redirect": Answer(302, {"Location": "/other"}),
    "redirect that keeps the method": Answer(307, {"Location": "/other"}),
    "hang-up": Answer(drop=True),
    "too large": Answer(json={"active": True, "sub": ANN, "x": "x" * 600_000}),
}


@pytest.mark.parametrize("kind", DOUBTFUL)
def test_a_doubt_is_temporary(provider: ScriptedProvider, kind: str):
    provider.answer("/other", json={"active": True, "sub": ANN})
    provider.active(DOUBTFUL[kind])
    with pytest.raises(BackendError) as caught:
        account(provider.settings(), "opaque", ANN)
    assert caught.value.reason.isprintable()
    assert not provider.count("/other")


ALIVE = ("400", "401", "403", "404", "429", "redirect")
DOWN = ("503", "HTML", "active as text", "hang-up")


@pytest.mark.parametrize("kind", [*ALIVE, *DOWN])
def test_what_counts_for_the_providers_breaker(provider: ScriptedProvider, kind: str):
    """A provider that does not take our credentials is not down."""
    provider.active(DOUBTFUL[kind])
    worker = a_worker()
    with pytest.raises(BackendError):
        worker.login(provider.settings()).account("opaque", ANN, {}, soon())
    expected = Outcome.SUCCESS if kind in ALIVE else Outcome.FAILURE
    assert worker.breaker.outcomes == [Outcome.SUCCESS, expected], "discovery, introspection"


def test_a_token_that_the_provider_cannot_answer_counts_once_for_its_breaker(provider: ScriptedProvider):
    provider.active(Answer(500))
    worker = a_worker()
    for token, port in (("opaque", "1"), ("opaque", "2"), ("other", "2")):
        with pytest.raises(BackendError):
            worker.login(provider.settings()).account(token, ANN, {"client_port": port}, soon())
    assert worker.breaker.outcomes == [Outcome.SUCCESS, *[Outcome.KEY_FAILURE] * 3]
    _, first, again, other = worker.breaker.keys
    assert first == again != other


def test_a_refusal_is_no_failure(provider: ScriptedProvider):
    provider.active(REFUSING["inactive"])
    worker = a_worker()
    with pytest.raises(TokenRefused):
        worker.login(provider.settings()).account("opaque", ANN, {}, soon())
    assert worker.breaker.outcomes == [Outcome.SUCCESS, Outcome.SUCCESS]


def test_a_slow_provider_takes_no_more_than_the_time_there_is(provider: ScriptedProvider):
    provider.active(Answer(silent=True))
    begun = time.monotonic()
    with pytest.raises(BackendError) as caught:
        a_worker().login(provider.settings()).account("opaque", ANN, {}, begun + 0.3)
    assert caught.value.timeout
    assert time.monotonic() - begun < 2.0


def test_nothing_of_a_login_is_kept(provider: ScriptedProvider):
    login = a_worker().login(provider.settings())
    provider.active(sub=ANN)
    assert login.account("opaque", ANN, {}, soon()) == ANN
    provider.active(REFUSING["inactive"])
    with pytest.raises(TokenRefused):
        login.account("opaque", ANN, {}, soon())


def test_auto_introspects_what_is_no_jwt(provider: ScriptedProvider):
    provider.active(sub="from-introspection")
    for token in ("opaque", "na_at_123", "a.b.c", "a.b.c.d.e", "...."):
        assert account(provider.settings(validation="auto"), token) == "from-introspection"
    assert account(provider.settings(validation="auto"), RSA.sign(claims(provider))) == ANN


def test_jwks_refuses_what_is_no_jwt(provider: ScriptedProvider):
    provider.active(sub="from-introspection")
    refusal(provider.settings(validation="jwks"), "opaque")
    assert not provider.count("/introspect")


# -- userinfo -------------------------------------------------------------------------------------------------------


def test_userinfo(provider: ScriptedProvider):
    provider.answer("/userinfo", json={"sub": "12345", "email": ANN, "email_verified": True})
    settings = provider.settings(validation="userinfo", account_claim="email")
    assert account(settings, "opaque") == ANN
    (request,) = provider.requests("/userinfo")
    assert (request.method, request.header("authorization"), request.body) == ("GET", "Bearer opaque", b"")
    provider.answer("/userinfo", json={"sub": "12345", "email": ANN, "email_verified": False})
    refusal(settings, "opaque")
    for status in (401, 403):
        provider.answer("/userinfo", status=status)
        refusal(settings, "opaque")
    for status in (400, 404, 429, 500, 302):
        provider.answer("/userinfo", status=status)
        with pytest.raises(BackendError):
            account(settings, "opaque")


def test_tokeninfo(provider: ScriptedProvider):
    """As Google has it: numbers are texts, and a bad token is answered 400."""
    good = {
        "azp": "client", "aud": "client", "sub": "12345", "scope": "https://mail.google.com/ openid",
        "exp": str(NOW + 60), "expires_in": "60", "email": ANN, "email_verified": "true", "access_type": "online",
    }  # fmt: skip
    settings = provider.settings(
        validation="userinfo", tokeninfo_url=provider.url("/tokeninfo"), account_claim="email", audience=("client",),
        required_scopes=("https://mail.google.com/",),
    )  # fmt: skip
    provider.answer("/tokeninfo", json=good)
    assert account(settings, "ya29.opaque") == ANN
    (request,) = provider.requests("/tokeninfo")
    assert (request.method, request.target, request.body) == ("POST", "/tokeninfo", b"access_token=ya29.opaque")
    for changes in ({"exp": str(NOW - 60)}, {"aud": "other"}, {"scope": "openid"}, {"email_verified": "false"}):
        provider.answer("/tokeninfo", json={**good, **changes})
        refusal(settings, "ya29.opaque")
    provider.answer("/tokeninfo", status=400, json={"error": "invalid_token"})
    refusal(settings, "ya29.opaque")
    provider.answer("/tokeninfo", status=500)
    with pytest.raises(BackendError):
        account(settings, "ya29.opaque")


# -- several providers ----------------------------------------------------------------------------------------------


@pytest.fixture
def second() -> Iterator[ScriptedProvider]:
    with ScriptedProvider(key_set(FOREIGN)) as started:
        yield started


def test_the_token_chooses_its_provider(provider: ScriptedProvider, second: ScriptedProvider):
    login = a_worker().login(provider.settings(validation="jwks"), second.settings(validation="jwks"))
    assert login.account(FOREIGN.sign(claims(second, sub="bob")), "", {}, soon()) == "bob"
    assert not provider.count(), "the other provider was asked"
    assert login.account(RSA.sign(claims(provider)), "", {}, soon()) == ANN
    with pytest.raises(TokenRefused, match="no provider"):
        login.account(RSA.sign(claims(provider, iss="https://elsewhere.example.test")), "", {}, soon())


def test_one_providers_key_signs_nothing_for_another(provider: ScriptedProvider, second: ScriptedProvider):
    """Both keys are called alike, and both are known here."""
    login = a_worker().login(provider.settings(validation="jwks"), second.settings(validation="jwks"))
    for token in (FOREIGN.sign(claims(provider)), RSA.sign(claims(second))):
        with pytest.raises(TokenRefused, match="signature"):
            login.account(token, "", {}, soon())
    with pytest.raises(TokenRefused, match="no key"):
        login.account(EC.sign(claims(second)), "", {}, soon())


def test_an_opaque_token_goes_to_those_that_can_be_asked_in_order(provider: ScriptedProvider, second: ScriptedProvider):
    provider.active(REFUSING["inactive"])
    second.active(sub="bob")
    first, other = provider.settings(), second.settings(validation="auto")
    assert a_worker().login(first, other).account("opaque", "", {}, soon()) == "bob"
    assert a_worker().login(provider.settings(validation="jwks"), other).account("opaque", "", {}, soon()) == "bob"
    assert provider.count("/introspect") == 1
    second.active(REFUSING["inactive"])
    with pytest.raises(TokenRefused):
        a_worker().login(first, other).account("opaque", "", {}, soon())


def test_a_provider_that_is_down_leaves_the_others_alone(provider: ScriptedProvider, second: ScriptedProvider):
    provider.answer(DISCOVERY, Answer(500))
    first, other = provider.settings(validation="auto"), second.settings(validation="auto")
    second.active(sub="bob")
    login = a_worker().login(first, other)
    assert login.account(FOREIGN.sign(claims(second, sub="bob")), "", {}, soon()) == "bob"
    assert login.account("opaque", "", {}, soon()) == "bob"
    second.active(REFUSING["inactive"])
    with pytest.raises(BackendError):  # the one that is down might have known it
        login.account("opaque", "", {}, soon())


def test_each_provider_has_its_own_rules(provider: ScriptedProvider, second: ScriptedProvider):
    login = a_worker().login(
        provider.settings(validation="jwks", audience=("mail",)),
        second.settings(validation="jwks", audience=("other",)),
    )
    assert login.account(RSA.sign(claims(provider)), "", {}, soon()) == ANN
    with pytest.raises(TokenRefused, match="audience"):
        login.account(FOREIGN.sign(claims(second)), "", {}, soon())


# -- without the cache ----------------------------------------------------------------------------------------------


def test_without_the_cache_it_is_only_slower(provider: ScriptedProvider):
    worker = a_worker()
    worker.cache.reachable = False
    login = worker.login(provider.settings(validation="jwks"))
    for _ in range(3):
        assert login.account(RSA.sign(claims(provider)), "", {}, soon()) == ANN
        refusal(provider.settings(validation="jwks"), FOREIGN.sign(claims(provider)))
    assert provider.count(DISCOVERY) == 1 + 3

"""Mail clients log in with tokens of a real OpenID provider, through a real smtpd: 235, 535 and 454 where they belong."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from kit.certificates import Authority
from kit.clients import Closed
from kit.logins import Logins
from kit.needs import needs
from kit.oidc.bearer import MESSAGES, log_in
from kit.oidc.keys import SigningKey, hmac_signed, unsigned
from kit.oidc.provider import RESOURCE, SECRET, Provider, client, key_client
from kit.postfix import Postfix, Smtpd
from kit.waiting import until

IN, NO, LATER = 235, 535, 454
ANN = "ann@example.test"
UNASKED = "http://127.0.0.1:9/"
"""The target of entries that are never asked for a password here."""

CLIENT_KEYS = {name: SigningKey(name, "") for name in ("RS256", "ES256", "ES384", "ES512", "EdDSA")}

mechanisms = pytest.mark.parametrize("mechanism", MESSAGES)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def provider(authority: Authority) -> Iterator[Provider]:
    clients = [client("post", "client_secret_post")]
    clients += [key_client(f"key-{name}", key) for name, key in CLIENT_KEYS.items()]
    with Provider(authority, clients) as started:
        yield started


@pytest.fixture(scope="module")
def foreign(authority: Authority) -> Iterator[Provider]:
    with Provider(authority, keys=[SigningKey("RS256", "rs", number=1)]) as started:
        yield started


@pytest.fixture
def passing(authority: Authority) -> Iterator[Provider]:
    """A provider that a test may stop, freeze and change."""
    with Provider(authority) as started:
        yield started


def entry(provider: Provider, **more: Any) -> dict[str, Any]:
    oidc = {"enabled": True, "configuration_uri": provider.configuration_uri, **more}
    return {"target": UNASKED, "timeout": "3s", "sasl_oidc_auth": oidc}


API = {"client_id": "api", "client_secret": SECRET}


@pytest.fixture(scope="module")
def site(
    provider: Provider, foreign: Provider, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Logins]:
    keys = tmp_path_factory.mktemp("keys")
    entries = {
        "jwks": entry(provider, validation="jwks", audience=RESOURCE, required_scopes=["mail"]),
        "introspection": entry(provider, **API),
        "auto": entry(provider, validation="auto", audience=RESOURCE, **API),
        "userinfo": entry(provider, validation="userinfo", account_claim="email"),
        "matching": entry(provider, validation="jwks", username_match=True),
        "post": entry(provider, client_id="post", client_secret=SECRET, auth_method="client_secret_post"),
        "stranger": entry(provider, client_id="stranger", client_secret=SECRET),
        "misconfigured": entry(provider, client_id="api", client_secret="wrong"),
        "both": {
            **entry(provider),
            "sasl_oidc_auth": {
                "enabled": True,
                "providers": [
                    {"configuration_uri": provider.configuration_uri, "validation": "jwks", "audience": RESOURCE},
                    {"configuration_uri": foreign.configuration_uri, "validation": "auto", **API},
                ],
            },
        },
    }
    for name, key in CLIENT_KEYS.items():
        (keys / name).write_text(key.pem())
        audience = {"assertion_audience": "issuer"} if name == "RS256" else {}
        entries[f"key-{name}"] = entry(provider, client_id=f"key-{name}", private_key_file=str(keys / name), **audience)
    with Logins(entries, tls={"enabled": True, "root_ca": authority.certificate}, workers=4) as started:
        yield started


@contextlib.contextmanager
def smtpds(site: Logins, *main: str) -> Iterator[Postfix]:
    """A Postfix with one smtpd for each entry of the site."""
    needs("root", "postfix")
    first = next(iter(site.ports))
    sasl = ("smtpd_sasl_auth_enable = yes", "smtpd_sasl_type = dovecot", *main)
    others = {name: Smtpd((f"smtpd_sasl_path = inet:127.0.0.1:{port}",)) for name, port in site.ports.items()}
    with Postfix([*sasl, f"smtpd_sasl_path = inet:127.0.0.1:{site.ports[first]}"], others=others) as started:
        yield started


@pytest.fixture(scope="module")
def postfix(site: Logins) -> Iterator[Postfix]:
    with smtpds(site) as started:
        yield started


def attempt(postfix: Postfix, name: str, mechanism: str, token: str, user: str = ANN) -> int:
    with postfix.smtp(name) as connected:
        return log_in(connected, mechanism, user, token).code


def claims(provider: Provider, **changes: Any) -> dict[str, Any]:
    now = int(time.time())
    good = {"iss": provider.issuer, "sub": ANN, "aud": RESOURCE, "exp": now + 600, "scope": "mail"}
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def test_smtpd_offers_the_mechanisms(postfix: Postfix):
    with postfix.smtp("jwks") as connected:
        assert connected.esmtp_features["auth"].split() == ["PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER"]


@mechanisms
@pytest.mark.parametrize("name", ["jwks", "auto", "both"])
@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_good_jwt(postfix: Postfix, provider: Provider, site: Logins, mechanism: str, name: str, algorithm: str):
    resource = RESOURCE if algorithm == "RS256" else f"{RESOURCE}?alg={algorithm}"
    token = provider.token(ANN, resource)
    audience = IN if algorithm == "RS256" else NO  # that of the others is another one
    mark = site.log.position
    assert attempt(postfix, name, mechanism, token) == audience
    if audience == IN:
        line = site.log.wait_for("Authentication succeeded", start=mark)
        assert f"account={ANN}" in line and f"mechanism={mechanism}" in line
    assert attempt(postfix, "matching", mechanism, token) == IN


@mechanisms
@pytest.mark.parametrize("name", ["introspection", "auto", "userinfo", "post", *(f"key-{key}" for key in CLIENT_KEYS)])
def test_a_good_opaque_token(postfix: Postfix, provider: Provider, mechanism: str, name: str):
    """By every method in which we can authenticate."""
    token = provider.token(ANN)
    assert attempt(postfix, name, mechanism, token) == (NO if name == "auto" else IN)  # it has no audience


@mechanisms
def test_who_is_named_by_nobody(postfix: Postfix, provider: Provider, site: Logins, mechanism: str):
    """The account is the token's, whatever the client called its user; OAUTHBEARER need not name one."""
    token = provider.token(ANN, RESOURCE)
    users = ["bob@example.test", "ann"] + ([""] if mechanism == "OAUTHBEARER" else [])
    for user in users:
        mark = site.log.position
        assert attempt(postfix, "jwks", mechanism, token, user) == IN
        assert f"account={ANN}" in site.log.wait_for("Authentication succeeded", start=mark)
        assert attempt(postfix, "matching", mechanism, token, user) == NO
    assert attempt(postfix, "matching", mechanism, token, "ann@EXAMPLE.test") == IN


def refused(provider: Provider, foreign: Provider) -> dict[str, str]:
    key = provider.keys[0]
    good = claims(provider)
    now = int(time.time())
    return {
        "expired": key.sign(claims(provider, exp=now - 60)),
        "foreign audience": provider.token(ANN, "https://files.example.test"),
        "foreign issuer": foreign.token(ANN, RESOURCE),
        "foreign issuer in our name": foreign.keys[0].sign(good),
        "unsigned": unsigned(good),
        "HS256 with the public key": hmac_signed(good, {"alg": "HS256", "kid": key.kid}, key.public_pem()),
        "without a scope": provider.token(ANN, RESOURCE, scope="openid"),
        "a service's": provider.service_token(RESOURCE),
        "bound": key.sign(claims(provider, cnf={"jkt": "x"})),
        "opaque": provider.token(ANN),
        "no token": "wonderland",
    }


KINDS = (
    "expired", "foreign audience", "foreign issuer", "foreign issuer in our name", "unsigned", "HS256 with the public key",
    "without a scope", "a service's", "bound", "opaque", "no token",
)  # fmt: skip


@mechanisms
@pytest.mark.parametrize("kind", KINDS)
def test_a_refused_token(
    postfix: Postfix, provider: Provider, foreign: Provider, site: Logins, mechanism: str, kind: str
):
    token = refused(provider, foreign)[kind]
    mark = site.log.position
    with postfix.smtp("jwks") as connected:
        outcome = log_in(connected, mechanism, ANN, token)
        assert outcome.code == NO
        error = "insufficient_scope" if kind == "without a scope" else "invalid_token"
        if mechanism == "XOAUTH2":
            assert outcome.challenge == {"status": "401", "schemes": "bearer", "scope": "mail"}
        else:
            assert outcome.challenge == {
                "status": error, "schemes": "bearer", "scope": "mail",
                "openid-configuration": provider.configuration_uri,
            }  # fmt: skip
        assert log_in(connected, mechanism, ANN, provider.token(ANN, RESOURCE)).code == IN, "on the same connection"
    site.log.wait_for("Authentication failed", start=mark)
    assert token not in site.log.text


@mechanisms
@pytest.mark.parametrize("name", ["introspection", "userinfo"])
def test_a_revoked_token(postfix: Postfix, provider: Provider, mechanism: str, name: str):
    token = provider.token(ANN)
    assert attempt(postfix, name, mechanism, token) == IN
    provider.revoke(token)
    assert attempt(postfix, name, mechanism, token) == NO


@mechanisms
def test_an_opaque_token_that_expires(postfix: Postfix, provider: Provider, mechanism: str):
    token = provider.token(ANN, ttl=2)
    assert attempt(postfix, "introspection", mechanism, token) == IN
    until(lambda: not provider.is_active(token), "the token's end")
    assert attempt(postfix, "introspection", mechanism, token) == NO


@mechanisms
def test_a_token_that_is_none_of_our_business(postfix: Postfix, provider: Provider, mechanism: str):
    """The provider calls a token inactive when the wrong client asks, and so it is."""
    assert attempt(postfix, "stranger", mechanism, provider.token(ANN)) == NO


@mechanisms
def test_our_own_credentials_are_wrong(postfix: Postfix, provider: Provider, site: Logins, mechanism: str):
    mark = site.log.position
    assert attempt(postfix, "misconfigured", mechanism, provider.token(ANN)) == LATER
    line = site.log.wait_for("could not be decided", start=mark)
    assert "introspection answered with status code 401" in line
    assert SECRET not in site.log.text and "wrong" not in line


@mechanisms
def test_an_email_that_the_provider_has_not_verified(postfix: Postfix, provider: Provider, mechanism: str):
    assert attempt(postfix, "userinfo", mechanism, provider.token("unverified@example.test")) == NO
    assert attempt(postfix, "userinfo", mechanism, provider.token(ANN, scope="openid mail")) == NO, "no email claim"


@mechanisms
def test_two_providers_on_one_entry(postfix: Postfix, provider: Provider, foreign: Provider, mechanism: str):
    assert attempt(postfix, "both", mechanism, provider.token(ANN, RESOURCE)) == IN
    assert attempt(postfix, "both", mechanism, foreign.token("bob@example.test", RESOURCE)) == IN
    assert attempt(postfix, "both", mechanism, foreign.token("bob@example.test")) == IN, "an opaque one"
    assert attempt(postfix, "both", mechanism, provider.token(ANN)) == NO, "the first one is asked about none"
    assert attempt(postfix, "both", mechanism, foreign.keys[0].sign(claims(provider))) == NO
    assert attempt(postfix, "both", mechanism, provider.keys[0].sign(claims(foreign))) == NO


@mechanisms
def test_a_token_of_12_kb(site: Logins, provider: Provider, mechanism: str):
    """More than smtpd takes by default. XOAUTH2 and OAUTHBEARER put it in base64 once more."""
    token = provider.keys[0].sign(claims(provider, groups=["g" * 90] * 95))
    assert 12_000 < len(token) < 13_000
    with smtpds(site, "smtpd_sasl_response_limit = 32768") as postfix:
        assert attempt(postfix, "jwks", mechanism, token) == IN


@mechanisms
def test_a_malformed_message(postfix: Postfix, mechanism: str):
    with postfix.smtp("jwks") as connected:
        assert connected.docmd("AUTH", f"{mechanism} anVuaw==")[0] == 334
        assert connected.docmd("AQ==")[0] == NO


@mechanisms
def test_straight_to_the_listener(site: Logins, provider: Provider, mechanism: str):
    """Without Postfix between."""
    with site.client("jwks") as straight:
        assert straight.auth(mechanism, MESSAGES[mechanism](ANN, provider.token(ANN, RESOURCE))) == f"OK\t1\tuser={ANN}"
        assert straight.auth(mechanism, MESSAGES[mechanism](ANN, "junk")).startswith("CONT\t2\t")
        assert straight.cont("\x01").startswith("FAIL\t2\t")


@mechanisms
def test_query_takes_the_token_from_standard_input(site: Logins, provider: Provider, mechanism: str):
    arguments = ("query", "--sasl", "jwks", "--mechanism", mechanism.lower(), ANN)
    done = site.daemon.run(*arguments, input=provider.token(ANN, RESOURCE) + "\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"OK user={ANN}\n", "")
    done = site.daemon.run(*arguments, input=provider.token(ANN) + "\n")
    assert done.returncode == 1 and done.stderr == ""
    assert done.stdout.startswith("FAIL ") and '"schemes":"bearer"' in done.stdout
    assert ("openid-configuration" in done.stdout) == (mechanism == "OAUTHBEARER")


# -- a provider's life ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def alone(provider: Provider, authority: Authority, **server: Any) -> Iterator[Logins]:
    """A daemon that has this provider to itself."""
    entries = {
        "jwks": entry(provider, validation="jwks", audience=RESOURCE),
        "introspection": entry(provider, **API),
        "auto": entry(provider, validation="auto", **API),
    }
    with Logins(entries, tls={"enabled": True, "root_ca": authority.certificate}, **server) as started:
        yield started


def decided(site: Logins, name: str, token: str, mechanism: str = "OAUTHBEARER") -> str:
    """What a login comes to: OK, FAIL, or CLOSED for a connection that is dropped, which Postfix answers with 454."""
    with site.client(name) as connected:
        try:
            line = connected.auth(mechanism, MESSAGES[mechanism](ANN, token))
            if line.startswith("CONT"):
                line = connected.cont("\x01")
        except Closed:
            return "CLOSED"
        return line.partition("\t")[0]


def test_down_and_up_again(passing: Provider, authority: Authority):
    """An outage refuses nobody; what is known already serves on where it can, and no restart is needed afterwards."""
    jwt, opaque = passing.token(ANN, RESOURCE), passing.token(ANN)
    with alone(passing, authority, workers=2) as site:
        assert [decided(site, name, opaque) for name in ("introspection", "auto")] == ["OK", "OK"]
        assert decided(site, "jwks", jwt) == "OK"
        passing.stop()
        assert [decided(site, name, opaque) for name in ("introspection", "auto")] == ["CLOSED", "CLOSED"]
        assert decided(site, "jwks", jwt) == "OK", "the keys are known"
        passing.start()
        assert decided(site, "introspection", opaque) == "FAIL", "it has forgotten that token"
        assert decided(site, "introspection", passing.token(ANN)) == "OK"
        assert "Traceback" not in site.log.text


def test_down_from_the_beginning(passing: Provider, authority: Authority):
    jwt = passing.token(ANN, RESOURCE)
    passing.stop()
    with alone(passing, authority) as site:
        assert [decided(site, name, jwt) for name in ("jwks", "introspection", "auto")] == ["CLOSED"] * 3
        passing.start()
        assert decided(site, "jwks", jwt) == "OK"


def test_through_smtpd_an_outage_is_454(passing: Provider, authority: Authority):
    opaque = passing.token(ANN)
    with alone(passing, authority) as site, smtpds(site) as postfix:
        assert attempt(postfix, "introspection", "XOAUTH2", opaque) == IN
        passing.stop()
        for mechanism in MESSAGES:
            assert attempt(postfix, "introspection", mechanism, opaque) == LATER


def test_a_frozen_provider_takes_a_worker_no_longer_than_a_login_may_take(passing: Provider, authority: Authority):
    opaque = passing.token(ANN)
    with alone(passing, authority, workers=1) as site:
        assert decided(site, "introspection", opaque) == "OK"
        passing.freeze()
        begun = time.monotonic()
        assert decided(site, "introspection", opaque) == "CLOSED"
        assert 2.5 < time.monotonic() - begun < 6.0
        passing.thaw()
        assert decided(site, "introspection", opaque) == "OK"
        assert len(site.daemon.workers()) == 1


def test_the_provider_has_a_breaker_of_its_own(passing: Provider, authority: Authority):
    opaque = passing.token(ANN)
    breaker = {"failures": 2, "cooldown": "60s"}
    with alone(passing, authority, circuit_breaker=breaker) as site:
        assert decided(site, "introspection", opaque) == "OK"
        passing.stop()
        for _ in range(3):
            assert decided(site, "introspection", opaque) == "CLOSED"
        site.log.wait_for(f"Circuit breaker changed.*target=.provider {passing.configuration_uri}.*state=open")
        site.log.wait_for("the provider has failed repeatedly")
        assert decided(site, "jwks", passing_jwt(passing)) == "CLOSED", (
            "no keys are known, and nobody is asked for them"
        )


def passing_jwt(provider: Provider) -> str:
    """A token that needs no provider to be made."""
    return provider.keys[0].sign(claims(provider))


def test_rotation_in_the_middle(passing: Provider, authority: Authority, tmp_path: Any):
    """A key that is not known is fetched, at most once a minute: a set that is older than that is needed first."""
    old = passing.token(ANN, RESOURCE)
    with alone(passing, authority, workers=2) as site:
        assert decided(site, "jwks", old) == "OK"
        passing.rotate(SigningKey("RS256", "second", number=2), SigningKey("ES256", "es2"), SigningKey("EdDSA", "ed2"))
        new = passing.token(ANN, RESOURCE)
        passing.requests()
        assert [decided(site, "jwks", new) for _ in range(4)] == ["FAIL"] * 4, "fetched a moment ago"
        assert passing.requests() == []
        assert decided(site, "jwks", old) == "OK"
        reloaded = site.daemon.reload(changed_ttl(site.config))
        assert "reloaded" in reloaded
        assert decided(site, "jwks", new) == "OK"
        assert decided(site, "jwks", old) == "FAIL", "its key is gone"
        assert passing.requests().count("GET /jwks") == 1


def changed_ttl(config: Any) -> Any:
    """The configuration with another lifetime of key sets, for which one is fetched anew."""
    config = {**config, "dovecot_sasl": {name: {**each} for name, each in config["dovecot_sasl"].items()}}
    jwks = config["dovecot_sasl"]["jwks"]
    jwks["sasl_oidc_auth"] = {**jwks["sasl_oidc_auth"], "jwks_cache_ttl": "10m"}
    return config


def test_key_sets_and_documents_are_fetched_once_for_all_workers(passing: Provider, authority: Authority):
    jwt = passing.token(ANN, RESOURCE)
    passing.requests()
    with alone(passing, authority, workers=6) as site, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(site.client("jwks")) for _ in range(30)]
        for connected in clients:
            connected.send_line(f"AUTH\t1\tOAUTHBEARER\tservice=smtp\tresp={coded(jwt)}")
        assert [connected.line() for connected in clients] == [f"OK\t1\tuser={ANN}"] * 30
        assert sorted(passing.requests()) == ["GET /.well-known/openid-configuration", "GET /jwks"]
        assert len(set(site.daemon.workers())) == 6


def coded(token: str) -> str:
    return base64.b64encode(MESSAGES["OAUTHBEARER"](ANN, token).encode()).decode()


def test_what_is_known_survives_workers_and_reloads(passing: Provider, authority: Authority):
    jwt = passing.token(ANN, RESOURCE)
    with alone(passing, authority, workers=2) as site:
        assert decided(site, "jwks", jwt) == "OK"
        passing.stop()
        before = site.daemon.workers()
        assert "reloaded" in site.daemon.reload(site.config)
        until(lambda: not set(site.daemon.workers()) & set(before), "new workers")
        assert decided(site, "jwks", jwt) == "OK", site.log.tail


def test_without_the_cache_process(passing: Provider, authority: Authority):
    """Each worker finds out by itself; nothing but the speed suffers."""
    jwt, opaque = passing.token(ANN, RESOURCE), passing.token(ANN)
    with alone(passing, authority, workers=2) as site:
        cache = site.daemon.process_named("cache")
        os.kill(cache, signal.SIGSTOP)
        try:
            for _ in range(4):
                assert decided(site, "jwks", jwt) == "OK"
                assert decided(site, "introspection", opaque) == "OK"
            assert decided(site, "jwks", foreign_token(passing)) == "FAIL"
        finally:
            os.kill(cache, signal.SIGCONT)
        assert decided(site, "jwks", jwt) == "OK"


def foreign_token(provider: Provider) -> str:
    return SigningKey("RS256", provider.keys[0].kid, number=3).sign(claims(provider))


def test_a_reload_under_logins(passing: Provider, authority: Authority):
    jwt = passing.token(ANN, RESOURCE)
    with alone(passing, authority, workers=2) as site:
        config = site.config
        outcomes: list[str] = []
        done = threading.Event()

        def log_in_again_and_again() -> None:
            while not done.is_set():
                outcomes.append(decided(site, "jwks", jwt))

        thread = threading.Thread(target=log_in_again_and_again)
        thread.start()
        try:
            for _ in range(3):
                config = changed_ttl(config)
                assert "reloaded" in site.daemon.reload(config)
        finally:
            done.set()
            thread.join()
        assert outcomes and set(outcomes) == {"OK"}


def test_switched_on_and_off_by_a_reload(passing: Provider, authority: Authority):
    jwt = passing.token(ANN, RESOURCE)
    with alone(passing, authority) as site:
        off = {**site.config, "dovecot_sasl": {name: {"target": UNASKED} for name in site.ports}}
        assert "reloaded" in site.daemon.reload(off)
        with site.client("jwks") as connected:
            assert connected.mechanisms.keys() == {"PLAIN", "LOGIN"}
            assert connected.auth("XOAUTH2", MESSAGES["XOAUTH2"](ANN, jwt)).startswith("FAIL\t1\t")
        assert "reloaded" in site.daemon.reload(site.config)
        with site.client("jwks") as connected:
            assert connected.mechanisms.keys() == {"PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER"}
        assert decided(site, "jwks", jwt) == "OK"


def test_no_token_and_no_secret_gets_out(passing: Provider, authority: Authority):
    jwt, opaque = passing.token(ANN, RESOURCE), passing.token(ANN)
    with alone(passing, authority) as site:
        assert [decided(site, name, opaque) for name in ("introspection", "jwks")] == ["OK", "FAIL"]
        assert decided(site, "jwks", jwt) == "OK"
        passing.stop()
        assert decided(site, "introspection", opaque) == "CLOSED"
        told = site.daemon.run("status", "--json").stdout + site.daemon.run("status").stdout
        for secret in (jwt, opaque, SECRET, jwt.rpartition(".")[2]):
            assert secret not in site.log.text and secret not in told

"""APIs that want a bearer token: pfxhttpd gets it from a real OpenID provider, shares it, and replaces it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kit import ports
from kit.answer import Answer, Request
from kit.backend import ThreadBackend
from kit.certificates import Authority
from kit.clients import Closed, Sasl, SocketMap
from kit.configuration import configuration, listener, socket_map
from kit.daemon import Daemon
from kit.logins import RIGHT, Logins
from kit.needs import needs
from kit.oidc.bearer import MESSAGES
from kit.oidc.keys import SigningKey
from kit.oidc.provider import RESOURCE, SECRET, Provider, client, key_client
from kit.oidc.scripted import ScriptedProvider
from kit.server import ServerTls
from kit.site import Site
from kit.waiting import until

KEYS = {name: SigningKey(name, "") for name in ("RS256", "ES256", "ES384", "ES512", "EdDSA")}
OTHER = SigningKey("ES256", "")


class Api(ThreadBackend):
    """Answers whoever bears a token that it accepts with his scopes, and anybody else with 401."""

    def __init__(self) -> None:
        super().__init__()
        self.rejected: set[str] = set()
        self.answer("/map", self._map)
        self.answer("/login", self._login)

    @property
    def tokens(self) -> list[str]:
        """What was sent as a token, in order, each as often as it was."""
        return [(request.header("authorization") or "").removeprefix("Bearer ") for request in self.requests()]

    def _accepts(self, request: Request) -> bool:
        scheme, _, token = (request.header("authorization") or "").partition(" ")
        return scheme == "Bearer" and bool(token) and token not in self.rejected

    def _map(self, request: Request) -> Answer:
        if not self._accepts(request):
            return Answer(401, {"WWW-Authenticate": 'Bearer error="invalid_token"'})
        return Answer(json={"result": request.json()["key"]})

    def _login(self, request: Request) -> Answer:
        return Answer(200) if self._accepts(request) and request.json()["password"] == RIGHT else Answer(401)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def api() -> Iterator[Api]:
    with Api() as started:
        yield started


def two_keys() -> dict[str, Any]:
    """A client that may authenticate with either of two keys."""
    either = key_client("two", KEYS["ES256"])
    either["jwks"] = {"keys": [KEYS["ES256"].public_jwk(kid="old"), OTHER.public_jwk(kid="new")]}
    return either


CLIENTS = [
    client("post", "client_secret_post"),
    client("narrow", scope="api.read"),
    two_keys(),
    *(key_client(f"key-{name}", key) for name, key in KEYS.items()),
]


@pytest.fixture(scope="module")
def provider(authority: Authority) -> Iterator[Provider]:
    with Provider(authority, CLIENTS) as started:
        yield started


@pytest.fixture
def passing(authority: Authority) -> Iterator[Provider]:
    """A provider that a test may stop, whose tokens live for 4 seconds."""
    with Provider(authority, CLIENTS, service_ttl=4) as started:
        yield started


def oidc(provider: Provider, **more: Any) -> dict[str, Any]:
    return {"enabled": True, "configuration_uri": provider.configuration_uri, **more}


API_CLIENT = {"client_id": "api", "client_secret": SECRET}


def entry(api: Api, provider: Provider, **more: Any) -> dict[str, Any]:
    return socket_map(api.url("/map"), backend_oidc_auth=oidc(provider, **(more or API_CLIENT)))


def serving(authority: Authority, maps: dict[str, Any], **server: Any) -> Site:
    return Site(maps, tls={"enabled": True, "root_ca": authority.certificate}, **server)


def test_every_way_to_authenticate(api: Api, provider: Provider, authority: Authority, tmp_path: Path):
    maps = {
        "basic": entry(api, provider, **API_CLIENT),
        "post": entry(api, provider, client_id="post", client_secret=SECRET, auth_method="client_secret_post"),
    }
    for name, key in KEYS.items():
        (tmp_path / name).write_text(key.pem())
        maps[name] = entry(api, provider, client_id=f"key-{name}", private_key_file=str(tmp_path / name))
    own = {"assertion_audience": "issuer", "scopes": ["api.read"]}
    maps["issuer"] = entry(api, provider, client_id="key-ES256", private_key_file=str(tmp_path / "ES256"), **own)
    own = {"assertion_audience": f"{provider.issuer}/token", "scopes": ["api.read"]}
    maps["url"] = entry(api, provider, client_id="key-EdDSA", private_key_file=str(tmp_path / "EdDSA"), **own)
    with serving(authority, maps) as site:
        for name in maps:
            assert site.ask(name, f"key of {name}") == f"OK key of {name}"
            assert provider.is_active(api.tokens[-1])
    assert len(set(api.tokens)) == len(maps), "nobody uses another client's token"


def test_a_public_client(api: Api, authority: Authority):
    """Client credentials without credentials are refused by any honest provider, so this one is scripted."""
    pair = authority.server("127.0.0.1")
    with ScriptedProvider(certificate=ServerTls(pair.certificate, pair.key)) as provider:
        provider.answer("/token", json={"access_token": "for-nobody", "token_type": "bearer", "expires_in": 60})
        with serving(authority, {"m": entry(api, provider, client_id="public")}) as site:
            assert site.ask("m", "k") == "OK k"
        (request,) = provider.requests("/token")
        assert request.body == b"grant_type=client_credentials&client_id=public"
        assert request.header("authorization") is None
    assert api.tokens == ["for-nobody"]


def test_one_token_for_all_workers_and_entries(api: Api, provider: Provider, authority: Authority):
    """Six workers and two entries want it at the same moment; it is fetched once."""
    maps = {"one": entry(api, provider), "two": entry(api, provider)}
    provider.requests()
    with serving(authority, maps, workers=6) as site, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(site.client()) for _ in range(24)]
        for number, connected in enumerate(clients):
            connected.send(("one", "two")[number % 2], "k")
        assert [connected.reply() for connected in clients] == ["OK k"] * 24
        assert sorted(provider.requests()) == ["GET /.well-known/openid-configuration", "POST /token"]
    assert len(set(api.tokens)) == 1


def test_scopes_are_asked_for_and_kept_apart(api: Api, provider: Provider, authority: Authority):
    maps = {
        "read": entry(api, provider, **API_CLIENT, scopes=["api.read"]),
        "write": entry(api, provider, **API_CLIENT, scopes=["api.read", "api.write"]),
    }
    with serving(authority, maps) as site:
        assert [site.ask(name, "k") for name in maps] == ["OK k"] * 2
    read, write = api.tokens
    assert (introspected(provider, read), introspected(provider, write)) == ("api.read", "api.read api.write")


def introspected(provider: Provider, token: str) -> str:
    """The scopes that the provider says the token has."""
    return str(provider.introspect(token)["scope"])


def test_the_token_takes_the_place_of_any_other_authorization(api: Api, provider: Provider, authority: Authority):
    maps = {
        "header": entry(api, provider) | {"custom_headers": ["authorization: Bearer of-old", "X-Other: stays"]},
        "basic": entry(api, provider) | {"http_auth_basic": "user:password"},
    }
    with serving(authority, maps) as site:
        assert [site.ask(name, "k") for name in maps] == ["OK k"] * 2
    for request in api.requests():
        assert [name.lower() for name, _ in request.headers].count("authorization") == 1
    assert api.requests()[0].header("x-other") == "stays"
    assert all(map(provider.is_active, api.tokens))


def test_a_token_that_the_api_does_not_take_is_replaced_once(api: Api, provider: Provider, authority: Authority):
    with serving(authority, {"m": entry(api, provider)}, workers=3) as site:
        assert site.ask("m", "k") == "OK k"
        api.rejected.update(api.tokens)
        provider.requests()
        api.forget()
        for _ in range(9):
            assert site.ask("m", "k") == "OK k"
        assert provider.requests() == ["POST /token"], "all workers use the new one"
        api.answer("/map", Answer(401))
        api.forget()
        assert site.ask("m", "k") == "PERM unexpected status code 401 (the backend refuses our credentials)"
        assert api.count() == 2, "once again and not for ever"


def test_a_401_that_is_expected_is_an_answer(api: Api, provider: Provider, authority: Authority):
    api.answer("/map", Answer(401, json={"result": "expected"}))
    with serving(authority, {"m": entry(api, provider) | {"status_code": [200, 401]}}) as site:
        assert site.ask("m", "k") == "OK expected"
    assert api.count() == 1


def test_a_token_is_replaced_before_it_expires(api: Api, passing: Provider, authority: Authority):
    with serving(authority, {"m": entry(api, passing)}) as site:
        assert site.ask("m", "k") == "OK k"
        (first,) = api.tokens

        def replaced() -> bool:
            assert site.ask("m", "k") == "OK k"
            assert passing.is_active(api.tokens[-1])
            return api.tokens[-1] != first

        until(replaced, "another token")
        assert passing.is_active(first), "the first one has not expired yet"


def test_a_token_is_used_on_while_the_provider_is_down(api: Api, passing: Provider, authority: Authority):
    with serving(authority, {"m": entry(api, passing)}, workers=2) as site:
        assert site.ask("m", "k") == "OK k"
        passing.stop()
        assert site.ask("m", "k") == "OK k"
        until(lambda: site.ask("m", "k").startswith("TEMP "), "the token's end")
        assert "connection to the provider failed" in site.ask("m", "k")
        passing.start()
        until(lambda: site.ask("m", "k") == "OK k", "a token of the provider that is back")
        assert len(set(api.tokens)) == 2


def test_no_token_is_a_backend_failure(api: Api, provider: Provider, authority: Authority):
    """The API itself is not asked, and its breaker does not hear of it."""
    maps = {
        "wrong": entry(api, provider, client_id="api", client_secret="wrong-secret-of-ours"),
        "unknown": entry(api, provider, client_id="nobody", client_secret="x"),
        "scope": entry(api, provider, client_id="narrow", client_secret=SECRET, scopes=["api.write"]),
        "good": entry(api, provider),
    }
    with serving(authority, maps, circuit_breaker={"failures": 1, "cooldown": "60s"}) as site:
        assert site.ask("wrong", "k") == "TEMP the provider gives no token: status code 401, invalid_client"
        assert site.ask("unknown", "k") == "TEMP the provider gives no token: status code 401, invalid_client"
        assert site.ask("scope", "k") == "TEMP the provider gives no token: status code 400, invalid_scope"
        assert api.count() == 0
        assert site.ask("good", "k") == "OK k"
        assert "wrong-secret-of-ours" not in site.log.text


ECHOES = {
    "an error": Answer(400, json={"error": SECRET, "error_description": f"the secret {SECRET} is wrong"}),
    "a description": Answer(401, json={"error": "invalid_client", "error_description": f"{SECRET} is wrong"}),
    "a text": Answer(500, body=f"<h1>{SECRET}</h1>".encode()),
    "a token": Answer(json={"access_token": f"{SECRET} with blanks", "token_type": "Bearer"}),
    "a token with a line break": Answer(json={"access_token": f"x\r\nX-Secret: {SECRET}", "token_type": "Bearer"}),
    "a type": Answer(json={"access_token": "x", "token_type": SECRET}),
    "a redirect": Answer(302, {"Location": f"/other?{SECRET}"}),
}


@pytest.mark.parametrize("kind", ECHOES)
def test_what_the_provider_echoes_gets_nowhere(api: Api, authority: Authority, kind: str):
    with ScriptedProvider() as provider, serving(authority, {"m": entry(api, provider)}) as site:
        provider.answer("/token", ECHOES[kind])
        reply = site.ask("m", "k")
        assert reply.startswith("TEMP the provider")
        assert "invalid_client" in reply or kind != "a description"
        status = site.daemon.run("status", "--json").stdout
        for told in (reply, site.log.text, status):
            assert SECRET not in told and "blanks" not in told
        assert not api.count() and not provider.count("/other")


def test_a_token_that_the_api_echoes_gets_nowhere(api: Api, provider: Provider, authority: Authority):
    def echo(request: Request) -> Answer:
        said = f"you sent {request.header('authorization')}"
        return Answer(403, {"Auth-Status": said}, json={"error": said, "result": said})

    for path in ("/map", "/login"):
        api.answer(path, echo)
    maps = {
        "value": entry(api, provider) | {"status_code": 403, "error_field": ""},
        "error": entry(api, provider) | {"status_code": 403},
    }
    with serving(authority, maps) as site:
        assert site.ask("value", "k") == "OK you sent Bearer <redacted>"
        assert site.ask("error", "k") == "PERM you sent Bearer <redacted>"
        assert api.tokens[0] not in site.log.text
    login = {"target": api.url("/login"), "timeout": "3s", "backend_oidc_auth": oidc(provider, **API_CLIENT)}
    with Logins({"login": login}, tls={"enabled": True, "root_ca": authority.certificate}) as logins:
        with logins.client("login") as connected:
            answer = connected.plain("ann", RIGHT)
        assert answer.startswith("FAIL") and "you sent Bearer <redacted>" in answer
        assert api.tokens[-1] not in logins.log.text


def test_endpoints_that_are_less_secure_than_what_names_them(api: Api, authority: Authority):
    pair = authority.server("127.0.0.1")
    with ScriptedProvider(certificate=ServerTls(pair.certificate, pair.key)) as provider:
        plain = provider.url("/token").replace("https:", "http:")
        provider.answer("/.well-known/openid-configuration", json=provider.discovery(token_endpoint=plain))
        with serving(authority, {"m": entry(api, provider)}) as site:
            assert site.ask("m", "k") == "TEMP the provider's token_endpoint is not https, while its configuration is"


def test_an_untrusted_provider(api: Api, provider: Provider, tmp_path: Path):
    stranger = Authority(tmp_path / "stranger")
    with serving(stranger, {"m": entry(api, provider)}) as site:
        assert site.ask("m", "k").startswith("TEMP TLS with the provider failed")
    assert api.count() == 0


def test_the_key_file_is_read_again_for_each_assertion(
    api: Api, provider: Provider, authority: Authority, tmp_path: Path
):
    """A new key needs no reload; a file that is gone leaves the key that was read with the configuration."""
    path = tmp_path / "key.pem"
    path.write_text(KEYS["ES256"].pem())
    maps = {"m": entry(api, provider, client_id="two", private_key_file=str(path))}
    with serving(authority, maps, workers=1) as site:
        assert site.ask("m", "k") == "OK k"
        path.write_text(OTHER.pem())
        api.rejected.update(api.tokens)
        assert site.ask("m", "k") == "OK k"
        path.write_text(SigningKey("ES256", "").pem())
        api.rejected.update(api.tokens)
        assert site.ask("m", "k") == "TEMP the provider gives no token: status code 401, invalid_client"
        path.write_text("no key at all")
        assert site.ask("m", "k") == "TEMP the private key cannot be used: it holds no private key in PEM form"
        path.unlink()
        assert site.ask("m", "k") == "OK k"


def test_without_the_cache_process_each_worker_has_a_token(api: Api, provider: Provider, authority: Authority):
    with serving(authority, {"m": entry(api, provider)}, workers=2) as site:
        cache = site.daemon.process_named("cache")
        os.kill(cache, signal.SIGSTOP)
        try:
            assert [site.ask("m", "k") for _ in range(6)] == ["OK k"] * 6
        finally:
            os.kill(cache, signal.SIGCONT)
    assert len(set(api.tokens)) <= 2


def test_a_token_survives_reload_and_the_end_of_workers(api: Api, provider: Provider, authority: Authority):
    with serving(authority, {"m": entry(api, provider)}, workers=2) as site:
        assert site.ask("m", "k") == "OK k"
        before = site.daemon.workers()
        assert "reloaded" in site.daemon.reload(site.config)
        until(lambda: not set(site.daemon.workers()) & set(before), "new workers")
        os.kill(site.daemon.workers()[0], signal.SIGKILL)
        assert [site.ask("m", "k") for _ in range(6)] == ["OK k"] * 6
    assert len(set(api.tokens)) == 1


def test_other_credentials_after_a_reload_get_another_token(api: Api, provider: Provider, authority: Authority):
    with serving(authority, {"m": entry(api, provider)}) as site:
        assert site.ask("m", "k") == "OK k"
        site.config["socket_maps"]["m"]["backend_oidc_auth"] |= {
            "client_id": "post",
            "auth_method": "client_secret_post",
        }
        assert "reloaded" in site.daemon.reload(site.config)
        assert site.ask("m", "k") == "OK k"
    assert len(set(api.tokens)) == 2


def test_logins_bear_tokens_too(api: Api, provider: Provider, authority: Authority):
    login = {"target": api.url("/login"), "timeout": "3s", "backend_oidc_auth": oidc(provider, **API_CLIENT)}
    with Logins({"login": login}, tls={"enabled": True, "root_ca": authority.certificate}) as site:
        with site.client("login") as connected:
            assert connected.plain("ann", RIGHT) == "OK\t1\tuser=ann"
        api.rejected.update(api.tokens)
        with site.client("login") as connected:
            assert connected.plain("ann", RIGHT) == "OK\t1\tuser=ann", "with another token"
        with site.client("login") as connected, pytest.raises(Closed):
            connected.plain("ann", "401 means that we are not known, whatever the password")


def status(site: Site) -> dict[str, Any]:
    return json.loads(site.daemon.run("status", "--json").stdout)


def test_status_shows_the_provider(api: Api, passing: Provider, authority: Authority):
    maps = {"m": entry(api, passing)}
    with serving(authority, maps, circuit_breaker={"failures": 1, "cooldown": "60s"}) as site:
        (fresh,) = status(site)["providers"]
        assert fresh == {
            "provider": passing.configuration_uri, "keys": None, "fetched": None, "error": "", "error_seconds": None,
            "breaker": "closed", "failures": 0,
        }  # fmt: skip
        assert site.ask("m", "k") == "OK k"
        (known,) = status(site)["providers"]
        assert known["fetched"] is not None and known["error"] == ""
        passing.stop()
        until(lambda: site.ask("m", "k").startswith("TEMP "), "the token's end")
        (failing,) = status(site)["providers"]
        assert failing["error"].startswith("connection to the provider failed") and failing["error_seconds"] < 30
        assert (failing["breaker"], failing["failures"]) == ("open", 1)
        text = site.daemon.run("status").stdout
        assert f"provider {passing.configuration_uri}: no keys, fetched " in text
        assert "last error" in text and "breaker open" in text
        for secret in (SECRET, *api.tokens):
            assert secret not in text


# -- in a jail ------------------------------------------------------------------------------------------------------


class Jailed(Daemon):
    """From inside of a jail the socket files outside cannot be removed."""

    def socket_files(self) -> list[Path]:
        return []


@pytest.fixture
def jail(tmp_path: Path) -> Iterator[Path]:
    root = Path("/tmp", f"pfxhttpd-oidc-jail-{os.getpid()}")
    (root / "etc").mkdir(parents=True)
    root.chmod(0o755)
    (root / "etc/resolv.conf").write_text("nameserver 127.0.0.1\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    (root / "etc/nsswitch.conf").write_text("hosts: files\n")
    yield root
    shutil.rmtree(root)


def test_in_a_jail(api: Api, provider: Provider, authority: Authority, jail: Path, tmp_path: Path):
    """A map whose key file is outside of the jail, and a login with tokens of users, after the descent to nobody."""
    needs("root")
    path = tmp_path / "key.pem"
    path.write_text(KEYS["EdDSA"].pem())
    path.chmod(0o600)
    map_port, login_ports = ports.free(), {name: ports.free() for name in ("jwks", "introspection")}
    logins = {
        "jwks": {"validation": "jwks", "audience": RESOURCE},
        "introspection": {"client_id": "key-EdDSA", "private_key_file": str(path)},
    }
    config = configuration(
        listener("socket_map", "m", map_port),
        *(listener("dovecot_sasl", name, port) for name, port in login_ports.items()),
        socket_maps={"m": entry(api, provider, client_id="key-EdDSA", private_key_file=str(path))},
        dovecot_sasl={
            name: {"target": api.url("/login"), "sasl_oidc_auth": oidc(provider, **more)}
            for name, more in logins.items()
        },
        tls={"enabled": True, "root_ca": authority.certificate},
        run_as_user="nobody",
        run_as_group="nogroup",
        chroot=str(jail),
    )
    with Jailed(config) as daemon:
        with SocketMap(("127.0.0.1", map_port)) as connected:
            assert connected.ask("m", "k") == "OK k"
        for name, token in (("jwks", provider.token("ann", RESOURCE)), ("introspection", provider.token("ann"))):
            for mechanism, message in MESSAGES.items():
                with Sasl(("127.0.0.1", login_ports[name])) as connected:
                    assert connected.auth(mechanism, message("ann", token)) == "OK\t1\tuser=ann"
            with Sasl(("127.0.0.1", login_ports[name])) as connected:
                assert connected.auth("XOAUTH2", MESSAGES["XOAUTH2"]("ann", "junk")).startswith("CONT\t1\t")
        assert len(set(api.tokens)) == 1
        daemon.check_log()

"""contrib/OIDC.md: each of its configurations does what the page says, with a real provider or with an imitation of the product."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from kit import daemon
from kit.answer import Answer
from kit.backend import Backend
from kit.certificates import Authority
from kit.logins import Logins
from kit.oidc.bearer import MESSAGES
from kit.oidc.keys import SigningKey
from kit.oidc.provider import SECRET, Provider, client, key_client
from kit.oidc.scripted import ScriptedProvider, Worker, soon
from kit.site import Site

from pfxhttpd.config.load import load_text
from pfxhttpd.config.settings import SaslOidc
from pfxhttpd.rules.jwt import TokenRefused

PAGE = daemon.TREE / "contrib/OIDC.md"
TEXT = PAGE.read_text()
ANN = "ann@example.test"
MAIL = "https://mail.example.com"


def blocks(title: str) -> list[str]:
    """The indented blocks under a heading."""
    section = re.split(rf"^#+ {re.escape(title)}\n", TEXT, flags=re.MULTILINE)[1]
    section = re.split(r"^#+ ", section, flags=re.MULTILINE)[0]
    found = re.findall(r"(?:^(?:    .*)?\n)+", section, re.MULTILINE)
    return [textwrap.dedent(block) for block in found if block.strip()]


def configurations(title: str) -> list[dict[str, Any]]:
    return [yaml.safe_load(block) for block in blocks(title) if re.match(r"\s*(dovecot_sasl|socket_maps):", block)]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


KEY = SigningKey("EdDSA", "")


@pytest.fixture(scope="module")
def provider(authority: Authority) -> Iterator[Provider]:
    with Provider(authority, [key_client("key-EdDSA", KEY)]) as started:
        yield started


@pytest.fixture(scope="module")
def other(authority: Authority) -> Iterator[Provider]:
    with Provider(authority, [client("more")]) as started:
        yield started


def filled(text: str, provider: Provider, other: Provider, directory: Path) -> str:
    """The page's names replaced with those of what runs here."""
    (directory / "client.secret").write_text(SECRET + "\n")
    (directory / "client.pem").write_text(KEY.pem())
    for name, here in (
        ("https://auth.example.com", provider.issuer),
        ("https://login.example.net", other.issuer),
        ("/etc/pfxhttp", str(directory)),
    ):
        text = text.replace(name, here)
    return text


def log_in(site: Logins, token: str) -> str:
    with site.client("submission") as connected:
        line = connected.auth("OAUTHBEARER", MESSAGES["OAUTHBEARER"](ANN, token))
        return connected.cont("\x01") if line.startswith("CONT") else line


@pytest.mark.parametrize(
    "title", ["With the keys of the provider", "By introspection", "At the userinfo endpoint", "Several providers"]
)
def test_logins(title: str, provider: Provider, other: Provider, authority: Authority, tmp_path: Path):
    (written,) = configurations(title)
    entries = yaml.safe_load(filled(yaml.safe_dump(written), provider, other, tmp_path))["dovecot_sasl"]
    jwt, opaque = provider.token(ANN, MAIL), provider.token(ANN)
    foreign, elsewhere = provider.token(ANN, "https://files.example.com"), other.token(ANN)
    expected = {
        "With the keys of the provider": (True, False, False, False),
        "By introspection": (None, True, None, False),
        "At the userinfo endpoint": (False, True, False, False),
        "Several providers": (True, False, False, True),
    }[title]
    with Logins(entries, tls={"enabled": True, "root_ca": authority.certificate}) as site:
        for token, good in zip((jwt, opaque, foreign, elsewhere), expected):
            if good is not None:  # oidc-provider introspects no JWT
                assert log_in(site, token).startswith("OK" if good else "FAIL"), token


def test_tokens_for_an_api(provider: Provider, other: Provider, authority: Authority, tmp_path: Path):
    found = configurations("Tokens for an API")
    assert len(found) == 2
    with Backend() as api:
        api.answer("/domains", json={"result": "found"})
        for written in found:
            maps = yaml.safe_load(filled(yaml.safe_dump(written), provider, other, tmp_path))["socket_maps"]
            maps["domains"]["target"] = api.url("/domains")
            with Site(maps, tls={"enabled": True, "root_ca": authority.certificate}) as site:
                assert site.ask("domains", "example.com") == "OK found"
        for request in api.requests():
            assert provider.is_active((request.header("authorization") or "").removeprefix("Bearer "))


def test_the_way_to_make_a_key(tmp_path: Path):
    make, show = re.findall(r"`(openssl [^`]*)`", TEXT)
    for command in (make, show):
        done = subprocess.run(command.split(), cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert "BEGIN PUBLIC KEY" in done.stdout
    (written,) = [each for each in configurations("Tokens for an API") if "private_key_file" in yaml.safe_dump(each)]
    written["socket_maps"]["domains"]["backend_oidc_auth"]["private_key_file"] = str(tmp_path / "client.pem")
    checked(written, tmp_path)


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """With a listener."""
    kind, name = ("socket_map", "domains") if "socket_maps" in document else ("dovecot_sasl", "submission")
    return {"server": {"listen": [{"kind": kind, "name": name, "port": 23450}]}, **document}


def checked(document: dict[str, Any], directory: Path) -> None:
    """Has `check` find nothing wrong."""
    (directory / "client.secret").write_text(SECRET)
    path = directory / "pfxhttp.yml"
    path.write_text(yaml.safe_dump(complete(document)).replace("/etc/pfxhttp", str(directory)))
    done = daemon.run("--config", str(path), "check")
    assert (done.returncode, done.stderr) == (0, "")


PRODUCTS = ("Keycloak", "Nauthilus", "Authentik", "Microsoft Entra ID", "Google", "Zitadel")


@pytest.mark.parametrize("product", PRODUCTS)
def test_the_configuration_for_a_product_is_valid(product: str, tmp_path: Path):
    (written,) = configurations(product)
    checked(written, tmp_path)
    assert f"| {product} |" in TEXT


SIGNING = SigningKey("RS256", "k")
NOW = int(time.time())
TENANT, CLIENT = "72f988bf-86f1-41af-91ab-2d7cd011db47", "6e74172b-be56-4843-9ff4-e66a39bb12e3"


def of_page(product: str, provider: ScriptedProvider, tmp_path: Path) -> SaslOidc:
    """The page's settings, with the scripted provider in the product's place, under the path of the product's issuer."""
    (tmp_path / "client.secret").write_text(SECRET)
    (written,) = configurations(product)
    text = yaml.safe_dump(complete(written)).replace("/etc/pfxhttp", str(tmp_path))
    entry = load_text(text, str(tmp_path / "f"), "yaml", {}).settings.entries["dovecot_sasl"]["submission"]
    found = entry.sasl_oidc
    path = urlsplit(found.configuration_uri).path
    slash = "/" if product == "Authentik" else ""
    provider.issuer = provider.url(path.removesuffix("/.well-known/openid-configuration")) + slash
    provider.answer(path, json=provider.discovery())
    tokeninfo = provider.url("/tokeninfo") if found.tokeninfo_url else ""
    return dataclasses.replace(found, configuration_uri=provider.url(path), tokeninfo_url=tokeninfo)


@pytest.fixture
def imitation() -> Iterator[ScriptedProvider]:
    jwk = SIGNING.public_jwk(
        alg=None, x5t="thumbprint", x5c=["certificate"]
    )  # as Entra's keys, which name no algorithm
    encryption = SigningKey("RS256", "enc", number=1).public_jwk(use="enc", alg="RSA-OAEP")  # as Keycloak's second one
    with ScriptedProvider({"keys": [encryption, jwk]}) as started:
        yield started


def jwt_of(product: str, issuer: str) -> dict[str, Any]:
    """The claims of an access token as the product's documentation shows them."""
    base: dict[str, Any] = {"iss": issuer, "iat": NOW, "exp": NOW + 300}
    return {
        "Keycloak": {
            **base, "jti": "onrtac:1", "aud": ["mail", "account"], "sub": "5fd9c8a2-3a0d-4f5c-9f0e-6f1f6fd3d7c4",
            "typ": "Bearer", "azp": "thunderbird", "sid": "s", "acr": "1", "auth_time": NOW, "scope": "openid email profile",
            "realm_access": {"roles": ["offline_access"]}, "email_verified": True, "preferred_username": ANN, "email": ANN,
        },
        "Nauthilus": {
            **base, "sub": ANN, "aud": "roundcube", "scope": "openid profile email", "token_type": "access_token",
        },
        "Authentik": {
            **base, "sub": "8a2f2c4f", "aud": "client-id-of-the-mail-client", "auth_time": NOW, "acr": "goauthentik.io/x",
            "azp": "client-id-of-the-mail-client", "uid": "u", "email": ANN, "email_verified": True,
            "scope": "openid email",
        },
        "Microsoft Entra ID": {
            **base, "aud": CLIENT, "nbf": NOW, "azp": "thunderbird", "azpacr": "0", "oid": "o", "name": "Ann", "rh": "r",
            "preferred_username": ANN, "scp": "Mail.Send openid", "sub": "AAAA", "tid": TENANT, "uti": "u", "ver": "2.0",
        },
    }[product]  # fmt: skip


WRONG: dict[str, list[dict[str, Any]]] = {
    "Keycloak": [{"aud": "account"}, {"typ": "ID"}, {"aud": None}],
    "Nauthilus": [
        {"aud": "nauthilus:backchannel"},
        {"token_type": None, "scope": None, "auth_time": NOW},
        {"aud": "another"},
    ],
    "Authentik": [{"aud": "client-id-of-another"}, {"email_verified": False}, {"email": None}],
    "Microsoft Entra ID": [
        {"tid": "another-tenant"},
        {"scp": "openid"},
        {"aud": "00000003-0000-0000-c000-000000000000"},
    ],
}


@pytest.mark.parametrize("product", WRONG)
def test_a_product_with_jwts(product: str, imitation: ScriptedProvider, tmp_path: Path):
    settings = of_page(product, imitation, tmp_path)
    login = Worker().login(settings)
    claims = jwt_of(product, imitation.issuer)
    assert login.account(SIGNING.sign(claims), ANN, {}, soon()) == ANN
    for changes in WRONG[product]:
        changed = {name: value for name, value in {**claims, **changes}.items() if value is not None}
        with pytest.raises(TokenRefused):
            login.account(SIGNING.sign(changed), ANN, {}, soon())


def test_entra_of_version_1(imitation: ScriptedProvider, tmp_path: Path):
    settings = dataclasses.replace(of_page("Microsoft Entra ID", imitation, tmp_path), account_claim="upn")
    claims = {
        **jwt_of("Microsoft Entra ID", f"https://sts.windows.net/{TENANT}/"), "aud": "api://mail.example.com", "upn": ANN,
        "ver": "1.0",
    }  # fmt: skip
    login = Worker().login(settings)
    assert login.account(SIGNING.sign(claims), ANN, {}, soon()) == ANN
    other = {**claims, "iss": "https://sts.windows.net/another/", "tid": "another"}
    with pytest.raises(TokenRefused, match="required claim"):
        login.account(SIGNING.sign(other), ANN, {}, soon())


def test_google(imitation: ScriptedProvider, tmp_path: Path):
    settings = of_page("Google", imitation, tmp_path)
    good = {
        "azp": "1234567890-mail.apps.googleusercontent.com", "aud": "1234567890-mail.apps.googleusercontent.com",
        "sub": "110169484474386276334", "scope": "https://www.googleapis.com/auth/userinfo.email openid",
        "exp": str(NOW + 3600), "expires_in": "3599", "email": ANN, "email_verified": "true", "access_type": "offline",
    }  # fmt: skip
    login = Worker().login(settings)
    imitation.answer("/tokeninfo", json=good)
    assert login.account("ya29.a0Af_opaque", ANN, {}, soon()) == ANN
    for answer in (
        Answer(json={**good, "aud": "another"}),
        Answer(json={**good, "email_verified": "false"}),
        Answer(400, json={"error": "invalid_token", "error_description": "Invalid Value"}),
    ):
        imitation.answer("/tokeninfo", answer)
        with pytest.raises(TokenRefused):
            login.account("ya29.a0Af_opaque", ANN, {}, soon())


def test_zitadel(imitation: ScriptedProvider, tmp_path: Path):
    settings = of_page("Zitadel", imitation, tmp_path)
    good = {
        "scope": "openid profile email", "client_id": "258923847239811@mail", "token_type": "Bearer", "exp": NOW + 300,
        "iat": NOW, "nbf": NOW, "sub": "258923847239812", "aud": ["258923847239811@mail", "258923847239800"],
        "iss": imitation.issuer, "jti": "V2_1", "username": ANN, "name": "Ann", "preferred_username": ANN,
    }  # fmt: skip
    login = Worker().login(settings)
    imitation.active(**good)
    assert login.account("opaque-of-zitadel", ANN, {}, soon()) == ANN
    (request,) = imitation.requests("/introspect")
    assert (request.header("authorization") or "").startswith("Basic ") and b"client_id" not in request.body
    for answer in (Answer(json={"active": False}), Answer(json={**good, "active": True, "aud": ["another"]})):
        imitation.active(answer)
        with pytest.raises(TokenRefused):
            login.account("opaque-of-zitadel", ANN, {}, soon())
    imitation.answer("/userinfo", json={"sub": "258923847239812", "email": ANN, "email_verified": True})
    settings = dataclasses.replace(settings, validation="userinfo", account_claim="email", audience=())
    assert Worker().login(settings).account("opaque-of-zitadel", ANN, {}, soon()) == ANN


def test_every_quoted_reason_is_one(tmp_path: Path):
    """The reasons in the page's last table are in the source."""
    source = "".join(path.read_text() for path in (daemon.TREE / "pfxhttpd").rglob("*.py"))
    rows = re.findall(r"^\| `([^`]*)` \|", TEXT.partition("## When it does not work")[2], re.MULTILINE)
    assert len(rows) > 5
    for reason in rows:
        stem = re.split(r"introspection answered |: status", reason)[0] or "answered with status code"
        assert stem in source, reason


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert target.startswith("https:") or (PAGE.parent / target).exists(), target

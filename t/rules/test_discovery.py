"""What a provider says of itself: believed as far as it is what its URL stands for, and not less secure."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pfxhttpd.rules.discovery import check_issuer, likely_issuers, parse_discovery
from pfxhttpd.rules.response import BackendError

URI = "https://p.example.test/realms/a/.well-known/openid-configuration"
ISSUER = "https://p.example.test/realms/a"


def body(**changes: Any) -> bytes:
    document = {
        "issuer": ISSUER,
        "token_endpoint": "https://p.example.test/token",
        "scopes_supported": ["x"],
        **changes,
    }
    return json.dumps(document).encode()


def test_a_document():
    found = parse_discovery(body(jwks_uri="https://keys.example.test:8443/k?x=y", userinfo_endpoint=None), URI)
    assert found == (ISSUER, "https://p.example.test/token", "", "", "https://keys.example.test:8443/k?x=y")


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://p.example.test/token", "ftp://p.example.test/", "/token", "https://", "https:///token", "javascript:1",
        "https://user:password@p.example.test/", "https://p.example.test/a b", "https://p.example.test/\r\nX: y",
        "https://p.example.test:0/", "https://p.example.test:99999/", "https://[::1/", "https://\u00fc.example.test/", 7,
        ["https://p.example.test/"], {"a": 1}, True, "https://p.example.test/" + "x" * 3000,
    ],
)  # fmt: skip
def test_an_endpoint_that_is_none(endpoint: Any):
    for name in ("token_endpoint", "introspection_endpoint", "userinfo_endpoint", "jwks_uri"):
        with pytest.raises(BackendError, match=f"the provider's {name} is n"):
            parse_discovery(body(**{name: endpoint}), URI)


def test_plain_http_leads_to_plain_http_only_from_itself():
    plain = body(token_endpoint="http://p.example.test/token")
    assert parse_discovery(plain, URI.replace("https", "http")).token_endpoint == "http://p.example.test/token"


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"<html>", b'{"issuer": ""}', b'{"issuer": 1}', b"{}", b'{"issuer": "a", "issuer": "b"}']
)
def test_a_document_that_is_none(text: bytes):
    with pytest.raises(BackendError):
        parse_discovery(text, URI)


@pytest.mark.parametrize(
    ("uri", "issuer", "accepted", "good"),
    [
        (URI, ISSUER, (), True), (URI, ISSUER + "/", (), True), (URI, ISSUER + "//", (), False),
        (URI, "https://p.example.test/realms/b", (), False), (URI, "https://P.example.test/realms/a", (), False),
        (URI, "https://other", ("https://other",), True), (URI, "https://other", ("https://another",), False),
        ("https://q/.well-known/oauth-authorization-server", "https://q", (), True),
        ("https://q/config.json", "https://anything", (), True),
    ],
)  # fmt: skip
def test_whose_document_it_is(uri: str, issuer: str, accepted: tuple[str, ...], good: bool):
    found = parse_discovery(body(issuer=issuer), uri)
    if good:
        check_issuer(found, uri, accepted)
    else:
        with pytest.raises(BackendError, match="another issuer"):
            check_issuer(found, uri, accepted)


def test_likely_issuers():
    assert likely_issuers(URI) == (ISSUER, ISSUER + "/")
    assert likely_issuers("https://q/config.json") == ()
    assert likely_issuers("https://q/a/.well-known/openid-configuration?p=policy") == ("https://q/a", "https://q/a/")

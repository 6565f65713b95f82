"""What we send to a provider's endpoints to say who we are."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import parse_qsl

import pytest

from pfxhttpd.config.settings import BackendOidc, SaslOidc
from pfxhttpd.rules.client_authentication import (
    assertion_claims,
    bearer_token,
    client_request,
    introspection_form,
    token_form,
)
from pfxhttpd.rules.discovery import Discovery
from pfxhttpd.rules.response import BackendError, BackendResponse

PROVIDER = Discovery("https://p", "https://p/token", "https://p/introspect", "", "")
ODD = "a b:c+d%e&f=g\u00fc"


def client(method: str, **more: Any) -> BackendOidc:
    return BackendOidc(client_id="us", client_secret="secret", auth_method=method, **more)


def test_basic_names_us_nowhere_else():
    """Nauthilus refuses a request that names the client twice (RFC 6749 section 2.3)."""
    request = client_request(client("client_secret_basic"), {"token": "t", "client_id": "of the mail client"}, "")
    assert request.headers == {"Authorization": "Basic " + base64.b64encode(b"us:secret").decode()}
    assert request.body == b"token=t"


def test_basic_encodes_both_parts():
    """RFC 6749 section 2.3.1: application/x-www-form-urlencoded, and then base64."""
    request = client_request(BackendOidc(client_id=ODD, client_secret=ODD, auth_method="client_secret_basic"), {}, "")
    decoded = base64.b64decode(request.headers["Authorization"].removeprefix("Basic ")).decode()
    encoded = "a+b%3Ac%2Bd%25e%26f%3Dg%C3%BC"
    assert decoded == f"{encoded}:{encoded}"


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("client_secret_post", {"client_id": "us", "client_secret": "secret"}),
        (
            "private_key_jwt",
            {
                "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                "client_assertion": "signed",
            },
        ),
        ("none", {"client_id": "us"}),
    ],
)
def test_the_other_methods(method: str, expected: dict[str, str]):
    theirs = {"client_id": "theirs", "client_secret": "theirs", "client_assertion": "theirs", "token": ODD}
    request = client_request(client(method), theirs, "signed")
    assert request.headers == {}
    assert dict(parse_qsl(request.body.decode(), strict_parsing=True)) == {"token": ODD, **expected}


def test_nobody_names_himself_nothing():
    assert client_request(SaslOidc(), {"token": "t"}, "").body == b"token=t"


@pytest.mark.parametrize(
    ("chosen", "audience"),
    [("endpoint", "https://p/introspect"), ("issuer", "https://p"), ("https://other/", "https://other/")],
)
def test_an_assertion(chosen: str, audience: str):
    claims = assertion_claims(client("", assertion_audience=chosen), PROVIDER, "https://p/introspect", "id", 1000.9)
    assert claims == {"iss": "us", "sub": "us", "aud": audience, "jti": "id", "iat": 1000, "exp": 1060}


def test_forms():
    assert token_form(client("")) == {"grant_type": "client_credentials"}
    assert token_form(client("", scopes=("a", "b"))) == {"grant_type": "client_credentials", "scope": "a b"}
    context = {"protocol": "smtp", "token": "theirs", "token_type_hint": "theirs"}
    assert introspection_form(SaslOidc(scopes=("a", "b")), "t", context) == {
        "protocol": "smtp", "token": "t", "token_type_hint": "access_token", "scope": "a b",
    }  # fmt: skip


def answered(body: bytes, status: int = 200) -> BackendResponse:
    return BackendResponse(status, {}, body)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"<html>", b"[]", b"{}", b'{"access_token": ""}', b'{"access_token": 1}', b'{"access_token": "a b"}',
        b'{"access_token": "a\\r\\nX: y"}', b'{"access_token": "\\u00fc"}', b'{"access_token": "a", "token_type": "mac"}',
        b'{"access_token": "a", "token_type": null}', b'{"access_token": "a", "access_token": "b"}',
        b'{"access_token": "' + b"x" * 20_000 + b'"}', b'{"x": "' + b"x" * 300_000 + b'"}',
    ],
)  # fmt: skip
def test_no_token(body: bytes):
    with pytest.raises(BackendError) as caught:
        bearer_token(answered(body))
    assert len(caught.value.reason) < 100 and caught.value.reason.isprintable()


def test_an_error_tells_no_more_than_a_known_code():
    for body, told in (
        (b'{"error": "invalid_client", "error_description": "secret"}', ", invalid_client"),
        (b'{"error": "secret"}', ""), (b'{"error": ["invalid_client"]}', ""), (b"secret", ""), (b"", ""),
    ):  # fmt: skip
        with pytest.raises(BackendError) as caught:
            bearer_token(answered(body, 400))
        assert caught.value.reason == f"the provider gives no token: status code 400{told}"
        assert caught.value.status == 400

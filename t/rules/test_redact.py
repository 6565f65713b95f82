"""Secrets in texts are redacted whatever surrounds them, ordinary texts are not changed, and the names of secrets are known."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pfxhttpd.rules.redact import REDACTED, Redactor, is_secret_name

SECRET = "Zq7secretless0Xw"

SHAPES = [
    "Authorization: Bearer {}",
    "authorization: {}",
    "Authorization: Bearer short and then {}",
    "Proxy-Authorization: Custom a b {}",
    "Cookie: a=b; session={}",
    "('Authorization', 'Bearer {}')",
    "{{'Authorization': 'Token {}'}}",
    "Bearer {}",
    "nBearer {}",
    "BEARER  {}",
    "Basic {}",
    "Bearer%20{}",
    "https://user:{}@host.example/path",
    "socks5h://{}@host",
    "http://user:{}#?@host",
    'proxy "http://us%20er:{}@[::1]:3128"',
    "password={}",
    "user=a&password={}&x=1",
    "client_secret={}",
    "new_password2 = {}",
    "passwordConfirmation={}",
    "PASSWD: {}",
    "password%3D{}",
    "%22password%22%3A%22{}%22",
    '{{"password":"{}"}}',
    '{{"password" : "with \\" quote {}"}}',
    '{{\\"password\\": \\"{}\\"}}',
    "{{'secret': 'it\\'s {}'}}",
    "<password>{}</password>",
    "access_token={}&token_type=x",
    '{{"access_token": "{}", "expires_in": 3}}',
    '{{"id_token":"{}',
    "X-Auth-Token: {}",
    "X-Api-Key: {}",
    "api_key={}",
    "?code={}&state=1",
    "AUTH\t1\tPLAIN\tservice=smtp\tresp={}",
    "b'AUTH\\t1\\tPLAIN\\tresp={}'",
    "client_assertion={}",
    "eyJhbGciOi{}.eyJzdWIi.sig",
    "dXNlcj1hQGIBYXV0aD1CZWFyZXIg{}",
    "-----BEGIN PRIVATE KEY-----\nMIIE{}\n-----END PRIVATE KEY-----",
    "-----BEGIN RSA PRIVATE KEY-----\\nMIIE{}\\nmore",
]

SHORT_OR_FIRST = ["code={}", "http://user:sl/ash{}@host:8080/", "http://user:12345{}/6@host"]

around = st.text(max_size=40) | st.sampled_from(
    ["", " ", '"', "'", "\\", "://", "eyJ", "@", "%", "=", ":", "\n", "password=", "Bearer ", '{"', "}", "é" * 30]
)


@pytest.mark.parametrize("shape", SHAPES + SHORT_OR_FIRST)
def test_a_secret_of_each_shape_is_redacted(shape: str) -> None:
    text = shape.format(SECRET)
    clean, cut = Redactor().redact(text, 1000)
    assert SECRET not in clean and REDACTED in clean and cut == 0


@pytest.mark.parametrize("shape", SHAPES)
@settings(deadline=None)
@given(before=around, after=around)
def test_no_text_before_or_after_a_secret_hides_it(shape: str, before: str, after: str) -> None:
    clean, _ = Redactor().redact(before + shape.format(SECRET) + " " + after, 1000)
    assert SECRET not in clean


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("visible", [1, 4, 12, 30])
def test_no_part_of_a_secret_at_the_limit_is_shown(shape: str, visible: int) -> None:
    secret = "0123456789abcdef" * 400
    before = "x" * (1000 - shape.index("{}") - visible) + " "
    clean, _ = Redactor().redact(before + shape.format(secret), 1000)
    assert "0123456" not in clean


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a1b2c3d4e5f67890",
        "127.0.0.1:12345",
        "user@example.com",
        "New connection established",
        "Cannot get an OIDC token: connection refused",
        "token: expired",
        "the password is wrong",
        "https://api.example.com:8443/lookup?key=user@example.com",
        "http://[::1]:8080/x@y",
        "http://host:8080",
        'Bearer realm="mail", error="invalid_token"',
        "Basic authentication failed",
        "exit code=1",
        "/etc/pfxhttp/api.key",
        '{"key":"user@example.com","result":"OK"}',
        "sender=a@b recipient=c@d",
        "-----",
    ],
)
def test_ordinary_text_is_not_changed(text: str) -> None:
    assert Redactor().redact(text, 1000) == (text, 0)


def test_the_text_around_a_secret_is_kept() -> None:
    text = 'Post "https://me:pw@host:1/x?a=1&token=abc&b=2": refused'
    assert Redactor().redact(text, 1000)[0] == (f'Post "https://{REDACTED}@host:1/x?a=1&token={REDACTED}&b=2": refused')


def test_literals_are_redacted_without_any_shape() -> None:
    redactor = Redactor(["hunter2hunter2", "hunter2", "", "abc"])
    assert redactor.redact("said hunter2hunter2, hunter2!", 1000)[0] == f"said {REDACTED}, {REDACTED}!"
    assert redactor.redact("hunter2", 1000)[0] == REDACTED
    assert redactor.redact("abc", 1000)[0] == "abc", "too short, it could be part of ordinary words"


def test_a_long_text_is_cut_and_the_characters_cut_off_are_counted() -> None:
    assert Redactor().redact("a b" * 1000, 1000) == (("a b" * 1000)[:1000], 2000)


@settings(deadline=None)
@given(st.text(max_size=3000))
def test_the_shown_part_and_the_count_add_up_to_the_text(text: str) -> None:
    clean, cut = Redactor().redact(text, 100)
    if REDACTED not in clean:
        assert clean == text[:100] and cut == max(0, len(text) - 100)


@pytest.mark.parametrize(
    "hostile",
    [
        "://a:" * 20000,
        "://" + ":" * 100000,
        "password" * 10000,
        "eyJ" * 30000,
        "token=" * 20000,
        "bearer " * 20000,
        "-----BEGIN " * 10000,
        "password" + " " * 100000,
        "password" + "\\" * 100000,
        '"password":"' * 10000,
        "Bearer" + " " * 100000,
        "authorization:" * 10000,
        "@" * 100000,
        "secret" * 600 + "='" * 100,
    ],
)
def test_hostile_texts_take_little_time(hostile: str) -> None:
    started = time.process_time()
    Redactor().redact(hostile, 1000)
    assert time.process_time() - started < 0.1


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "Password",
        "passwd",
        "user_password",
        "client_secret",
        "clientSecret",
        "secret",
        "token",
        "access_token",
        "id-token",
        "Authorization",
        "authorization",
        "http_auth_header",
        "cookie",
        "Set-Cookie",
        "private_key",
        "api_key",
        "resp",
        "auth",
        "assertion",
        "client_assertion",
        "passphrase",
        "key_material",
        "credentials",
        "pwd",
        "pass",
        "jwt",
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)
    assert is_secret_name(name, strict=True)


@pytest.mark.parametrize(
    "name",
    [
        "key",
        "session",
        "sub_session",
        "client",
        "user",
        "map",
        "msg",
        "level",
        "token_endpoint",
        "token_type",
        "private_key_file",
        "auth_method",
        "authenticated",
        "passed",
        "response",
        "author",
        "reason",
        "listener",
        "secret_count",
        "state",
        "target",
        "status",
        "sender",
    ],
)
def test_other_names(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    ["key", "KEY", "X-Api-Key", "X-Key-Id", "sig", "signed", "X-Signature", "session_id", "X-Auth-Url", "token_type",
     "creds", "X-Passport", "myjwt", "X-Pwd", "private_key_file", "author"],
)  # fmt: skip
def test_more_names_are_secret_in_headers_and_query_parameters(name: str) -> None:
    assert is_secret_name(name, strict=True)


@pytest.mark.parametrize(
    "name", ["X-Pfx-Name", "Content-Type", "map", "User-Agent", "response", "state", "user", "pems"]
)
def test_other_names_of_headers_and_query_parameters(name: str) -> None:
    assert not is_secret_name(name, strict=True)

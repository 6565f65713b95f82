"""The SASL mechanisms: messages that are credentials, and messages that are refused."""

from __future__ import annotations

import json

import pytest

from pfxhttpd.wire import mechanisms
from pfxhttpd.wire.mechanisms import (
    USER_LIMIT,
    BadMessage,
    Credentials,
    oauthbearer_challenge,
    parse_login,
    parse_oauthbearer,
    parse_plain,
    parse_xoauth2,
    xoauth2_challenge,
)

SECRET = "s3cr3t-marker"


@pytest.mark.parametrize(
    ("message", "credentials"),
    [
        (b"\0user\0pass", Credentials("user", "pass")),
        (b"user\0user\0pass", Credentials("user", "pass")),
        ("\0jürgen\0pä ß".encode(), Credentials("jürgen", "pä ß")),
        (b"\0a\tb\n\x01\0p\tq\n", Credentials("a\tb\n\x01", "p\tq\n")),
        (b"\0" + b"u" * USER_LIMIT + b"\0" + b"p" * 40000, Credentials("u" * USER_LIMIT, "p" * 40000)),
    ],
)
def test_plain(message, credentials) -> None:
    assert parse_plain(message) == credentials


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"user",
        b"\0user",
        b"user\0pass",
        b"\0\0pass",
        b"\0user\0",
        b"\0\0",
        b"\0user\0pass\0",
        b"\0user\0pass\0x",
        b"\0us\xffer\0pass",
        b"\0user\0pa\xffss",
        b"other\0user\0pass",
        b"User\0user\0pass",
        b"user \0user\0pass",
        b"\xff\0user\0pass",
        b"\0" + b"u" * (USER_LIMIT + 1) + b"\0p",
    ],
)
def test_plain_refuses(message) -> None:
    with pytest.raises(BadMessage):
        parse_plain(message)


def test_login() -> None:
    assert parse_login(b"user", b"pass") == Credentials("user", "pass")


@pytest.mark.parametrize(
    ("user", "secret"),
    [
        (b"", b"p"),
        (b"u", b""),
        (b"\xff", b"p"),
        (b"u", b"\xff"),
        (b"u\0x", b"p"),
        (b"u", b"p\0x"),
        (b"u" * (USER_LIMIT + 1), b"p"),
    ],
)
def test_login_refuses(user, secret) -> None:
    with pytest.raises(BadMessage):
        parse_login(user, secret)


@pytest.mark.parametrize(
    ("message", "user", "token"),
    [
        (b"user=a@b.c\x01auth=Bearer tok\x01\x01", "a@b.c", "tok"),
        (b"auth=Bearer tok\x01user=a@b.c\x01\x01", "a@b.c", "tok"),
        (b"user=a=b\x01auth=bearer tok==\x01\x01", "a=b", "tok=="),
        ("user=ü\x01auth=BEARER x.y-z~_+/\x01\x01".encode(), "ü", "x.y-z~_+/"),
        (b"user=a\x01auth=Bearer " + b"t" * 40000 + b"\x01\x01", "a", "t" * 40000),
    ],
)
def test_xoauth2(message, user, token) -> None:
    assert parse_xoauth2(message) == Credentials(user, token)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x01",
        b"\x01\x01",
        b"user=a\x01auth=Bearer tok\x01",
        b"user=a\x01auth=Bearer tok",
        b"auth=Bearer tok\x01\x01",
        b"user=\x01auth=Bearer tok\x01\x01",
        b"user=a\x01\x01",
        b"user=a\x01auth=Bearer \x01\x01",
        b"user=a\x01auth=Bearer\x01\x01",
        b"user=a\x01auth=Basic tok\x01\x01",
        b"user=a\x01auth=Bearer a b\x01\x01",
        b"user=a\x01user=b\x01auth=Bearer tok\x01\x01",
        b"user=a\x01auth=Bearer x\x01auth=Bearer y\x01\x01",
        b"user=a\x01junk\x01auth=Bearer x\x01\x01",
        b"user=\xff\x01auth=Bearer x\x01\x01",
        b"user=a\x01auth=Bearer t\xc3\xbck\x01\x01",
        b"user=a\x00b\x01auth=Bearer x\x01\x01",
        b"user=a\x01auth=Bearer t\tk\x01\x01",
        b"user=" + b"a" * (USER_LIMIT + 1) + b"\x01auth=Bearer x\x01\x01",
        b"user=a\x01auth=Bearer tok\x01\x01x",
    ],
)
def test_xoauth2_refuses(message) -> None:
    with pytest.raises(BadMessage):
        parse_xoauth2(message)


@pytest.mark.parametrize(
    ("message", "user", "token"),
    [
        (
            b"n,a=user@example.com,\x01host=server.example.com\x01port=143\x01auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\x01\x01",
            "user@example.com",
            "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==",
        ),  # RFC 7628, 4.1
        (b"n,,\x01auth=Bearer tok\x01\x01", "", "tok"),
        (b"y,a=u,\x01auth=Bearer tok\x01\x01", "u", "tok"),
        (b"n,a=a=2Cb=3Dc,\x01auth=Bearer tok\x01\x01", "a,b=c", "tok"),
        (b"n,a==3D2C,\x01auth=Bearer tok\x01\x01", "=2C", "tok"),
        ("n,a=jürgen,\x01unknown=\x01auth=bearer tok\x01\x01".encode(), "jürgen", "tok"),
        (b"n,a=u,\x01auth=Bearer " + b"t" * 40000 + b"\x01\x01", "u", "t" * 40000),
    ],
)
def test_oauthbearer(message, user, token) -> None:
    assert parse_oauthbearer(message) == Credentials(user, token)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x01",
        b"\x01\x01",
        b"n,,",
        b"n,,\x01",
        b"n,,\x01\x01",
        b"n,\x01auth=Bearer t\x01\x01",
        b"n\x01auth=Bearer t\x01\x01",
        b",,\x01auth=Bearer t\x01\x01",
        b"n,a=u\x01auth=Bearer t\x01\x01",
        b"n,a=,\x01auth=Bearer t\x01\x01",
        b"n,u,\x01auth=Bearer t\x01\x01",
        b"n,a=u,x\x01auth=Bearer t\x01\x01",
        b"n,a=u,,\x01auth=Bearer t\x01\x01",
        b"n,a=u=2c,\x01auth=Bearer t\x01\x01",
        b"n,a=u=,\x01auth=Bearer t\x01\x01",
        b"n,a=u\x00,\x01auth=Bearer t\x01\x01",
        b"p=tls-unique,a=u,\x01auth=Bearer t\x01\x01",
        b"p,,\x01auth=Bearer t\x01\x01",
        b"F,n,,\x01auth=Bearer t\x01\x01",
        b"N,,\x01auth=Bearer t\x01\x01",
        b"n,a=u,\x01auth=Bearer t\x01host=h\x01",
        b"n,a=u,\x01auth=Bearer t\x01",
        b"n,a=u,\x01auth=Bearer t",
        b"n,a=u,\x01auth=Bearer t\x01\x01\x01",
        b"n,a=u,\x01auth=Basic t\x01\x01",
        b"n,a=u,\x01host=h\x01\x01",
        b"n,a=u,\x01auth=Bearer a\x01auth=Bearer b\x01\x01",
        b"n,a=u,\x01ho-st=h\x01auth=Bearer b\x01\x01",
        b"n,a=u,\x01host\x01auth=Bearer b\x01\x01",
        b"n,a=u,\x01host=\x00\x01auth=Bearer b\x01\x01",
        b"n,a=u,\x01host=\xc3\xbc\x01auth=Bearer b\x01\x01",
        b"n,a=\xff,\x01auth=Bearer b\x01\x01",
        b"n,a=" + b"u" * (USER_LIMIT + 1) + b",\x01auth=Bearer b\x01\x01",
        b"user=a\x01auth=Bearer tok\x01\x01",
    ],
)
def test_oauthbearer_refuses(message) -> None:
    with pytest.raises(BadMessage):
        parse_oauthbearer(message)


def test_the_refusal_of_channel_binding_says_so() -> None:
    with pytest.raises(BadMessage, match="channel binding"):
        parse_oauthbearer(b"p=tls-exporter,a=u,\x01auth=Bearer t\x01\x01")


@pytest.mark.parametrize("read", [parse_plain, parse_xoauth2, parse_oauthbearer])
@pytest.mark.parametrize(
    "shape", [b"\0%s\0\xff", b"%s", b"n,,%s", b"user=%s\x01auth=Bearer \xff\x01\x01", b"user=%s\x01\x01"]
)
def test_a_refusal_quotes_nothing_of_the_message(read, shape) -> None:
    with pytest.raises(BadMessage) as caught:
        read(shape % SECRET.encode())
    assert SECRET not in str(caught.value) + repr(caught.value)
    assert caught.value.__cause__ is None and (caught.value.__context__ is None or caught.value.__suppress_context__)


def test_the_repr_does_not_show_the_secret() -> None:
    assert SECRET not in repr(Credentials("user", SECRET))


def test_the_challenge_is_that_of_rfc_7628() -> None:
    assert json.loads(oauthbearer_challenge("invalid_token")) == {"status": "invalid_token", "schemes": "bearer"}
    assert json.loads(
        oauthbearer_challenge("invalid_token", 'mail "x"', "https://op/.well-known/openid-configuration")
    ) == {
        "status": "invalid_token",
        "schemes": "bearer",
        "scope": 'mail "x"',
        "openid-configuration": "https://op/.well-known/openid-configuration",
    }


def test_the_challenge_of_xoauth2_has_the_status_codes_of_http() -> None:
    expected = {"invalid_request": "400", "invalid_token": "401", "insufficient_scope": "401"}
    for error, status in expected.items():
        assert json.loads(xoauth2_challenge(error, "mail send", "https://op/x")) == {
            "status": status,
            "schemes": "bearer",
            "scope": "mail send",
        }
    assert json.loads(xoauth2_challenge("invalid_token"))["scope"] == ""


def test_the_table_of_mechanisms() -> None:
    assert [row.name for row in mechanisms.PASSWORD_MECHANISMS + mechanisms.TOKEN_MECHANISMS] == [
        "PLAIN",
        "LOGIN",
        "XOAUTH2",
        "OAUTHBEARER",
    ]
    assert [
        [step.prompt for step in row.steps] for row in mechanisms.PASSWORD_MECHANISMS + mechanisms.TOKEN_MECHANISMS
    ] == [
        [b""],
        [b"Username:", b"Password:"],
        [b""],
        [b""],
    ]
    assert [row.token for row in mechanisms.PASSWORD_MECHANISMS + mechanisms.TOKEN_MECHANISMS] == [
        False,
        False,
        True,
        True,
    ]

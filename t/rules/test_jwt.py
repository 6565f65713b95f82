"""The form of a JWT: bounds that hold before anything else is looked at."""

from __future__ import annotations

import pytest
from kit.oidc.keys import b64

from pfxhttpd.rules.jwt import MAX_KEY_ID, MAX_TOKEN, TokenRefused, looks_like_jwt, read_jwt, unverified_issuer


def token(header: bytes, claims: bytes = b'{"iss": "https://p"}') -> str:
    return f"{b64(header)}.{b64(claims)}.{b64(b'signature')}"


def test_its_parts():
    whole = token(b'{"alg": "RS256", "kid": "k"}')
    jwt = read_jwt(whole)
    assert (jwt.algorithm, jwt.key_id, jwt.claims, jwt.signature) == ("RS256", "k", {"iss": "https://p"}, b"signature")
    assert jwt.signed.decode() == whole.rpartition(".")[0]
    assert unverified_issuer(whole) == "https://p"


def test_a_kid_is_bounded():
    for length, good in ((MAX_KEY_ID, True), (MAX_KEY_ID + 1, False)):
        whole = token(b'{"alg": "RS256", "kid": "%s"}' % (b"k" * length))
        if good:
            assert len(read_jwt(whole).key_id) == length
        else:
            with pytest.raises(TokenRefused, match="no usable kid"):
                read_jwt(whole)


def test_a_token_is_bounded():
    empty = len(token(b'{"alg": "RS256"}', b""))
    fitting = token(b'{"alg": "RS256"}', b'{"x": "%s"}' % (b"x" * ((MAX_TOKEN - empty) * 3 // 4 - 9)))
    assert MAX_TOKEN - 4 <= len(fitting) <= MAX_TOKEN
    assert read_jwt(fitting).claims
    with pytest.raises(TokenRefused, match="too long"):
        read_jwt(fitting + "A" * 5)
    assert looks_like_jwt(fitting) and not looks_like_jwt(fitting + "A" * 5)


@pytest.mark.parametrize(
    ("text", "like"),
    [
        (token(b'{"alg": "none"}'), True), (token(b'{"alg": 1}', b"junk"), True), (token(b'{"typ": "JWT"}'), False),
        (token(b"[]"), False), ("opaque", False), ("a.b.c", False), ("", False), ("..", False),
        (token(b'{"alg": "dir"}') + ".x.y", False),
    ],
)  # fmt: skip
def test_what_presents_itself_as_a_jwt(text: str, like: bool):
    assert looks_like_jwt(text) is like


def test_an_issuer_that_is_none():
    for claims in (b"{}", b'{"iss": 1}', b"junk"):
        assert unverified_issuer(token(b'{"alg": "RS256"}', claims)) == ""

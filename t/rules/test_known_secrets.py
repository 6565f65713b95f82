"""Secrets that are known by value are removed in whatever form a backend repeats them, and nothing else is changed."""

from __future__ import annotations

import base64
import json
import re
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfxhttpd.config.settings import SOCKET_MAP, BackendOidc, Entry, HttpClient, SaslOidc, Server, Settings
from pfxhttpd.rules.known_secrets import configured_secrets, secret_forms, without_secrets
from pfxhttpd.rules.redact import REDACTED

SECRETS = ("correct horse/battery+staple", "pässwörd€?x", 'say "no" \\ twice', " blanks around ", "sesame", "12345678")


def clean(text: str, *secrets: str) -> str:
    return without_secrets(text, secret_forms(secrets))


def encoded(secret: str, before: str = "", behind: str = "") -> str:
    return base64.b64encode(f"{before}{secret}{behind}".encode()).decode()


def forms(secret: str) -> list[str]:
    """The ways in which a backend may write it."""
    return [
        secret,
        json.dumps(secret),
        json.dumps(secret, ensure_ascii=False),
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
        re.sub("%..", lambda escape: escape[0].lower(), quote(secret, safe="")),
        encoded(secret),
        encoded(secret).rstrip("="),
        base64.urlsafe_b64encode(secret.encode()).decode(),
    ]


@pytest.mark.parametrize("secret", SECRETS)
def test_every_form_is_removed(secret: str) -> None:
    for form in forms(secret):
        cleaned = clean(f"the backend says: {form} is wrong", secret)
        assert REDACTED in cleaned and form not in cleaned, form
        assert cleaned.startswith("the backend says: ") and cleaned.endswith(" is wrong")


@pytest.mark.parametrize("secret", SECRETS)
def test_base64_of_a_text_that_contains_a_secret(secret: str) -> None:
    """Wherever it begins in the text, no three bytes of it can be read."""
    for before in ("", "u:", "us:", "user:", "\0ann\0"):
        for behind in ("", "!", "\0\0"):
            cleaned = clean(encoded(secret, before, behind), secret)
            assert REDACTED in cleaned
            for piece in cleaned.split(REDACTED):
                inner = encoded(secret)
                assert len(piece) < 2 or piece not in inner or piece in encoded(before) + encoded(behind), cleaned


def test_the_end_of_a_header_has_lost_its_blanks() -> None:
    assert clean("not with blanks around", " blanks around ") == f"not with {REDACTED}"


@pytest.mark.parametrize(
    ("secret", "text", "cleaned"),
    [
        ("in", "invalid password in use", f"invalid password {REDACTED} use"),
        ("abc1", "abc1 abc12 xabc1 (abc1)", f"{REDACTED} abc12 xabc1 ({REDACTED})"),
        ("a", "a", REDACTED),
        ("aa", "aa-aa aaa", f"{REDACTED}-{REDACTED} aaa"),
        ("été", "un été étés", f"un {REDACTED} étés"),
        ("abc", "YWJj YWJjMQ", f"{REDACTED} YWJjMQ"),
    ],
)
def test_a_short_secret_is_removed_where_it_is_a_word(secret: str, text: str, cleaned: str) -> None:
    assert clean(text, secret) == cleaned


def test_the_longest_secret_goes_first() -> None:
    assert clean("Bearer abcdef-ghijkl", "abcdef", "Bearer abcdef-ghijkl") == REDACTED


def test_no_secret_is_no_secret() -> None:
    assert clean("nothing to remove", "") == clean("nothing to remove") == "nothing to remove"


@given(
    st.text(st.characters(codec="utf-8"), min_size=6, max_size=40), st.text("abc:=/+% ", max_size=20), st.integers(0, 5)
)
def test_a_secret_is_removed_whatever_surrounds_it(secret: str, around: str, repeats: int) -> None:
    for form in (secret, quote(secret, safe=""), encoded(secret)):
        text = around.join([form] * repeats)
        assert form not in clean(text, secret) or form in REDACTED


def test_the_secrets_of_a_configuration() -> None:
    entry = Entry(
        SOCKET_MAP,
        "demo",
        "https://me:of-url@host/?sig=of-query&map=shown&key={{ .Key }}",
        headers=(("X-Name", "shown"), ("X-Key", "of-header"), ("Authorization", "Basic dXNlcjpvZi1iYXNpYw==")),
        backend_oidc=BackendOidc(client_secret="of-client", private_key="of-key"),
        sasl_oidc=SaslOidc(
            providers=(SaslOidc(client_secret="of-provider", configuration_uri="https://p/?token=of-configuration"),)
        ),
    )
    settings = Settings(
        server=Server(http_client=HttpClient(proxy="http://me:of-proxy@proxy:1")), entries={SOCKET_MAP: {"demo": entry}}
    )
    assert configured_secrets(settings) == {
        "of-url",
        "of-query",
        "of-header",
        "Basic dXNlcjpvZi1iYXNpYw==",
        "dXNlcjpvZi1iYXNpYw==",
        "of-basic",
        "of-client",
        "of-key",
        "of-provider",
        "of-configuration",
        "of-proxy",
    }

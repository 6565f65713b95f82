"""Secrets that are known by value: those of a configuration and of one exchange, and their removal from texts.

A backend may repeat in an error what it was sent: the password of a login, or the credentials of pfxhttpd itself. Such
an error would reach the mail client, Postfix's log or a bounce message. So every secret of an exchange is removed from
the texts that it results in (`without_secrets`). Values and accounts are data and are never changed.

A secret may be repeated in another form (`secret_forms`): quoted as in JSON, percent-encoded, or in base64 (RFC 4648).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import parse_qsl, quote, quote_plus, urlsplit

from pfxhttpd.config.settings import BackendOidc, Entry, SaslOidc, Settings
from pfxhttpd.rules.redact import REDACTED, SHORTEST_LITERAL, is_secret_name

_URL_SAFE = str.maketrans("+/", "-_")


def secret_forms(secrets: Iterable[str]) -> frozenset[str]:
    """The forms in which a text may contain the secrets."""
    return frozenset(form for secret in secrets for form in _forms(secret)) - {""}


def without_secrets(text: str, forms: Iterable[str]) -> str:
    """The text with REDACTED for each of the forms of secrets.

    A form that is shorter than SHORTEST_LITERAL is replaced only where it is a word of its own. The text must not have
    been shortened before: it could end in the first part of a secret.
    """
    for form in sorted(forms, key=len, reverse=True):
        if form in text:
            text = text.replace(form, REDACTED) if len(form) >= SHORTEST_LITERAL else _without_word(text, form)
    return text


def _without_word(text: str, word: str) -> str:
    """The text with REDACTED for each occurrence of `word` that no letter or digit precedes or follows."""
    pieces: list[str] = []
    kept = searched = 0
    while (start := text.find(word, searched)) >= 0:
        searched = end = start + len(word)
        if not (text[start - 1 : start].isalnum() or text[end : end + 1].isalnum()):
            pieces += (text[kept:start], REDACTED)
            kept = end
    return "".join([*pieces, text[kept:]])


def _forms(secret: str) -> Iterator[str]:
    yield secret
    yield secret.strip()  # as at the end of a header's value
    for ascii_only in (True, False):
        yield json.dumps(secret, ensure_ascii=ascii_only)[1:-1]
    for quoted in (quote(secret, safe=""), quote(secret), quote_plus(secret)):
        yield quoted
        yield re.sub("%[0-9A-F]{2}", lambda escape: escape[0].lower(), quoted)
    for encoded in _base64_forms(secret.encode()):
        yield encoded
        yield encoded.translate(_URL_SAFE)


def _base64_forms(secret: bytes) -> Iterator[str]:
    """The secret in base64 with and without padding, and what base64 makes of it inside a longer text.

    A character of base64 stands for 6 bits, so that depends on the number of bytes before the secret, modulo 3. The
    characters at both ends that also depend on what is around the secret are left out.
    """
    encoded = base64.b64encode(secret).decode()
    yield encoded
    yield encoded.rstrip("=")
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + secret).decode()
        inner = encoded[-(-8 * before // 6) : 8 * (before + len(secret)) // 6]
        if len(inner) >= SHORTEST_LITERAL:
            yield inner


def configured_secrets(settings: Settings) -> set[str]:
    """The secrets in the settings."""
    proxy, observability = settings.server.http_client.proxy, settings.server.observability
    entries = [entry for section in settings.entries.values() for entry in section.values()]
    own = {observability.prometheus_http_auth_basic.partition(":")[2]}
    for _, value in observability.otel_exporter_otlp_headers:
        own.update(header_secrets(value))
    return own.union(url_secrets(proxy), *[entry_secrets(entry) for entry in entries]) - {""}


def entry_secrets(entry: Entry) -> set[str]:
    """The secrets with which the entry's backend and providers are asked."""
    return set(_secrets_of_entry(entry)) - {""}


def _secrets_of_entry(entry: Entry) -> Iterator[str]:
    for name, value in entry.headers:
        if is_secret_name(name, strict=True):
            yield from header_secrets(value)
    yield from url_secrets(entry.target)
    clients: tuple[BackendOidc | SaslOidc, ...] = (entry.backend_oidc, entry.sasl_oidc, *entry.sasl_oidc.providers)
    for oidc in clients:
        yield oidc.client_secret
        yield oidc.private_key
        yield from url_secrets(oidc.configuration_uri)


def header_secrets(value: str) -> Iterator[str]:
    """A header's value, the credentials after its scheme, and the password in those of the Basic scheme (RFC 7617)."""
    scheme, _, credentials = value.partition(" ")
    yield value
    yield credentials
    if scheme.lower() == "basic":
        try:
            yield base64.b64decode(credentials, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            pass  # not in the format of RFC 7617; the credentials as a whole are redacted in any case


def url_secrets(url: str) -> Iterator[str]:
    """The password and the secret query parameters of a URL, unless they are placeholders."""
    parts = urlsplit(url)
    yield parts.password or ""
    for name, value in parse_qsl(parts.query):
        if is_secret_name(name, strict=True) and "{{" not in value:
            yield value

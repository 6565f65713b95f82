"""Which texts of a configuration are secret, in every form in which they could turn up in somebody's error message."""

from __future__ import annotations

import base64
import binascii
from typing import Iterator
from urllib.parse import parse_qsl, urlsplit

from pfxhttpd.config.settings import Entry, Settings
from pfxhttpd.exchange.redact import names_secret

_KEYS = ("key", "signature", "auth")
"""In the name of a header or of a query's parameter: what it holds is for us and the API alone."""


def secrets(settings: Settings) -> set[str]:
    """What no log line may show, wherever it turns up."""
    found = set(_of_url(settings.server.http_client.proxy))
    for entries in settings.entries.values():
        for entry in entries.values():
            found.update(_of_entry(entry))
    return found - {""}


def _of_entry(entry: Entry) -> Iterator[str]:
    for name, value in entry.headers:
        if _telling(name):
            yield from _of_credentials(value)
    yield from _of_url(entry.target)
    for oidc in (entry.backend_oidc, entry.sasl_oidc):
        yield oidc.client_secret
        yield oidc.private_key


def _of_credentials(value: str) -> Iterator[str]:
    """A header's value, the credentials without their scheme, and the password that Basic only wraps (RFC 7617)."""
    scheme, _, credentials = value.partition(" ")
    yield value
    yield credentials
    if scheme.lower() == "basic":
        try:
            yield base64.b64decode(credentials, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            pass  # not what RFC 7617 describes; the text itself is taken out all the same


def _of_url(url: str) -> Iterator[str]:
    parts = urlsplit(url)
    yield parts.password or ""
    for name, value in parse_qsl(parts.query):
        if _telling(name) and "{{" not in value:
            yield value


def _telling(name: str) -> bool:
    return names_secret(name) or any(key in name.lower() for key in _KEYS)

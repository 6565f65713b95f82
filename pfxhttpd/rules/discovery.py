"""The discovery document of a provider (OpenID Connect Discovery 1.0 section 4, RFC 8414)."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple
from urllib.parse import urlsplit

from pfxhttpd.rules.key_set import MAX_DOCUMENT
from pfxhttpd.rules.response import BackendError
from pfxhttpd.rules.strict_json import JsonObject, parse_object

WELL_KNOWN = ("/.well-known/openid-configuration", "/.well-known/oauth-authorization-server")

MAX_URL = 2048


class Discovery(NamedTuple):
    """The issuer and the URLs of the endpoints. A URL is "" if the provider does not have the endpoint."""

    issuer: str
    token_endpoint: str
    introspection_endpoint: str
    userinfo_endpoint: str
    jwks_uri: str


def likely_issuers(configuration_uri: str) -> tuple[str, ...]:
    """The issuers that fit the URL of a discovery document (section 4.3): the URL without its well-known part, with and
    without a slash at the end. The result is empty if the URL has no such part; then every issuer fits."""
    url = configuration_uri.partition("?")[0]
    for suffix in WELL_KNOWN:
        if url.endswith(suffix):
            issuer = url.removesuffix(suffix)
            return issuer, issuer + "/"
    return ()


def parse_discovery(body: bytes, configuration_uri: str) -> Discovery:
    """The document that was fetched from `configuration_uri`.

    Raises `BackendError` if it is invalid, or if an endpoint is not a URL or uses http: while the document used https:.
    """
    if len(body) > MAX_DOCUMENT:
        raise BackendError("the provider's configuration is too large")
    try:
        document = parse_object(body)
    except ValueError:
        raise BackendError("the provider's configuration is no JSON object") from None
    issuer = document.get("issuer")
    if type(issuer) is not str or not issuer:
        raise BackendError("the provider's configuration names no issuer")
    secure = urlsplit(configuration_uri).scheme == "https"
    return Discovery(issuer, *(_endpoint(document, name, secure) for name in Discovery._fields[1:]))


def check_issuer(discovery: Discovery, configuration_uri: str, accepted: Collection[str]) -> None:
    """Raises `BackendError` if the document is that of another provider.

    Its issuer must fit its URL or be one of those `accepted` (section 4.3; RFC 8414 section 3.3).
    """
    likely = likely_issuers(configuration_uri)
    if likely and discovery.issuer not in likely and discovery.issuer not in accepted:
        raise BackendError(
            "the provider's configuration is that of another issuer (if it is right, list that issuer under `issuers`)"
        )


def _endpoint(document: JsonObject, name: str, secure: bool) -> str:
    """The URL of an endpoint, or ""."""
    url = document.get(name)
    if url is None or url == "":
        return ""
    if type(url) is not str or len(url) > MAX_URL or not url.isascii() or not url.isprintable() or " " in url:
        raise BackendError(f"the provider's {name} is no URL")
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0 and not parts.username
    except ValueError:
        usable = False
    if not usable or parts.scheme not in ("https", "http"):
        raise BackendError(f"the provider's {name} is no URL")
    if secure and parts.scheme != "https":
        raise BackendError(f"the provider's {name} is not https, while its configuration is")
    return url

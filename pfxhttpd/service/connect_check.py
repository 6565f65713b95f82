"""`pfxhttpd check --connect`: whether each backend and each OpenID provider can be reached from here."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from requests import exceptions
from requests.utils import select_proxy
from urllib3.util import Url, parse_url

from pfxhttpd.config.settings import Settings
from pfxhttpd.io import tls
from pfxhttpd.io.transport.dial import dial
from pfxhttpd.io.transport.stream import TlsStream
from pfxhttpd.service.backend import proxies_for
from pfxhttpd.service.oidc.provider import providers_of

TIMEOUT = 10.0
"""Seconds for each backend."""
DAY = 86400.0

_PLACEHOLDER = re.compile(r"\{\{.*?\}\}")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found out about one origin, in a line. `failed`: no request could be sent there."""

    text: str
    failed: bool = False


def findings(settings: Settings) -> Iterator[Finding]:
    """One for each scheme, host and port that the configuration names."""
    context = tls.context(settings.server.tls)
    for (scheme, host, port), url in _origins(settings).items():
        name = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        chosen = select_proxy(url, proxies_for(url, settings.server))
        proxy: Url | None = parse_url(chosen if "://" in chosen else f"http://{chosen}") if chosen else None
        through = f" through the proxy {proxy.host}" if proxy else ""
        try:
            stream = dial((scheme, host, port), time.monotonic() + TIMEOUT, context, proxy, _wait)
        except exceptions.RequestException as error:
            yield Finding(f"{name}: {error}{through}", failed=True)
            continue
        try:
            yield Finding(f"{name}: connected{through}{_certificate(stream)}")
        finally:
            stream.close()


def _wait() -> None:
    """Called while the connection takes long; nothing else is to be done meanwhile."""


def _origins(settings: Settings) -> dict[tuple[str, str, int], str]:
    """The origins, each with one of its URLs."""
    urls = []
    for section in settings.entries.values():
        for entry in section.values():
            urls.append(entry.target)
            urls += [oidc.configuration_uri for oidc in providers_of(entry)]
    found: dict[tuple[str, str, int], str] = {}
    for url in urls:
        parts = urlsplit(_PLACEHOLDER.sub("x", url))
        scheme = parts.scheme.lower()
        found.setdefault((scheme, parts.hostname or "", parts.port or _PORTS[scheme]), parts.geturl())
    return found


def _certificate(stream: object) -> str:
    if not isinstance(stream, TlsStream):
        return ""
    expires = stream.certificate.get("notAfter")
    if not isinstance(expires, str):
        return ", the certificate is not verified"
    left = (ssl.cert_time_to_seconds(expires) - time.time()) / DAY
    return f", certificate verified, valid for {left:.0f} more days"

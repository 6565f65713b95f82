"""`pfxhttpd check --connect`: whether each backend and each OpenID provider can be reached from here."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from requests import Request, exceptions
from requests.utils import select_proxy
from urllib3.util import Url, parse_url

from pfxhttpd.config.settings import Settings
from pfxhttpd.io import tls
from pfxhttpd.io.transport.adapter import Origin, Transport
from pfxhttpd.io.transport.dial import dial
from pfxhttpd.io.transport.session import DirectSession
from pfxhttpd.io.transport.stream import Stream, TlsStream, ignore_wait
from pfxhttpd.io.transport.tls_reason import NO_HTTP
from pfxhttpd.rules.response import tls_hint
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


class _Transport(Transport):
    """A transport that keeps the certificate of the latest connection, as `ssl.SSLSocket.getpeercert` returns it."""

    certificate: Mapping[str, object] | None = None
    """None for a connection without TLS."""
    connected = False

    def _dial(self, origin: Origin, deadline: float, proxy: Url | None) -> Stream:
        stream = super()._dial(origin, deadline, proxy)
        self.connected, self.certificate = True, stream.certificate if isinstance(stream, TlsStream) else None
        return stream


def findings(settings: Settings) -> Iterator[Finding]:
    """One for each scheme, host and port that the configuration names. Raises `SetupError`."""
    context = tls.context(settings.server.tls)
    for (scheme, host, port), url in _origins(settings).items():
        name = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        proxies = proxies_for(url, settings.server)
        chosen = select_proxy(url, proxies)
        proxy = parse_url(chosen if "://" in chosen else f"http://{chosen}").host if chosen else ""
        through = f" through the proxy {proxy}" if proxy else ""
        transport = _Transport(context)
        try:
            # A refusal by TLS 1.3 arrives after the handshake, so a response has to be read. No method changes less.
            request = DirectSession(transport).prepare_request(Request("OPTIONS", f"{name}/"))
            response = transport.send(request, timeout=TIMEOUT, proxies=proxies)
            hint = tls_hint(response.status_code, response.body)
            text = hint or f"connected{through}{_certificate(transport.certificate)}"
            yield Finding(f"{name}: {text}", failed=bool(hint))
        except exceptions.Timeout as error:
            connected = "connected, but no response to OPTIONS: " if transport.connected else ""
            yield Finding(f"{name}: {connected}{error}{through}", failed=True)
        except exceptions.RequestException as error:
            speaks_tls = scheme == "http" and not proxy and transport.connected and _speaks_tls(host, port)
            yield Finding(f"{name}: {NO_HTTP if speaks_tls else error}{through}", failed=True)
        finally:
            transport.close()


def _speaks_tls(host: str, port: int) -> bool:
    """Whether a handshake succeeds, whoever the server is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        dial(("https", host, port), time.monotonic() + TIMEOUT, context, None, ignore_wait).close()
    except exceptions.RequestException:
        return False
    return True


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


def _certificate(certificate: Mapping[str, object] | None) -> str:
    if certificate is None:
        return ""
    expires = certificate.get("notAfter")
    if not isinstance(expires, str):
        return ", the certificate is not verified"
    left = (ssl.cert_time_to_seconds(expires) - time.time()) / DAY
    return f", certificate verified, valid for {left:.0f} more days"

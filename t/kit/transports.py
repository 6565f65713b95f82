"""One HTTP exchange through our transport, or through requests' own adapter, and what came of it."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import requests
from requests import Request, Session, exceptions
from requests.adapters import HTTPAdapter

from pfxhttpd.io.transport.adapter import RenderedRequest, TooLarge, Transport
from pfxhttpd.io.transport.session import DirectSession

TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """A response, or the class of the error that was raised instead. Header names are lower case."""

    status: int = 0
    body: bytes = b""
    headers: Mapping[str, str] | None = None
    error: str = ""

    def __str__(self) -> str:
        return self.error or f"{self.status} {self.body[:60]!r}"


def trusting(ca: str = "", certificate: str = "", key: str = "") -> ssl.SSLContext:
    """TLS 1.2 at least, this CA (or nobody) trusted, and perhaps a certificate to show."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca:
        context.load_verify_locations(cafile=ca)
    if certificate:
        context.load_cert_chain(certificate, key)
    return context


class StockAdapter(HTTPAdapter):
    """requests' adapter with our TLS context, which it can only be given by a subclass."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **more)

    def proxy_manager_for(self, proxy: str, **more: Any) -> Any:
        return super().proxy_manager_for(proxy, ssl_context=self._context, proxy_ssl_context=self._context, **more)

    def cert_verify(self, *_: Any) -> None:
        """Leaves the context as it is, instead of adding requests' own CA bundle to it."""


class Way:
    """A session over one adapter."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.adapter = session.get_adapter("https://")

    def prepare(
        self, url: str, body: bytes | str | None = b"{}", method: str = "POST", **headers: str
    ) -> RenderedRequest:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        prepared = self.session.prepare_request(Request(method, url, data=body, headers=named))
        return RenderedRequest.from_request(prepared)

    def send(
        self, request: requests.PreparedRequest, timeout: float = TIMEOUT, proxy: str = "", redirects: bool = False
    ) -> requests.Response:
        proxies = {"http": proxy, "https": proxy} if proxy else {}
        return self.session.send(request, timeout=timeout, allow_redirects=redirects, proxies=proxies)

    def outcome(self, url: str, timeout: float = TIMEOUT, proxy: str = "", **what: Any) -> Outcome:
        """What became of one request; `what` goes to `prepare`."""
        try:
            response = self.send(self.prepare(url, **what), timeout, proxy)
        except exceptions.RequestException as error:
            return Outcome(error=type(error).__name__)
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Outcome(response.status_code, response.content, headers)

    def close(self) -> None:
        self.session.close()


@contextmanager
def ours(context: ssl.SSLContext | None = None, **more: Any) -> Iterator[Way]:
    way = Way(DirectSession(Transport(context or trusting(), **more)))
    try:
        yield way
    finally:
        way.close()


@contextmanager
def stock(context: ssl.SSLContext | None = None) -> Iterator[Way]:
    session, adapter = Session(), StockAdapter(context or trusting())
    session.trust_env = False
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    way = Way(session)
    try:
        yield way
    finally:
        way.close()


__all__ = ["TIMEOUT", "Outcome", "StockAdapter", "TooLarge", "Way", "ours", "stock", "trusting"]

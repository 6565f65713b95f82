"""The adapter itself: one request out, one response in, on a connection that is kept for the next."""

from __future__ import annotations

import ssl
import time
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Any, Protocol

from requests import PreparedRequest, exceptions
from requests.adapters import BaseAdapter
from requests.utils import prepend_scheme_if_needed, select_proxy
from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

from pfxhttpd.io.transport.dial import dial, proxy_authorization
from pfxhttpd.io.transport.request import RenderedRequest
from pfxhttpd.io.transport.response import MAX_BODY, ParsedResponse, ResponseParser, TooLarge
from pfxhttpd.io.transport.stream import Stream

__all__ = ["ConnectionLimit", "RenderedRequest", "TooLarge", "Transport"]

DEFAULT_TIMEOUT = 60.0
EXPIRY = 1.0
"""Seconds between looks for connections that were idle for too long, while others are in use."""


class ConnectionLimit(Protocol):
    """Who says how many connections to an origin there may be; `io.connection_limit` is the one that does."""

    linger: float
    """Seconds that an unused connection may be kept at most, since another worker may want it."""

    def acquire(self, origin: tuple[str, str, int], deadline: float) -> Hashable:
        """Waits for a place among the origin's connections. Raises `TimeoutError` at `deadline`."""

    def release(self, permit: Any) -> None: ...

    def is_contended(self, permit: Any) -> bool:
        """Somebody waits for a place like this one."""


class _Unlimited:
    linger = float("inf")

    def acquire(self, origin: tuple[str, str, int], deadline: float) -> Hashable:
        return None

    def release(self, permit: Any) -> None:
        pass

    def is_contended(self, permit: Any) -> bool:
        return False


class _Kept:
    """A connection, its place in the limiter, and when it was last used (monotonic seconds)."""

    __slots__ = ("permit", "stream", "used")

    def __init__(self, stream: Stream, permit: Any) -> None:
        self.stream, self.permit, self.used = stream, permit, 0.0


class Transport(BaseAdapter):
    """Mount it on a `requests.Session` for both schemes.

    `context` holds for every `https` origin and proxy (trust, client certificate, versions); the `verify` and `cert`
    of a request are not looked at. `idle` is how long an unused connection is kept, in seconds, `lines` how many are,
    `limit` how many bytes a body may have. A transport belongs to one thread of one process.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        idle: float = 90.0,
        max_idle: int = 20,
        limit: int = MAX_BODY,
        limiter: ConnectionLimit | None = None,
    ) -> None:
        super().__init__()
        context.set_alpn_protocols(["http/1.1"])
        self._limiter = limiter or _Unlimited()
        self._context, self._max_idle, self._limit = context, max_idle, limit
        self._idle = min(idle, self._limiter.linger)
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._proxies: dict[str, Url] = {}
        self._expiry = 0.0

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> ParsedResponse:
        """One exchange; any method but HEAD and CONNECT, and a body of bytes or text.

        Raises `requests.exceptions.Timeout`, `SSLError`, `ProxyError`, `ConnectionError`, `ChunkedEncodingError`,
        `ContentDecodingError`, `InvalidProxyURL`, `InvalidHeader`, and `TooLarge`. A kept connection that turns out
        dead before a byte of the response is replaced once, within the same deadline (RFC 9112 section 9.3.1).
        """
        deadline = time.monotonic() + (DEFAULT_TIMEOUT if timeout is None else timeout)
        if not isinstance(request, RenderedRequest):
            request = RenderedRequest.from_request(request)
        head, key, proxy = request.head, request.origin, None
        if proxies:
            proxy = self._proxy(request, proxies)
            if proxy:
                key = (request.origin, proxy)
                if request.origin[0] == "http":
                    head = request.proxy_head(proxy_authorization(proxy))
        body = request.body or b""
        if isinstance(body, str):
            body = body.encode()
        if body or request.method != "GET":
            message = b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)
        else:
            message = head + b"\r\n"
        kept = self._take(key)
        if kept:
            try:
                return self._exchange(key, kept, request, message, deadline)
            except _Dead:
                pass
        try:
            return self._exchange(key, self._open(request.origin, deadline, proxy), request, message, deadline)
        except _Dead as dead:
            raise exceptions.ConnectionError(f"{request.origin[1]} closed the connection without an answer") from dead

    # -- what is kept -------------------------------------------------------------------------------------------

    @property
    def open_connections(self) -> int:
        """How many connections are kept."""
        return len(self._kept)

    @property
    def next_expiry(self) -> float | None:
        """Seconds after which `expire` is to be called if nothing was sent; None when nothing is kept."""
        return self._idle if self._kept else None

    def expire(self, now: float) -> None:
        """Close the connections that nobody has used for long enough."""
        while self._kept:
            key, kept = next(iter(self._kept.items()))
            if now - kept.used < self._idle:
                break
            del self._kept[key]
            self._drop(kept)
        self._expiry = now + EXPIRY

    def close(self) -> None:
        while self._kept:
            self._drop(self._kept.popitem()[1])

    def _take(self, key: Hashable) -> _Kept | None:
        kept = self._kept.pop(key, None)
        if kept is None:
            return None
        if time.monotonic() - kept.used < self._idle and kept.stream.is_idle:
            return kept
        self._drop(kept)
        return None

    def _open(self, origin: tuple[str, str, int], deadline: float, proxy: Url | None) -> _Kept:
        try:
            permit = self._limiter.acquire(origin, deadline)
        except TimeoutError as error:
            raise exceptions.ConnectTimeout(f"all connections that {origin[1]} may get stayed in use") from error
        try:
            return _Kept(dial(origin, deadline, self._context, proxy), permit)
        except BaseException:
            self._limiter.release(permit)
            raise

    def _drop(self, kept: _Kept) -> None:
        kept.stream.close()
        self._limiter.release(kept.permit)

    def _keep(self, key: Hashable, kept: _Kept) -> None:
        now = kept.used = time.monotonic()
        self._kept[key] = kept
        if len(self._kept) > self._max_idle:
            self._drop(self._kept.popitem(last=False)[1])
        if now > self._expiry:
            self.expire(now)

    # -- one exchange -------------------------------------------------------------------------------------------

    def _exchange(
        self, key: Hashable, kept: _Kept, request: RenderedRequest, message: bytes, deadline: float
    ) -> ParsedResponse:
        stream, parser, again = kept.stream, ResponseParser(self._limit), False
        try:
            stream.write(message)
            _hear(stream, parser, deadline)
            again = (
                parser.reusable
                and not parser.surplus
                and stream.flushed
                and not self._limiter.is_contended(kept.permit)
            )
            return ParsedResponse(parser, request)
        finally:
            if again:
                self._keep(key, kept)
            else:
                self._drop(kept)

    def _proxy(self, request: RenderedRequest, proxies: Mapping[str, str]) -> Url | None:
        chosen = select_proxy(request.url, proxies)
        if not chosen:
            return None
        proxy = self._proxies.get(chosen)
        if proxy is None:
            try:
                proxy = parse_url(prepend_scheme_if_needed(chosen, "http"))
            except LocationParseError as error:
                raise exceptions.InvalidProxyURL("the proxy's URL is malformed") from error
            if proxy.scheme not in ("http", "https") or not proxy.host:
                raise exceptions.InvalidProxyURL(f"no way through a proxy of scheme {proxy.scheme}")
            self._proxies[chosen] = proxy
        return proxy


class _Dead(Exception):
    """The connection broke before a byte of the response had come."""


def _hear(stream: Stream, parser: ResponseParser, deadline: float) -> None:
    """Feed the parser what arrives until it is complete."""
    while not parser.complete:
        try:
            data = stream.read(deadline)
        except TimeoutError as error:
            raise exceptions.ReadTimeout("the answer took too long") from error
        except ssl.SSLError as error:
            raise exceptions.SSLError(f"TLS broke: {error.reason or error}") from error
        except OSError as error:
            if not parser.begun:
                raise _Dead from error
            raise exceptions.ConnectionError(f"the connection broke: {error.strerror or error}") from error
        if data:
            parser.feed(data)
        elif parser.begun:
            parser.end()
        else:
            raise _Dead

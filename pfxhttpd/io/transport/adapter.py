"""The adapter itself: one request, one response, on a connection that is pooled for the next request."""

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
from pfxhttpd.io.transport.stream import OnWait, Stream, ignore_wait
from pfxhttpd.io.transport.tls_reason import tls_reason

__all__ = ["ConnectionLimit", "RenderedRequest", "TooLarge", "Transport"]

DEFAULT_TIMEOUT = 60.0
EXPIRY_INTERVAL = 1.0
"""Seconds between looks for connections that have been idle for too long, while others are in use."""

Origin = tuple[str, str, int]
"""Scheme, host and port."""


class ConnectionLimit(Protocol):
    """Limits the connections to an origin; `io.connection_limit` implements it for all workers together."""

    scarce: bool
    """Whether there are fewer permits than processes that may want one."""
    linger: float
    """Seconds for which an idle connection may be kept at most, since another worker may need it."""

    def acquire(self, origin: Origin, deadline: float) -> Hashable:
        """Wait for a permit for one connection. Raises `TimeoutError` at `deadline`."""

    def release(self, permit: Any) -> None: ...

    def is_contended(self, permit: Any) -> bool:
        """Whether another process waits for a permit like this one."""

    idle_scarce: bool
    """Whether `keep_idle` has to be asked."""

    def keep_idle(self, permit: Any) -> bool:
        """Whether the connection may be kept while it is idle; `end_idle` or `release` ends that."""

    def end_idle(self, permit: Any) -> None: ...


class _Unlimited:
    scarce = idle_scarce = False
    linger = float("inf")

    def acquire(self, origin: Origin, deadline: float) -> Hashable:
        return None

    def release(self, permit: Any) -> None:
        pass

    def is_contended(self, permit: Any) -> bool:
        return False

    def keep_idle(self, permit: Any) -> bool:
        return True

    def end_idle(self, permit: Any) -> None:
        pass


class _PooledConnection:
    """A connection, the parser of its responses, its permit, and when its last response was complete (monotonic seconds;
    0: there was none yet)."""

    __slots__ = ("parser", "permit", "stream", "used")

    def __init__(self, stream: Stream, parser: ResponseParser, permit: Any) -> None:
        self.stream, self.parser, self.permit, self.used = stream, parser, permit, 0.0


class ConnectionLost(Exception):
    """The connection cannot carry the request: it was closed, or broke, before a byte of the response had arrived."""


class Transport(BaseAdapter):
    """To be mounted on a `requests.Session` for both schemes.

    `context` holds for all `https` origins and proxies; the `verify` and `cert` of a request are ignored. `idle` is for
    how many seconds an unused connection is pooled, `max_idle` how many are, `limit` how many bytes a body may have.
    A transport belongs to one thread of one process.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        idle: float = 90.0,
        max_idle: int = 20,
        limit: int = MAX_BODY,
        limiter: ConnectionLimit | None = None,
        on_wait: OnWait = ignore_wait,
    ) -> None:
        """`on_wait` is called when a response takes longer than `stream.FIRST_WAIT`."""
        super().__init__()
        context.set_alpn_protocols(["http/1.1"])
        self._limiter, self._on_wait = limiter or _Unlimited(), on_wait
        self._context, self._max_idle, self._limit = context, max_idle, limit
        self.idle_timeout = min(idle, self._limiter.linger)
        self._pool: OrderedDict[Hashable, _PooledConnection] = OrderedDict()
        self._proxies: dict[str, Url] = {}
        self._next_look = 0.0

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
        deadline: float = 0.0,
    ) -> ParsedResponse:
        """Send one request and return its response. Any method but HEAD and CONNECT; a body of bytes or text.

        A caller that has a `deadline` (monotonic seconds) gives that instead of a timeout.
        Raises `requests.exceptions.Timeout`, `SSLError`, `ProxyError`, `ConnectionError`, `ChunkedEncodingError`,
        `ContentDecodingError`, `InvalidProxyURL`, `InvalidHeader`, and `TooLarge`. A pooled connection that is lost
        before a byte of the response has arrived is replaced once, within the same deadline (RFC 9112 section 9.3.1).
        """
        if not deadline:
            deadline = time.monotonic() + (DEFAULT_TIMEOUT if timeout is None else timeout)
        if not isinstance(request, RenderedRequest):
            request = RenderedRequest.from_request(request)
        head, proxy = request.head, None
        key: Hashable = request.origin
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
        pooled = self._take(key)
        if pooled:
            try:
                return self._exchange(key, pooled, request, message, deadline)
            except ConnectionLost:
                pass
        try:
            return self._exchange(key, self._open(request.origin, deadline, proxy), request, message, deadline)
        except ConnectionLost as lost:
            scheme, host, _ = request.origin
            hint = "" if scheme == "https" else "; if it expects TLS, the target has to begin with https:"
            raise exceptions.ConnectionError(f"{host} closed the connection without an answer{hint}") from lost

    # -- the pool -----------------------------------------------------------------------------------------------

    @property
    def open_connections(self) -> int:
        """How many connections are pooled."""
        return len(self._pool)

    @property
    def next_expiry(self) -> float | None:
        """Seconds after which `expire` is to be called if nothing was sent; None when no connection is pooled."""
        return self.idle_timeout if self._pool else None

    def expire(self, now: float) -> None:
        """Close the connections that have been idle for too long."""
        while self._pool:
            key, connection = next(iter(self._pool.items()))
            if now - connection.used < self.idle_timeout:
                break
            del self._pool[key]
            self._drop(connection)
        self._next_look = now + EXPIRY_INTERVAL

    def close(self) -> None:
        while self._pool:
            self._drop(self._pool.popitem()[1])

    def _take(self, key: Hashable) -> _PooledConnection | None:
        connection = self._pool.pop(key, None)
        if connection is None:
            return None
        if self._limiter.idle_scarce:
            self._limiter.end_idle(connection.permit)
        if time.monotonic() - connection.used < self.idle_timeout:
            return connection
        self._drop(connection)
        return None

    def _open(self, origin: Origin, deadline: float, proxy: Url | None) -> _PooledConnection:
        try:
            permit = self._limiter.acquire(origin, deadline)
        except TimeoutError as error:
            raise exceptions.ConnectTimeout(f"all connections that {origin[1]} may get stayed in use") from error
        try:
            stream = self._dial(origin, deadline, proxy)
            return _PooledConnection(stream, ResponseParser(self._limit), permit)
        except BaseException:
            self._limiter.release(permit)
            raise

    def _dial(self, origin: Origin, deadline: float, proxy: Url | None) -> Stream:
        return dial(origin, deadline, self._context, proxy, self._on_wait)

    def _drop(self, connection: _PooledConnection) -> None:
        connection.stream.close()
        self._limiter.release(connection.permit)

    def _put_back(self, key: Hashable, connection: _PooledConnection) -> None:
        if self._limiter.idle_scarce and not self._limiter.keep_idle(connection.permit):
            self._drop(connection)
            return
        now = connection.used = time.monotonic()
        self._pool[key] = connection
        if len(self._pool) > self._max_idle:
            self._drop(self._pool.popitem(last=False)[1])
        if now > self._next_look:
            self.expire(now)

    # -- one exchange -------------------------------------------------------------------------------------------

    def _exchange(
        self, key: Hashable, connection: _PooledConnection, request: RenderedRequest, message: bytes, deadline: float
    ) -> ParsedResponse:
        """Send the message and read the response. Raises `ConnectionLost`, and what `send` raises.

        A response that arrived before the request was sent does not answer it. The pooled connection is checked for one
        as late as possible, directly before sending; what a backend sends unasked after that cannot be told apart.
        """
        stream, parser, reusable = connection.stream, connection.parser, False
        try:
            if connection.used:
                parser.begin()
                if not stream.is_idle:
                    raise ConnectionLost
            stream.write(message)
            _read_response(stream, parser, deadline, self._context)
            reusable = (
                parser.reusable
                and not parser.surplus
                and stream.flushed
                and not (self._limiter.scarce and self._limiter.is_contended(connection.permit))
            )
            return ParsedResponse(parser, request)
        finally:
            if reusable:
                self._put_back(key, connection)
            else:
                self._drop(connection)

    def _proxy(self, request: RenderedRequest, proxies: Mapping[str, str]) -> Url | None:
        chosen = select_proxy(request.url or "", proxies)
        if not chosen:
            return None
        proxy = self._proxies.get(chosen)
        if proxy is None:
            try:
                proxy = parse_url(prepend_scheme_if_needed(chosen, "http"))  # type: ignore[no-untyped-call]
            except LocationParseError as error:
                raise exceptions.InvalidProxyURL("the proxy's URL is malformed") from error
            if proxy.scheme not in ("http", "https") or not proxy.host:
                raise exceptions.InvalidProxyURL(f"no way through a proxy of scheme {proxy.scheme}")
            self._proxies[chosen] = proxy
        return proxy


def _read_response(stream: Stream, parser: ResponseParser, deadline: float, context: ssl.SSLContext) -> None:
    """Feed the parser until the response is complete."""
    while not parser.complete:
        try:
            data = stream.read(deadline)
        except TimeoutError as error:
            raise exceptions.ReadTimeout("the answer took too long") from error
        except ssl.SSLError as error:
            raise exceptions.SSLError(tls_reason(error, context)) from error
        except OSError as error:
            if not parser.started:
                raise ConnectionLost from error
            raise exceptions.ConnectionError(f"the connection broke: {error.strerror or error}") from error
        if data:
            parser.feed(data)
        elif parser.started:
            parser.feed_eof()
        else:
            raise ConnectionLost

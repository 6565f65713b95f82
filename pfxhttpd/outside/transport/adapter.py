"""The adapter itself: one request out, one response in, on a connection that is kept for the next."""

from __future__ import annotations

import socket
import ssl
import time
from collections import OrderedDict
from typing import Any, Mapping

import httptools
from requests import PreparedRequest, Response, exceptions
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.utils import select_proxy
from urllib3.util import Url, parse_url

from pfxhttpd.outside.transport.dial import dial, proxy_credentials
from pfxhttpd.outside.transport.reply import Heard, Reply

MAX_BODY = 10 * 1024 * 1024
READ = 65536


class Prepared(PreparedRequest):
    """A prepared request with its head rendered, to be sent many times with another body each time.

    Set `body`; whoever changes `method`, `url` or `headers` calls `render` afterwards.
    """

    head: bytes = b""
    origin: tuple[str, str, int] = ("", "", 0)

    @classmethod
    def of(cls, request: PreparedRequest) -> Prepared:
        made = cls()
        made.__dict__.update(request.__dict__)
        made.render()
        return made

    def render(self, proxied: bool = False, extra: Mapping[str, str] | None = None) -> None:
        """Render the head, all but Content-Length. `proxied`: the request line names the whole URL (RFC 9112 §3.2.2)."""
        url = parse_url(self.url)
        host = url.host or ""
        port = url.port or (443 if url.scheme == "https" else 80)
        self.origin = (url.scheme or "http", host.strip("[]"), port)
        where = f"{host}:{url.port}" if url.port else host
        target = f"{url.scheme}://{where}{self.path_url}" if proxied else self.path_url
        lines = [f"{self.method} {target} HTTP/1.1"]
        headers = {**(self.headers or {}), **(extra or {})}
        if not any(name.lower() == "host" for name in headers):
            lines.append(f"Host: {where}")
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                lines.append(f"{_text(name)}: {_text(value)}")
        self.head = "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n"


def _text(value: str | bytes) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if value.isascii() else value.encode("utf-8").decode("latin-1")


class _Line:
    """A connection that is kept, and when it was last used (monotonic seconds)."""

    __slots__ = ("sock", "used")

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.used = sock, 0.0


class Transport(BaseAdapter):
    """Mount it on a `requests.Session` for both schemes.

    `context` holds for every `https` origin (trust, client certificate, versions); the `verify` and `cert` of a
    request are not looked at. `idle` is how long an unused connection is kept, in seconds, `lines` how many.
    A proxy that itself speaks TLS or SOCKS goes through the stock adapter: rare, and not worth a second way.
    """

    def __init__(self, context: ssl.SSLContext, idle: float = 90.0, lines: int = 20, limit: int = MAX_BODY) -> None:
        super().__init__()
        self._context, self._idle, self._most, self._limit = context, idle, max(1, lines), limit
        self._kept: OrderedDict[object, _Line] = OrderedDict()
        self._stock: _Stock | None = None

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> Response:
        """One exchange. `timeout` is the deadline for all of it, in seconds.

        Raises `requests.exceptions.Timeout`, `SSLError`, `ProxyError`, `ConnectionError`, `ChunkedEncodingError`,
        `ContentDecodingError`, and `TooLarge`. A kept connection that turns out dead before a byte of the response
        is replaced once, within the same deadline (RFC 9112 §9.3.1 calls for the retry; the first try was never
        answered).
        """
        proxy = None
        if proxies:
            chosen = select_proxy(request.url, proxies)
            if chosen:
                proxy = parse_url(chosen)
                if proxy.scheme != "http":
                    return self._by_stock(request, timeout, proxies)
        deadline = time.monotonic() + (timeout if timeout is not None else 60.0)
        if not isinstance(request, Prepared):
            request = Prepared.of(request)
        if proxy and request.origin[0] == "http":
            request.render(proxied=True, extra=proxy_credentials(proxy))
        body = request.body or b""
        if isinstance(body, str):
            body = body.encode()
        if body or request.method not in ("GET", "HEAD"):
            message = b"%bContent-Length: %d\r\n\r\n%b" % (request.head, len(body), body)
        else:
            message = request.head + b"\r\n"
        key = (request.origin, proxy) if proxy else request.origin
        line = self._line(key)
        if line is not None:
            try:
                return self._exchange(key, line, request, message, deadline)
            except _Dead:
                pass
        line = _Line(dial(*request.origin, deadline, self._context, proxy))
        try:
            return self._exchange(key, line, request, message, deadline)
        except _Dead as dead:
            raise exceptions.ConnectionError(f"{request.origin[1]} closed the connection without an answer") from dead

    @property
    def holds(self) -> int:
        """How many connections are kept."""
        return len(self._kept)

    def expire(self, now: float) -> None:
        """Close the connections that nobody has used for long enough."""
        for key in [key for key, line in self._kept.items() if now - line.used > self._idle]:
            self._kept.pop(key).sock.close()

    def close(self) -> None:
        while self._kept:
            self._kept.popitem()[1].sock.close()
        if self._stock:
            self._stock.close()

    def _line(self, key: object) -> _Line | None:
        line = self._kept.pop(key, None)
        if line is not None and time.monotonic() - line.used > self._idle:
            line.sock.close()
            return None
        return line

    def _exchange(self, key: object, line: _Line, request: Prepared, message: bytes, deadline: float) -> Response:
        sock, reply = line.sock, Reply(self._limit)
        try:
            _send(sock, message, deadline)
            _receive(sock, reply, deadline)
            heard = Heard(reply, request, request.url)
        except BaseException:
            sock.close()
            raise
        if reply.reusable and not reply.surplus:
            line.used = time.monotonic()
            self._kept[key] = line
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)[1].sock.close()
        else:
            sock.close()
        return heard

    def _by_stock(self, request: PreparedRequest, timeout: Any, proxies: Mapping[str, str]) -> Response:
        if self._stock is None:
            self._stock = _Stock(self._context)
        return self._stock.send(request, timeout=timeout, verify=True, proxies=proxies)


class _Dead(Exception):
    """The connection broke before a byte of the response had come."""


class _Stock(HTTPAdapter):
    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        return super().proxy_manager_for(*args, ssl_context=self._context, **kwargs)


def _send(sock: socket.socket, message: bytes, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0:
        raise exceptions.ConnectTimeout("no time was left to send the request")
    try:
        sock.settimeout(left)
        sock.sendall(message)
    except TimeoutError as error:
        raise exceptions.ReadTimeout("sending the request took too long") from error
    except OSError:
        # The peer may have answered and closed without reading all of it; what it said, if anything, is read next.
        pass


def _receive(sock: socket.socket, reply: Reply, deadline: float) -> None:
    while not reply.complete:
        left = deadline - time.monotonic()
        if left <= 0:
            raise exceptions.ReadTimeout("the answer took too long")
        try:
            sock.settimeout(left)
            data = sock.recv(READ)
        except TimeoutError as error:
            raise exceptions.ReadTimeout("the answer took too long") from error
        except OSError as error:
            if not reply.begun:
                raise _Dead from error
            raise exceptions.ConnectionError(f"the connection broke: {error.strerror or error}") from error
        if data:
            try:
                reply.feed(data)
            except httptools.HttpParserError as error:
                broken = exceptions.ChunkedEncodingError if reply.headed else exceptions.ConnectionError
                raise broken(f"the answer is no HTTP: {error}") from error
        elif not reply.begun:
            raise _Dead
        elif not reply.end():
            broken = exceptions.ChunkedEncodingError if reply.headed else exceptions.ConnectionError
            raise broken("the answer ended too early")

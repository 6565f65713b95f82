"""A transport that remembers its exchanges, for `pfxhttpd query --explain`."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from requests import PreparedRequest, exceptions
from urllib3.util import Url

from pfxhttpd.io.transport.adapter import Origin, Transport
from pfxhttpd.io.transport.dial import dial
from pfxhttpd.io.transport.request import RenderedRequest
from pfxhttpd.io.transport.response import ParsedResponse
from pfxhttpd.io.transport.stream import Stream, ignore_wait


@dataclass(slots=True)
class Exchange:
    """A request as it was sent, and what came of it.

    `head` has all lines but Content-Length. `proxy` is the host of the proxy, or "". `steps` are the names of the steps
    that have ended, each with its seconds. Either `response` or `error` is set at the end.
    """

    origin: Origin
    head: bytes
    body: bytes
    proxy: str = ""
    steps: list[tuple[str, float]] = field(default_factory=list)
    response: ParsedResponse | None = None
    error: str = ""


class RecordingTransport(Transport):
    """`exchanges` are all requests so far."""

    def __init__(self, context: ssl.SSLContext, **options: Any) -> None:
        """The arguments are those of `Transport`."""
        super().__init__(context, **{**options, "on_wait": ignore_wait})
        self.exchanges: list[Exchange] = []
        self._step_began = 0.0

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
        if not isinstance(request, RenderedRequest):
            request = RenderedRequest.from_request(request)
        body = request.body or b""
        exchange = Exchange(request.origin, request.head, body.encode() if isinstance(body, str) else bytes(body))
        self.exchanges.append(exchange)
        self._step_began = time.monotonic()
        try:
            exchange.response = super().send(request, timeout=timeout, proxies=proxies, deadline=deadline)
            return exchange.response
        except exceptions.RequestException as error:
            exchange.error = str(error)
            raise
        finally:
            self._end_step("response" if exchange.response is not None else "failure")

    def _dial(self, origin: Origin, deadline: float, proxy: Url | None) -> Stream:
        self.exchanges[-1].proxy = (proxy.host or "") if proxy else ""
        return dial(origin, deadline, self._context, proxy, ignore_wait, self._end_step)

    def _end_step(self, step: str) -> None:
        now = time.monotonic()
        self.exchanges[-1].steps.append((step, now - self._step_began))
        self._step_began = now

"""A `requests.Session` that sends every request through one transport, once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from requests import PreparedRequest, Response, Session

from pfxhttpd.io.transport.adapter import Transport
from pfxhttpd.io.transport.response import ParsedResponse


class DirectSession(Session):
    """Follows no redirect, whatever its caller says, and reads neither the environment nor `~/.netrc`.

    `send` goes straight to the transport. The stock session's bookkeeping (choice of an adapter, cookies, hooks, history,
    the search for the next redirect) takes a tenth of a lookup's processor time, and it raises ValueError for the Location
    of a hostile server ("http://[").
    """

    def __init__(self, transport: Transport) -> None:
        super().__init__()
        self.trust_env = False
        self._transport = transport

    def get_adapter(self, url: str | bytes) -> Transport:
        return self._transport

    def send(
        self, request: PreparedRequest, *, timeout: Any = None, proxies: Mapping[str, str] | None = None, **_: Any
    ) -> ParsedResponse:
        """One exchange. `timeout`, `proxies` and the errors raised are those of `Transport.send`; no other option has an
        effect on it."""
        return self._transport.send(request, timeout=timeout, proxies=proxies)

    def resolve_redirects(self, *args: Any, **more: Any) -> Iterator[Response]:
        return iter(())

    def close(self) -> None:
        self._transport.close()

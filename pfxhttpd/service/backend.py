"""One entry's way to its target: from what is asked to the answer, or the failure to get one."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from requests import Request, Session, exceptions
from requests.utils import get_environ_proxies
from urllib3.util import parse_url

from pfxhttpd import __version__
from pfxhttpd.config.settings import DOVECOT_SASL, Entry, Server
from pfxhttpd.io.transport.adapter import RenderedRequest
from pfxhttpd.io.transport.response import ParsedResponse
from pfxhttpd.rules.login import CredentialsRefused
from pfxhttpd.rules.response import BackendError, BackendResponse
from pfxhttpd.rules.template import payload_of, target_of
from pfxhttpd.service.breaker import SharedBreaker

Verdict = TypeVar("Verdict")

_NO_HEADERS: Mapping[str, str] = {}
_FAILURES = (
    (exceptions.Timeout, "backend timed out"),
    (exceptions.SSLError, "TLS with the backend failed"),
    (exceptions.ProxyError, "the proxy to the backend failed"),
    (exceptions.ContentDecodingError, "backend's answer cannot be decompressed"),
    (exceptions.ChunkedEncodingError, "backend's answer is broken"),
    (exceptions.ConnectionError, "connection to the backend failed"),
)


class Watch(Protocol):
    """Who is told that a request is under way: the worker, for its title and its row on the scoreboard."""

    def begin(self, entry: Entry, deadline: float) -> None: ...

    def end(self) -> None: ...


def default_headers(entry: Entry) -> dict[str, str]:
    """What a request to the entry's target says of itself; `custom_headers` replace and add."""
    headers = {"User-Agent": f"PostfixToHTTP/{__version__}", "Accept": "*/*"}
    if entry.method != "GET":
        headers["Content-Type"] = "application/json"
    headers["Accept-Encoding"] = "gzip" if entry.http_response_compression else "identity"
    if entry.http_request_compression and entry.method != "GET":
        headers["Content-Encoding"] = "gzip"
    given = {name.lower(): name for name in headers}
    for name, value in entry.headers:
        headers.pop(given.get(name.lower(), name), None)
        headers[name] = value
        given[name.lower()] = name
    return headers


def plain_target(target: str) -> str:
    """The target as it may be shown: without its query, which may hold a key of the API's."""
    return target.partition("?")[0]


def proxies_for(entry: Entry, server: Server) -> dict[str, str]:
    """The proxies by scheme, as requests wants them: the configured one, else those of the environment."""
    if server.http_client.proxy:
        return {"http": server.http_client.proxy, "https": server.http_client.proxy}
    found = get_environ_proxies(entry.target, no_proxy=None)
    return {scheme: url for scheme, url in found.items() if scheme in ("http", "https", "all")}


class Backend:
    """Asks one entry's target. Made once per worker and entry; everything that can be rendered ahead is."""

    def __init__(self, entry: Entry, server: Server, session: Session, watch: Watch, fuse: SharedBreaker) -> None:
        self.entry = entry
        self._fuse = fuse
        self._session, self._watch = session, watch
        self._payload, self._target = payload_of(entry), target_of(entry)
        self._proxies = proxies_for(entry, server)
        self._wants_headers = entry.kind == DOVECOT_SASL
        url = self._target.static.decode() if self._target.static is not None else entry.target.partition("{{")[0]
        request = session.prepare_request(Request(entry.method, url, headers=default_headers(entry)))
        self._prepared = RenderedRequest.from_request(request)

    def consult(
        self,
        question: str | Mapping[str, str],
        judge: Callable[[Entry, BackendResponse], Verdict],
        body: bytes | None = None,
    ) -> Verdict:
        """What `judge` makes of the answer to a key or to a policy's attributes. `body` replaces the rendered payload.

        Raises `BackendFailure` when there is no answer, or none that can be judged; its reason names no secret.
        """
        leave = self._fuse.enter()
        alive = late = False
        try:
            verdict = judge(self.entry, self._ask(question, body))
            alive = True
        except CredentialsRefused:
            alive = True
            raise
        except BackendError as failure:
            late = failure.timeout
            raise
        finally:
            self._fuse.leave(leave, alive, late)
        return verdict

    def _ask(self, question: str | Mapping[str, str], body: bytes | None) -> BackendResponse:
        entry, request = self.entry, self._prepared
        if self._target.static is None:
            request.url = parse_url(self._target.render(question).decode()).url
            request.render()
        if body is None:
            body = self._payload.render(question)
        if entry.http_request_compression and body:
            body = gzip.compress(body, compresslevel=1)
        request.body = body
        self._watch.begin(entry, time.monotonic() + entry.timeout)
        try:
            response = self._session.send(
                request, timeout=entry.timeout, allow_redirects=False, proxies=self._proxies, verify=True, cert=None
            )
        except exceptions.RequestException as error:
            raise _failure(error) from error
        finally:
            self._watch.end()
        return BackendResponse(
            response.status_code, _headers(response) if self._wants_headers else _NO_HEADERS, response.content
        )


def _headers(response: ParsedResponse) -> dict[str, str]:
    """The headers by name, in small letters. Raises `BackendFailure` where one that names an account or a reason is
    there twice: joined by a comma, as HTTP libraries do, they would name an account that nobody has."""
    found: dict[str, str] = {}
    for name, value in response.raw_headers:
        key = name.decode("latin-1").lower()
        if key in found and key.startswith("auth-"):
            raise BackendError(f"backend sent {key} twice")
        found[key] = value.strip(b" \t").decode("latin-1")  # as text, UTF-8 would lose bytes that look like blanks
    return found


def _failure(error: exceptions.RequestException) -> BackendError:
    for kind, reason in _FAILURES:
        if isinstance(error, kind):
            return BackendError(f"{reason}: {error}", timeout=isinstance(error, exceptions.Timeout))
    return BackendError(str(error) or "the backend cannot be asked")

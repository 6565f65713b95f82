"""The backend of one entry: from a question to its response, or to the error that there is none."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from requests import Request, exceptions
from requests.utils import get_environ_proxies
from urllib3.util import parse_url

from pfxhttpd import __version__
from pfxhttpd.config.settings import DOVECOT_SASL, Entry, Server
from pfxhttpd.io.transport.request import RenderedRequest
from pfxhttpd.io.transport.response import ParsedResponse
from pfxhttpd.io.transport.session import DirectSession
from pfxhttpd.rules.breaker import Outcome, key_hash, outcome_of
from pfxhttpd.rules.known_secrets import entry_secrets, secret_forms, url_secrets, without_secrets
from pfxhttpd.rules.login import login_outcome
from pfxhttpd.rules.redact import REDACTED
from pfxhttpd.rules.response import BackendError, BackendResponse, is_failure, read_document
from pfxhttpd.rules.template import payload_of, target_of
from pfxhttpd.service.breaker import SharedBreaker
from pfxhttpd.service.entry_report import EntryReport
from pfxhttpd.service.oidc.backend_token import BackendToken
from pfxhttpd.service.request_metrics import ERROR, SUCCESS, TIMEOUT, EntryMeter
from pfxhttpd.service.worker_status import WorkerStatus

if TYPE_CHECKING:
    from pfxhttpd.io.otlp.tracer import RequestTrace, Tracer

Question = str | Mapping[str, str]
"""What fills the templates: the key of a lookup, the attributes of a policy request, or the user of a login."""

_UNAUTHORIZED = 401
_REDACTED = REDACTED.encode("ascii")
_NO_HEADERS: Mapping[str, str] = {}
_SUCCESS = Outcome.SUCCESS  # to read a member of an Enum takes as long as a call
_make = tuple.__new__  # the constructor of a NamedTuple is a function in Python, which takes twice as long
_REASONS = (
    (exceptions.Timeout, "backend timed out"),
    (exceptions.SSLError, "TLS with the backend failed"),
    (exceptions.ProxyError, "the proxy to the backend failed"),
    (exceptions.ContentDecodingError, "backend's answer cannot be decompressed"),
    (exceptions.ChunkedEncodingError, "backend's answer is broken"),
    (exceptions.ConnectionError, "connection to the backend failed"),
)


def default_headers(entry: Entry) -> dict[str, str]:
    """The header fields of the entry's requests. `custom_headers` replace the defaults and add to them."""
    headers = {"User-Agent": f"PostfixToHTTP/{__version__}", "Accept": "*/*"}
    if entry.method != "GET":
        headers["Content-Type"] = "application/json"
    headers["Accept-Encoding"] = "gzip" if entry.http_response_compression else "identity"
    if entry.http_request_compression and entry.method != "GET":
        headers["Content-Encoding"] = "gzip"
    names = {name.lower(): name for name in headers}
    for name, value in entry.headers:
        headers.pop(names.get(name.lower(), name), None)
        headers[name] = value
        names[name.lower()] = name
    if entry.backend_oidc.enabled:
        headers.pop(names.get("authorization", ""), None)  # the token's place
    return headers


def plain_target(target: str) -> str:
    """The target as it may be shown: without its query, which may contain a key of the API."""
    return target.partition("?")[0]


def proxies_for(url: str, server: Server) -> dict[str, str]:
    """The proxies by scheme, as requests wants them: the configured one, else those of the environment."""
    if server.http_client.proxy:
        return {"http": server.http_client.proxy, "https": server.http_client.proxy}
    found = get_environ_proxies(url, no_proxy=None)
    return {scheme: url for scheme, url in found.items() if scheme in ("http", "https", "all")}


class Backend:
    """Sends one entry's requests. One is made per worker and entry; it renders in advance whatever does not change."""

    def __init__(
        self,
        entry: Entry,
        server: Server,
        session: DirectSession,
        status: WorkerStatus,
        breaker: SharedBreaker,
        report: EntryReport,
        token: BackendToken | None = None,
        meter: EntryMeter | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """`report` gets the outcomes from whoever judges the responses. `token` provides the bearer token of every request
        if the entry has `backend_oidc_auth`. `meter` counts the HTTP requests if metrics are on, and `tracer` is given if
        requests are traced."""
        self.entry, self.report, self._meter = entry, report, meter
        self._token, self._bearer = token, ""
        self._status, self._breaker = status, breaker
        self._payload, self._target = payload_of(entry), target_of(entry)
        self._proxies = proxies_for(entry.target, server)
        secrets = entry_secrets(entry).union(*map(url_secrets, self._proxies.values()))
        self._secret_forms = self._configured_forms = secret_forms(secrets)
        url = self._target.static.decode() if self._target.static is not None else entry.target.partition("{{")[0]
        request = session.prepare_request(Request(entry.method, url, headers=default_headers(entry)))
        self._transport = session.get_adapter(url)
        self._request = RenderedRequest.from_request(request)
        self._tracer, self._span = tracer, http_span(entry, self._request)

    def query(self, question: Question, body: bytes | None = None) -> BackendResponse:
        """The response to `question`; `body` replaces the rendered payload.

        The JSON of the response is read and its status code is checked, but not for SASL entries: `rules.login` does
        that. Raises BackendError when there is no response that can be judged, without asking if the breaker is open.
        """
        now = time.monotonic()
        deadline = now + self.entry.timeout
        self._status.begin(self.entry, now, deadline)
        self.report.begin(now)
        try:
            if self._token is None:
                return self._attempt(question, body, deadline)
            self._authorize(self._token.current(deadline))
            response = self._attempt(question, body, deadline)
            if response.status == _UNAUTHORIZED and _UNAUTHORIZED not in self.entry.status_codes:
                self._authorize(self._token.replace(deadline))
                response = self._attempt(question, body, deadline)
            return response
        finally:
            self._status.end()

    def redact(self, text: str, password: str = "") -> str:
        """A text of the backend without our credentials, and without the password or the token that it was sent."""
        forms = self._secret_forms | secret_forms((password,)) if password else self._secret_forms
        return without_secrets(text, forms)

    def _authorize(self, bearer: str) -> None:
        """Send this bearer token with the next requests."""
        if bearer != self._bearer:
            self._bearer = bearer
            self._secret_forms = self._configured_forms | secret_forms((bearer,))
            self._request.headers["Authorization"] = f"Bearer {bearer}"
            self._request.render()

    def _attempt(self, question: Question, body: bytes | None, deadline: float) -> BackendResponse:
        """One request, whose outcome the breaker counts."""
        entry, breaker = self.entry, self._breaker
        decision = breaker.acquire()
        outcome, content = _SUCCESS, None
        began = time.monotonic() if self._meter is not None else 0.0
        try:
            response = self._send(question, body, deadline)
            status, content = response.status_code, response.body
            if self._bearer:
                content = content.replace(self._bearer.encode("ascii"), _REDACTED)  # a backend may echo the request
            if entry.kind != DOVECOT_SASL:
                answer = _make(BackendResponse, (status, _NO_HEADERS, content, read_document(entry, status, content)))
            else:
                headers = _headers(response)
                if self._bearer:
                    headers = {name: value.replace(self._bearer, REDACTED) for name, value in headers.items()}
                answer = BackendResponse(status, headers, content)
                outcome = login_outcome(entry, answer)
        except BackendError as error:
            if content is not None:
                error.response = BackendResponse(status, _NO_HEADERS, content)
            if self._meter is not None:
                result = TIMEOUT if error.timeout else ERROR
                self._meter.count_exchange(error.status, result, time.monotonic() - began)
            self._record(decision, outcome_of(error.status), question, error.timeout)
            raise
        except BaseException:
            # A defect of ours. The backend is not known to be down, and the cause may be this question.
            self._record(decision, Outcome.KEY_FAILURE, question)
            raise
        if self._meter is not None:
            usable = outcome is _SUCCESS and (entry.kind == DOVECOT_SASL or status in entry.status_codes)
            self._meter.count_exchange(status, SUCCESS if usable else ERROR, time.monotonic() - began)
        if outcome is not _SUCCESS or not breaker.healthy:
            self._record(decision, outcome, question)
        return answer

    def _record(self, decision: int, outcome: Outcome, question: Question, timed_out: bool = False) -> None:
        key = key_hash(question, self.entry.cache_ignore) if outcome is Outcome.KEY_FAILURE else 0
        self._breaker.record(decision, outcome, timed_out, key)

    def _send(self, question: Question, body: bytes | None, deadline: float) -> ParsedResponse:
        entry, request = self.entry, self._request
        if self._target.static is None:
            request.url = parse_url(self._target.render(question).decode()).url
            request.render()
        if body is None:
            body = self._payload.render(question)
        if entry.http_request_compression and body:
            body = gzip.compress(body, compresslevel=1)
        request.body = body
        trace = self._tracer.current if self._tracer is not None else None
        try:
            if trace is not None:
                return self._send_traced(trace, request, deadline)
            return self._transport.send(request, proxies=self._proxies, deadline=deadline)
        except exceptions.RequestException as error:
            raise _backend_error(error, self.redact) from error

    def _send_traced(self, trace: RequestTrace, request: RenderedRequest, deadline: float) -> ParsedResponse:
        exchange = trace.start_exchange(*self._span)
        try:
            request = request.with_header("traceparent", exchange.traceparent)
            response = self._transport.send(request, proxies=self._proxies, deadline=deadline)
        except BaseException as error:
            exchange.fail(error)
            raise
        status = response.status_code
        expected = status in self.entry.status_codes or status in self.entry.reject_status
        exchange.end(status, expected or (not is_failure(status) and "Auth-Status" in response.headers))
        return response


def http_span(entry: Entry, request: RenderedRequest) -> tuple[str, dict[str, str | int]]:
    """The name of the span of a request to the backend, and its attributes that do not change.

    The path is that of the configured target, with the placeholders instead of keys, and without the query, which may
    contain a key of the API.
    """
    scheme, host, port = request.origin
    url = plain_target(entry.target)
    path = "/" + url.partition("://")[2].partition("/")[2]
    attributes: dict[str, str | int] = {
        "http.request.method": entry.method,
        "url.scheme": scheme,
        "url.template": path,
        "server.address": host,
        "server.port": port,
    }
    if "{{" not in url:
        attributes["url.full"] = url
    return f"{entry.method} {path}", attributes


def _headers(response: ParsedResponse) -> dict[str, str]:
    """The headers by name, in lower case.

    Raises BackendError where a header that names an account or a reason occurs twice. HTTP libraries join the two
    with a comma, which would name an account that does not exist.
    """
    found: dict[str, str] = {}
    for name, value in response.raw_headers:
        key = name.decode("latin-1").lower()
        if key in found and key.startswith("auth-"):
            raise BackendError(f"backend sent {key} twice")
        found[key] = value.strip(b" \t").decode("latin-1")  # as text, UTF-8 would lose bytes that look like blanks
    return found


def _backend_error(error: exceptions.RequestException, redact: Callable[[str], str]) -> BackendError:
    for kind, reason in _REASONS:
        if isinstance(error, kind):
            return BackendError(redact(f"{reason}: {error}"), timeout=isinstance(error, exceptions.Timeout))
    return BackendError(redact(str(error)) or "the backend cannot be asked")

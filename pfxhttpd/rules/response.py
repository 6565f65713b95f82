"""What asking a backend comes to: a response that can be judged, or an error, which is always temporary.

A response counts as a backend failure for any status that says so (5xx, 408, 425, 429) and for a body that is not the
JSON it has to be. Whatever leaves a doubt is an error, so that absence is never invented.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from json.scanner import make_scanner
from typing import Any, NamedTuple

from pfxhttpd.config.settings import Entry
from pfxhttpd.rules.known_secrets import entry_secrets

JSON = Any
"""What json.loads returns: dict, list, str, int, float, bool or None."""

_BAD_REQUEST, _UNAUTHORIZED = 400, 401
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PLAIN_TO_TLS = "the port speaks TLS, so the target has to begin with https:"
_HINTS = (
    (b"plain HTTP request was sent to HTTPS port", _PLAIN_TO_TLS),
    (b"Client sent an HTTP request to an HTTPS server", _PLAIN_TO_TLS),
    (b"speaking plain HTTP to an SSL-enabled server port", _PLAIN_TO_TLS),
    (b"No required SSL certificate was sent", "the server demands a client certificate, see server.tls.cert"),
    (b"The SSL certificate error", "the server does not accept our client certificate"),
)
"""What is in the bodies of nginx, Go's net/http and Apache when they respond with 400, and what it means."""
_OVERLOADED = frozenset({408, 425, 429})
_BLANKS = " \t\r\n"
_BOM = b"\xef\xbb\xbf"


class BackendResponse(NamedTuple):
    """A complete HTTP response. Header names are in lower case; the body is decompressed.

    `document` is the body's JSON where `read_document` has read it, else None.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    document: JSON = None


class BackendError(Exception):
    """There is no response that could be judged. The cause is the backend, the network or a token; it is temporary.

    `reason` is one line without secrets. `timeout` is true if the deadline passed. `status` is the response's status
    code, 0 if there was none or if the response itself was broken. `response` is the response, if a whole one arrived.
    """

    def __init__(self, reason: str, timeout: bool = False, status: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.timeout = timeout
        self.status = status
        self.response: BackendResponse | None = None


def is_failure(status: int) -> bool:
    """Whether a status code means a backend failure."""
    return 500 <= status <= 599 or status in _OVERLOADED


def tls_hint(status: int, body: bytes) -> str:
    """What a response says about TLS that did not come from the API but from the web server before it; "" if nothing."""
    return next((hint for phrase, hint in _HINTS if phrase in body), "") if status == _BAD_REQUEST else ""


def status_hint(entry: Entry, response: BackendResponse) -> str:
    """What a status that the entry does not expect says about the set-up, in brackets after a blank; "" if nothing."""
    status = response.status
    if status == _UNAUTHORIZED:
        known = entry.backend_oidc.enabled or entry_secrets(entry)
        ours = "refuses our credentials" if known else "demands credentials, and none are configured"
        return f" (the backend {ours})"
    hint = tls_hint(status, response.body)
    if hint:
        return f" ({hint})"
    return " (a redirect, which is not followed)" if status in _REDIRECTS else ""


def check_status(status: int) -> None:
    """Raises BackendError for a status that means a backend failure."""
    if is_failure(status):
        raise BackendError(f"backend answered with status code {status}", status=status)


def read_document(entry: Entry, status: int, body: bytes) -> JSON:
    """The JSON of a response with a status that the entry expects; None for another status.

    Raises BackendError for a status that means a backend failure, and for a body that is no JSON.
    """
    if status in entry.status_codes:
        return parse(body)
    check_status(status)
    return None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_scan = make_scanner(json.JSONDecoder(parse_constant=_no_constant))  # type: ignore[arg-type]  # takes a decoder
"""What `JSONDecoder.raw_decode` calls. It raises StopIteration for what is no JSON."""


def parse(body: bytes) -> JSON:
    """The JSON object or array that a body consists of. Raises BackendError for anything else."""
    if body.startswith(_BOM):
        body = body[3:]
    try:
        text = body.decode().strip(_BLANKS)
        document, end = _scan(text, 0)
    except (
        ValueError,
        StopIteration,
        RecursionError,
    ):  # UnicodeDecodeError and numbers of too many digits are ValueErrors
        raise BackendError("backend's answer is no JSON" if body else "backend's answer is empty") from None
    if end != len(text):
        raise BackendError("backend's answer has something behind its JSON")
    if type(document) is not dict and type(document) is not list:
        raise BackendError("backend's answer is neither a JSON object nor an array")
    return document

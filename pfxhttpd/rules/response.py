"""What asking a backend comes to: a response that can be judged, or an error, which is always temporary.

A response counts as a backend failure for any status that says so (5xx, 408, 425, 429) and for a body that is not the
JSON it has to be. Whatever leaves a doubt is an error, so that absence is never invented.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from pfxhttpd.config.settings import Entry

JSON = Any
"""What json.loads returns: dict, list, str, int, float, bool or None."""

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
    code, 0 if there was none or if the response itself was broken.
    """

    def __init__(self, reason: str, timeout: bool = False, status: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.timeout = timeout
        self.status = status


def is_failure(status: int) -> bool:
    """Whether a status code means a backend failure."""
    return 500 <= status <= 599 or status in _OVERLOADED


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


_raw_decode = json.JSONDecoder(parse_constant=_no_constant).raw_decode


def parse(body: bytes) -> JSON:
    """The JSON object or array that a body consists of. Raises BackendError for anything else."""
    if body.startswith(_BOM):
        body = body[3:]
    try:
        text = body.decode().strip(_BLANKS)
        document, end = _raw_decode(text)
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

"""From a backend's answer to the reply: what is a value, what is absence, what is an error, and what is in doubt.

Absence (`NOTFOUND`, `DUNNO`) comes only from a JSON document that the backend sent with an expected status. Whatever
leaves a doubt raises BackendFailure, which is temporary and may be answered from the cache.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

from pfxhttpd.config.settings import POLICY_SERVICE, Entry
from pfxhttpd.rules.response import BackendError, BackendResponse
from pfxhttpd.rules.value import JSON, UnsupportedValue, find, render
from pfxhttpd.wire import policy, socketmap
from pfxhttpd.wire.socketmap import NOT_FOUND, SocketMapReply
from pfxhttpd.wire.text import clean, one_line

_BLANKS = " \t\r\n"
_BOM = b"\xef\xbb\xbf"
_OVERLOADED = frozenset({408, 425, 429})
_UNNAMED_ERROR = "backend reports an error"


class MapVerdict(NamedTuple):
    """The reply to a lookup and whether to remember it. `problem` is a line for the log, "" when all is well."""

    reply: SocketMapReply
    cacheable: bool
    problem: str = ""


class PolicyVerdict(NamedTuple):
    """The action for a policy request and whether to remember it. `problem` as in MapVerdict."""

    action: str
    cacheable: bool
    problem: str = ""


_ABSENT = MapVerdict(NOT_FOUND, False)
_DUNNO = PolicyVerdict(policy.DUNNO, False)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_raw_decode = json.JSONDecoder(parse_constant=_no_constant).raw_decode


def parse(answer: BackendResponse) -> JSON:
    """The JSON object or array in the answer's body. Raises BackendFailure for anything else."""
    body = answer.body
    if body.startswith(_BOM):
        body = body[3:]
    try:
        text = body.decode().strip(_BLANKS)
        document, end = _raw_decode(text)
    except (ValueError, RecursionError):  # UnicodeDecodeError and numbers of too many digits are ValueErrors
        raise BackendError("backend's answer is no JSON" if body else "backend's answer is empty") from None
    if end != len(text):
        raise BackendError("backend's answer has something behind its JSON")
    if type(document) is not dict and type(document) is not list:
        raise BackendError("backend's answer is neither a JSON object nor an array")
    return document


def map_reply(entry: Entry, answer: BackendResponse) -> MapVerdict:
    """The reply that the answer means for a lookup in `entry`. Raises BackendFailure."""
    problem = _unexpected(entry, answer)
    if problem:
        return _refused(problem)
    document = parse(answer)
    if entry.error_field:
        problem = _error(entry, document)
        if problem:
            return _refused(problem)
    try:
        text = render(find(document, entry.value_field))
    except UnsupportedValue as what:
        return _refused(f"value is {what}")
    return _ABSENT if text is None else MapVerdict(SocketMapReply(socketmap.OK, text), True)


def policy_action(entry: Entry, answer: BackendResponse) -> PolicyVerdict:
    """The action that the answer means for a request to `entry`. Raises BackendFailure."""
    problem = _unexpected(entry, answer)
    if problem:
        return PolicyVerdict(entry.failure_action, False, problem)
    document = parse(answer)
    if entry.error_field:
        problem = _error(entry, document)
        if problem:
            return PolicyVerdict(entry.failure_action, False, problem)
    try:
        text = render(find(document, entry.value_field))
    except UnsupportedValue as what:
        return PolicyVerdict(entry.failure_action, False, f"action is {what}")
    if text is None:
        return _DUNNO
    action = clean(text).strip()
    if policy.valid_action(action):
        return PolicyVerdict(action, True)
    return PolicyVerdict(entry.failure_action, False, one_line(f"not a valid action: {action}"))


def failure_reply(failure: BackendError) -> SocketMapReply:
    """The reply to a lookup whose backend failed, where the cache knows none."""
    return SocketMapReply(socketmap.TIMEOUT if failure.timeout else socketmap.TEMP, one_line(failure.reason))


def check(entry: Entry) -> Iterator[tuple[str, str]]:
    """What is wrong with the entry, each with its key: the action for failures has to be one that Postfix obeys."""
    if entry.kind == POLICY_SERVICE and not policy.valid_action(entry.failure_action):
        yield "failure_action", "must begin with a word, or with a 4xx or 5xx code followed by text"


def _unexpected(entry: Entry, answer: BackendResponse) -> str:
    """What to say of a status that the entry does not expect, "" of one that it does. Raises BackendFailure."""
    status = answer.status
    if status in entry.status_codes:
        return ""
    if 500 <= status <= 599 or status in _OVERLOADED:
        raise BackendError(f"backend answered with status code {status}")
    return f"unexpected status code {status}"


def _error(entry: Entry, document: JSON) -> str:
    """What the error field says, on one line; "" when it is absent, empty, false or the value that means no error."""
    value = find(document, entry.error_field)
    if value is False or value == {}:
        return ""
    try:
        text = render(value)
    except UnsupportedValue:
        return _UNNAMED_ERROR
    if text is None or text == entry.no_error_value:
        return ""
    return one_line(text) or _UNNAMED_ERROR


def _refused(problem: str) -> MapVerdict:
    return MapVerdict(SocketMapReply(socketmap.PERM, problem), False, problem)

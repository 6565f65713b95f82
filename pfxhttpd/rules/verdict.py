"""From a backend's response to the reply: what is a value, what is absence, and what is an error.

Absence (`NOTFOUND`, `DUNNO`) comes only from a JSON document that the backend sent with an expected status. Responses
that leave a doubt do not get here: `response.read_document` has raised BackendError for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from pfxhttpd.config.settings import POLICY_SERVICE, Entry
from pfxhttpd.rules.response import JSON, BackendError, BackendResponse, status_hint
from pfxhttpd.rules.value import UnsupportedValue, find, render
from pfxhttpd.wire import policy, socketmap
from pfxhttpd.wire.sanitize import clean, one_line
from pfxhttpd.wire.socketmap import NOT_FOUND, SocketMapReply

_UNNAMED_ERROR = "backend reports an error"
_make = tuple.__new__  # the constructor of a NamedTuple is a function in Python, which takes twice as long


class MapVerdict(NamedTuple):
    """The reply to a lookup, and whether the cache may keep it. `problem` is a line for the log, "" without a problem."""

    reply: SocketMapReply
    cacheable: bool
    problem: str = ""


class PolicyVerdict(NamedTuple):
    """The action for a policy request, and whether the cache may keep it. `problem` is as in MapVerdict."""

    action: str
    cacheable: bool
    problem: str = ""


Redact = Callable[[str], str]
"""Removes the secrets of the exchange from a text of the backend (`known_secrets.without_secrets`)."""

_ABSENT = MapVerdict(NOT_FOUND, False)
_DUNNO = PolicyVerdict(policy.DUNNO, False)


def map_reply(entry: Entry, response: BackendResponse, redact: Redact = str) -> MapVerdict:
    """The reply to a lookup in `entry`, from a response with its document. A value is never changed by `redact`."""
    if response.status not in entry.status_codes:
        return _refused(_unexpected(entry, response))
    document = _document(response)
    if entry.error_field:
        problem = reported_error(entry, document, redact)
        if problem:
            return _refused(problem)
    try:
        text = render(find(document, entry.value_field))
    except UnsupportedValue as error:
        return _refused(f"value is {error}")
    return _ABSENT if text is None else _make(MapVerdict, (_make(SocketMapReply, (socketmap.OK, text)), True, ""))


def policy_action(entry: Entry, response: BackendResponse, redact: Redact = str) -> PolicyVerdict:
    """The action for a policy request to `entry`, from a response with its document. An action is never changed by
    `redact`."""
    if response.status not in entry.status_codes:
        return PolicyVerdict(entry.failure_action, False, _unexpected(entry, response))
    document = _document(response)
    if entry.error_field:
        problem = reported_error(entry, document, redact)
        if problem:
            return PolicyVerdict(entry.failure_action, False, problem)
    try:
        text = render(find(document, entry.value_field))
    except UnsupportedValue as error:
        return PolicyVerdict(entry.failure_action, False, f"action is {error}")
    if text is None:
        return _DUNNO
    action = clean(text).strip()
    if policy.valid_action(action):
        return PolicyVerdict(action, True)
    return PolicyVerdict(entry.failure_action, False, one_line(redact(f"not a valid action: {action}")))


def failure_reply(error: BackendError) -> SocketMapReply:
    """The reply to a lookup whose backend failed and for which the cache has no value."""
    return SocketMapReply(socketmap.TIMEOUT if error.timeout else socketmap.TEMP, one_line(error.reason))


def check(entry: Entry) -> Iterator[tuple[str, str]]:
    """Yields (key, what is wrong with its value): `failure_action` has to be an action that Postfix obeys."""
    if entry.kind == POLICY_SERVICE and not policy.valid_action(entry.failure_action):
        yield "failure_action", "must begin with a word, or with a 4xx or 5xx code followed by text"


def _document(response: BackendResponse) -> JSON:
    """The response's JSON. A caller that has not read it would make up an absence; that is an error instead."""
    if response.document is None:
        raise BackendError("the response's JSON was not read")
    return response.document


def _unexpected(entry: Entry, response: BackendResponse) -> str:
    """What to report of a status that the entry does not expect."""
    return f"unexpected status code {response.status}{status_hint(entry, response)}"


def reported_error(entry: Entry, document: JSON, redact: Redact) -> str:
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
    return one_line(redact(text)) or _UNNAMED_ERROR


def _refused(problem: str) -> MapVerdict:
    return MapVerdict(SocketMapReply(socketmap.PERM, problem), False, problem)

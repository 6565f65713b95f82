"""Which rule made a reply out of a response: a sentence for `pfxhttpd query --explain`.

The reply itself is made by `rules.verdict` and `rules.login`, whose functions are asked here once more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pfxhttpd.config.settings import DOVECOT_SASL, SOCKET_MAP, Entry
from pfxhttpd.rules.login import LoginAccepted, login_verdict
from pfxhttpd.rules.response import BackendError, BackendResponse, read_document, status_hint
from pfxhttpd.rules.value import MISSING, field_names, find
from pfxhttpd.rules.verdict import map_reply, policy_action, reported_error

Redact = Callable[[str], str]


def explain(entry: Entry, response: BackendResponse, user: str = "", redact: Redact = str) -> str:
    """The rule, beginning with the key of the configuration that decides, if there is one. `user` is that of a login.

    `redact` removes the secrets of the exchange from a text of the backend.
    """
    try:
        if entry.kind == DOVECOT_SASL:
            return _login(entry, response, user, redact)
        return _lookup(entry, response, redact)
    except BackendError as error:
        return f"{redact(error.reason)}; this is a failure of the backend, so the reply is temporary"


def _lookup(entry: Entry, response: BackendResponse, redact: Redact) -> str:
    document = read_document(entry, response.status, response.body)
    if response.status not in entry.status_codes:
        hint = status_hint(entry, response)
        return f"status_code: {response.status} is not {_codes(entry.status_codes)}{hint}, so the reply is an error"
    response = response._replace(document=document)
    reply = map_reply if entry.kind == SOCKET_MAP else policy_action
    problem = reply(entry, response, redact).problem
    value = find(document, entry.value_field)
    if problem and entry.error_field and reported_error(entry, document, redact):
        unlike = f" and is not {entry.no_error_value!r} (no_error_value)" if entry.no_error_value else ""
        return f"error_field: {entry.error_field} holds an error{unlike}"
    if problem:
        return f"value_field: {entry.value_field} cannot be used: {problem}"
    if value is MISSING:
        return (
            f"value_field: the response has no {entry.value_field}, so there is no value;"
            f" it has the fields {redact(field_names(document))}"
        )
    if value in (None, "", []):
        return f"value_field: {entry.value_field} is empty, so there is no value"
    return f"value_field: {entry.value_field} holds the value"


def _login(entry: Entry, response: BackendResponse, user: str, redact: Redact) -> str:
    status = response.status
    verdict = login_verdict(entry, response, user, redact)
    if isinstance(verdict, LoginAccepted):
        account = "the header Auth-User" if "auth-user" in response.headers else "the name that the user gave"
        return f"status_code: {status} accepts the login, and the account is {account}"
    if status in entry.status_codes:
        return f"status_code: {status} accepts the login, but Auth-User is not a name: {verdict.reason}"
    if status in entry.reject_status:
        return f"reject_status: {status} refuses the login"
    return f"the header Auth-Status refuses the login, with the status code {status}"


def _codes(codes: Iterable[int]) -> str:
    return " or ".join(map(str, sorted(codes)))

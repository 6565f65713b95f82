"""A login by password: the question to the backend, and what its answer says.

The rule that matters: a doubt is temporary. Postfix tells its client "535 wrong password" for every refusal, and mail
clients then make their user type it again; so only the backend's own word may refuse, and only it may let in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pfxhttpd.config.settings import Entry
from pfxhttpd.rules.response import BackendError, BackendResponse
from pfxhttpd.wire.dovecot_exchange import Attempt
from pfxhttpd.wire.text import account_error, one_line

_FIELDS = {
    "client_ip": "rip",
    "local_ip": "lip",
    "client_port": "rport",
    "local_port": "lport",
    "client_hostname": "client_hostname",
    "ssl_protocol": "ssl_protocol",
    "ssl_cipher": "ssl_cipher",
    "client_id": "client_id",
}
"""The backend's name of a field -> Dovecot's name of the parameter."""

_OVERLOADED = frozenset({408, 425, 429})
_UNAUTHORIZED, _FORBIDDEN = 401, 403
_NO_REASON = "authentication failed"


class LoginAccepted(NamedTuple):
    """The backend said yes, and `account` is who logged in: fit to be written (`wire.text`)."""

    account: str


class LoginRefused(NamedTuple):
    """The backend said no, or named an account that cannot be. `reason` is one line, for the client and the log."""

    reason: str


class CredentialsRefused(BackendError):
    """The backend does not know us: nothing can be said of the user. It is up, so the breaker need not hear of it."""


def login_context(entry: Entry, attempt: Attempt) -> dict[str, str]:
    """Where the attempt came from and how, as far as known: what accompanies a password or a token to its judge."""
    told = attempt.parameters
    fields = {"protocol": told.get("service", ""), "method": attempt.mechanism}
    fields |= {name: told.get(parameter, "") for name, parameter in _FIELDS.items()}
    fields["local_port"] = fields["local_port"] or entry.default_local_port
    if "secured" in told:
        fields["ssl"] = "on"
    return {name: value for name, value in fields.items() if value}


def password_request(entry: Entry, attempt: Attempt) -> dict[str, str]:
    """The JSON object to POST. It holds the password: for the request's body and nothing else."""
    return {"username": attempt.user, "password": attempt.secret, **login_context(entry, attempt)}


def login_verdict(entry: Entry, answer: BackendResponse, user: str) -> LoginAccepted | LoginRefused:
    """What the answer says of `user`'s password. Raises BackendFailure where it says nothing: that is temporary.

    An expected status lets in the account of `Auth-User`, else `user`; an `Auth-User` that is there but unfit refuses.
    5xx, 408, 425 and 429 are an outage. 401 always, and 403 without `Auth-Status`, mean that our own credentials were
    not accepted (OwnCredentials): a backend that knows us says 403 with `Auth-Status` for a wrong password. Every other
    status refuses with `Auth-Status` as the reason.
    """
    status = answer.status
    if status in entry.status_codes:
        account = _text(answer.headers, "auth-user")
        account = user if account is None else account
        unfit = account_error(account)
        return LoginRefused(unfit) if unfit else LoginAccepted(account)
    if 500 <= status <= 599 or status in _OVERLOADED:
        raise BackendError(f"backend answered with status code {status}")
    reason = one_line(_text(answer.headers, "auth-status") or "")
    if status == _UNAUTHORIZED or (status == _FORBIDDEN and not reason):
        raise CredentialsRefused(f"backend refused our credentials with status code {status}")
    return LoginRefused(reason or _NO_REASON)


def _text(headers: Mapping[str, str], name: str) -> str | None:
    """A header's value, None when it is not there. HTTP libraries read its bytes as Latin-1, while backends write UTF-8."""
    value = headers.get(name)
    if value is None:
        return None
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value

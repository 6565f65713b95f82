"""A login by password: the request to the backend, and what its response says about the user.

Only the backend's own statement may accept or refuse a user; every doubt is temporary. Postfix tells its client "535
authentication failed" for every refusal, and mail clients then ask their user for a new password.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from pfxhttpd.config.settings import Entry
from pfxhttpd.rules.breaker import SERVER_ERROR, Outcome, outcome_of
from pfxhttpd.rules.response import BackendError, BackendResponse, check_status, status_hint
from pfxhttpd.wire.dovecot_exchange import Attempt
from pfxhttpd.wire.sanitize import account_error, one_line

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

_UNAUTHORIZED, _FORBIDDEN = 401, 403
_NO_REASON = "authentication failed"


class LoginAccepted(NamedTuple):
    """The backend accepted the user. `account` is the name to report; it is fit for the wire (`wire.sanitize`)."""

    account: str


class LoginRefused(NamedTuple):
    """The backend refused the user, or named an unfit account. `reason` is one line, for the client and the log."""

    reason: str


class CredentialsRefused(BackendError):
    """The backend refused our own credentials, so nothing is known about the user. The backend itself is up."""


def check(entry: Entry) -> Iterator[tuple[str, str]]:
    """Yields (key, what is wrong with its value): a code of `reject_status` cannot also accept."""
    for code in sorted(entry.reject_status & entry.status_codes):
        yield "reject_status", f"{code} is also in `status_code`, which accepts the login"


def login_context(entry: Entry, attempt: Attempt) -> dict[str, str]:
    """What is known of the attempt's origin. It accompanies a password or a token to the backend or provider."""
    parameters = attempt.parameters
    fields = {"protocol": parameters.get("service", ""), "method": attempt.mechanism}
    fields |= {name: parameters.get(key, "") for name, key in _FIELDS.items()}
    fields["local_port"] = fields["local_port"] or entry.default_local_port
    if "secured" in parameters:
        fields["ssl"] = "on"
    return {name: value for name, value in fields.items() if value}


def password_request(entry: Entry, attempt: Attempt) -> dict[str, str]:
    """The JSON object to POST. It contains the password and must not go anywhere but into the request's body."""
    return {"username": attempt.user, "password": attempt.secret, **login_context(entry, attempt)}


def login_verdict(
    entry: Entry, response: BackendResponse, user: str, redact: Callable[[str], str] = str
) -> LoginAccepted | LoginRefused:
    """What the response says about `user`'s password. Raises BackendError where it says nothing; that is temporary.

    An expected status accepts the account that `Auth-User` names, else `user`. An unfit `Auth-User` refuses. So do the
    codes in `reject_status`, and every other code with `Auth-Status`, which is the reason, apart from 401, 408, 425, 429
    and 5xx. 401, and 403 without `Auth-Status`, mean that the backend refused our own credentials (CredentialsRefused).
    Any code without `Auth-Status` may come from a web server that knows nothing about users, as 404 for a wrong URL does.

    `redact` removes the secrets of the exchange from a text of the backend (`known_secrets.without_secrets`).
    """
    status = response.status
    if status in entry.status_codes:
        account = _header_text(response.headers, "auth-user")
        account = user if account is None else account
        error = account_error(account)
        return LoginRefused(error) if error else LoginAccepted(account)
    reason = _auth_status(response, redact)
    if status in entry.reject_status:
        return LoginRefused(reason or _NO_REASON)
    check_status(status)
    if status == _UNAUTHORIZED or (status == _FORBIDDEN and not reason):
        problem = f"backend refused our credentials with status code {status}"
        raise CredentialsRefused(
            f"{problem}; for a wrong password it should answer 403 with Auth-Status", status=status
        )
    if reason:
        return LoginRefused(reason)
    hint = status_hint(entry, response)
    raise BackendError(f"backend answered with status code {status} and without Auth-Status{hint}", status=status)


def login_outcome(entry: Entry, response: BackendResponse) -> Outcome:
    """What the response to a login says about the backend. A 500 that says something about the user is no failure."""
    status = response.status
    expected = status in entry.status_codes or status in entry.reject_status
    if expected or (status == SERVER_ERROR and _auth_status(response)):
        return Outcome.SUCCESS
    return outcome_of(status)


def _auth_status(response: BackendResponse, redact: Callable[[str], str] = str) -> str:
    """The `Auth-Status` header as one line, "" if there is none."""
    return one_line(redact(_header_text(response.headers, "auth-status") or ""))


def _header_text(headers: Mapping[str, str], name: str) -> str | None:
    """A header's value, or None. HTTP libraries decode it as Latin-1, while backends write UTF-8."""
    value = headers.get(name)
    if value is None:
        return None
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value

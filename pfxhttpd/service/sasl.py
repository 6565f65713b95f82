"""Logins: is this password right? (Dovecot's auth-client protocol, see `wire.dovecot`)"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from pfxhttpd.config.settings import DOVECOT_SASL, Entry
from pfxhttpd.io.handoff import Connection
from pfxhttpd.io.log import Logger
from pfxhttpd.io.scoreboard.entry_counters import FOUND, REFUSED
from pfxhttpd.rules.jwt import TokenRefused
from pfxhttpd.rules.login import LoginAccepted, LoginRefused, login_verdict, password_request
from pfxhttpd.rules.response import BackendError
from pfxhttpd.service import CloseConnection
from pfxhttpd.service.backend import Backend
from pfxhttpd.service.log_context import LogContext
from pfxhttpd.service.oidc.login import TokenLogin
from pfxhttpd.service.oidc.provider import login_providers
from pfxhttpd.wire import ProtocolError
from pfxhttpd.wire.dovecot import SaslSession
from pfxhttpd.wire.dovecot_exchange import Attempt
from pfxhttpd.wire.dovecot_lines import take_line
from pfxhttpd.wire.mechanisms import PASSWORD_MECHANISMS, TOKEN_MECHANISMS, Mechanism
from pfxhttpd.wire.recognize import DOVECOT, recognize

if TYPE_CHECKING:
    from pfxhttpd.io.otlp.tracer import Tracer

DISCONNECT = "disconnect"

MAX_LINES = 16
"""Lines that one call of `handle` answers at most, so that other connections get their turn."""


def mechanisms(entry: Entry | None) -> tuple[Mechanism, ...]:
    """The mechanisms that an entry's listener offers."""
    if entry is not None and entry.sasl_oidc.enabled:
        return PASSWORD_MECHANISMS + TOKEN_MECHANISMS
    return PASSWORD_MECHANISMS


def error_challenge(entry: Entry | None) -> tuple[str, str]:
    """The content of the error challenge for a refused token: the scopes that are required, and the URL of the
    discovery document of the first provider (RFC 7628 section 3.2.2)."""
    for provider in login_providers(entry) if entry is not None else ():
        return " ".join(provider.required_scopes), provider.configuration_uri
    return "", ""


class SaslService:
    """Answers the lines of SASL clients. A connection's listener names the entry whose backend decides."""

    def __init__(
        self,
        backends: Mapping[str, Backend],
        logger: Logger,
        token_logins: Mapping[str, TokenLogin] | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """`token_logins` validate the tokens for the entries that accept tokens, by name of the entry."""
        self._backends, self._log, self._tracer = backends, logger, tracer
        self._token_logins = token_logins or {}

    def handle(self, connection: Connection) -> bytes | None:
        """The bytes to send for the next line in `connection.unread`, which is consumed; None if it is not complete.

        A line without a reply is handled together with the one that follows. A client that sends its handshake and its
        login in one piece, as Exim does, is then answered in one step, and its password waits nowhere in between.
        Raises `wire.ProtocolError` for a line that does not end and for a client of another protocol, which would wait for
        ever, and CloseConnection.
        """
        if not connection.state and recognize(connection.unread) not in ("", DOVECOT):
            raise ProtocolError("not the Dovecot authentication protocol")
        taken = take_line(connection.unread)
        if taken is None:
            return None
        backend = self._backends.get(connection.name)
        entry = backend.entry if backend else None
        offered, challenge = mechanisms(entry), error_challenge(entry)
        if connection.state:
            session = SaslSession.thaw(connection.state, offered, *challenge)
        else:
            session = SaslSession(offered, *challenge)
        reply = b""
        for _ in range(MAX_LINES):
            line, used = taken
            connection.unread = connection.unread[used:]
            reply = self._answer(backend, session, line, connection)
            taken = None if reply else take_line(connection.unread)
            if taken is None:
                break
        connection.state = session.freeze()
        return reply

    def _answer(self, backend: Backend | None, session: SaslSession, line: bytes, connection: Connection) -> bytes:
        """The bytes to send for one line, b"" for none. Raises CloseConnection."""
        trace = self._tracer.begin() if self._tracer is not None else None
        context = LogContext(connection, trace)
        result = session.receive_line(line)
        if trace is not None and result.attempt:
            trace.decoded(DOVECOT_SASL, connection.name, connection.name)
        if result.note and self._log.debug:
            self._log.debug("SASL line", **context.fields, note=result.note)
        if result.close:
            raise CloseConnection(result.close)
        if result.attempt:
            return result.send + self._decide(backend, session, result.attempt, context)
        return result.send

    def _decide(self, backend: Backend | None, session: SaslSession, attempt: Attempt, context: LogContext) -> bytes:
        """The reply to the attempt. Raises CloseConnection where Postfix would take a reply for a wrong password."""
        fields = {
            **context.fields,
            "user": attempt.user,
            "mechanism": attempt.mechanism,
            "rip": attempt.parameters.get("rip"),
        }
        try:
            if backend is None:
                raise BackendError("the configuration has no such entry any more")
            verdict: LoginAccepted | LoginRefused
            if attempt.token:
                backend.report.begin(time.monotonic())
                verdict = LoginAccepted(self._token_logins[backend.entry.name].account(attempt))
            else:
                body = json.dumps(password_request(backend.entry, attempt)).encode()
                redact = partial(backend.redact, password=attempt.secret)
                response = backend.query(attempt.user, body)
                if self._log.debug:
                    backend.report.log_response(response, context.fields, redact)
                verdict = login_verdict(backend.entry, response, attempt.user, redact)
        except TokenRefused as refused:
            if backend is not None:
                backend.report.count(REFUSED)
            if self._log.info:
                self._log.info("Authentication failed", **fields, reason=refused.reason)
            return session.fail(attempt, refused.reason, status=refused.status)
        except BackendError as error:
            if backend is not None:
                error.reason = backend.redact(error.reason, attempt.secret)
                backend.report.failed("Authentication could not be decided", error, fields, cached=None)
            elif self._log.info:
                self._log.info("Authentication could not be decided", **fields, reason=error.reason)
            if backend is None or backend.entry.temporary_failure == DISCONNECT:
                raise CloseConnection("temporary authentication failure") from error
            return session.fail(attempt, "temporary authentication failure", temp=True)
        if isinstance(verdict, LoginAccepted):
            backend.report.count(FOUND)
            if self._log.info:
                self._log.info("Authentication succeeded", **fields, account=verdict.account)
            return session.succeed(attempt, verdict.account)
        backend.report.count(REFUSED)
        if self._log.info:
            self._log.info("Authentication failed", **fields, reason=verdict.reason)
        return session.fail(attempt, verdict.reason)

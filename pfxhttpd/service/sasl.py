"""Logins: is this password right? (Dovecot's auth-client protocol, see `wire.dovecot`)"""

from __future__ import annotations

import json
from collections.abc import Mapping

from pfxhttpd.config.settings import Entry
from pfxhttpd.io.handoff import Connection
from pfxhttpd.io.log import Logger
from pfxhttpd.rules.login import LoginAccepted, login_verdict, password_request
from pfxhttpd.rules.response import BackendError
from pfxhttpd.service import CloseConnection
from pfxhttpd.service.backend import Backend
from pfxhttpd.service.log_context import LogContext
from pfxhttpd.wire.dovecot import SaslSession
from pfxhttpd.wire.dovecot_exchange import Attempt
from pfxhttpd.wire.dovecot_lines import take_line
from pfxhttpd.wire.mechanisms import PASSWORD_MECHANISMS, Mechanism

DISCONNECT = "disconnect"

MAX_LINES = 16
"""Lines that one call of `handle` answers at most, so that other connections get their turn."""


def mechanisms(entry: Entry | None) -> tuple[Mechanism, ...]:
    """The mechanisms that an entry's listener offers."""
    return PASSWORD_MECHANISMS


class SaslService:
    """Answers the lines of SASL clients. A connection's listener names the entry whose backend decides."""

    def __init__(self, backends: Mapping[str, Backend], logger: Logger) -> None:
        self._backends, self._log = backends, logger

    def handle(self, connection: Connection) -> bytes | None:
        """The bytes to send for the next line in `connection.unread`, which is consumed; None if it is not complete.

        A line without a reply is handled together with the one that follows. A client that sends its handshake and its
        login in one piece, as Exim does, is then answered in one step, and its password waits nowhere in between.
        Raises `wire.ProtocolError` for a line that does not end, and CloseConnection.
        """
        taken = take_line(connection.unread)
        if taken is None:
            return None
        backend = self._backends.get(connection.name)
        offered = mechanisms(backend.entry if backend else None)
        session = SaslSession.thaw(connection.state, offered) if connection.state else SaslSession(offered)
        reply = b""
        for _ in range(MAX_LINES):
            line, used = taken
            connection.unread = connection.unread[used:]
            reply = self._answer(backend, session, line, LogContext(connection))
            taken = None if reply else take_line(connection.unread)
            if taken is None:
                break
        connection.state = session.freeze()
        return reply

    def _answer(self, backend: Backend | None, session: SaslSession, line: bytes, context: LogContext) -> bytes:
        """The bytes to send for one line, b"" for none. Raises CloseConnection."""
        result = session.receive_line(line)
        if result.note and self._log.debug:
            self._log.debug("SASL line", **context.fields, note=result.note)
        if result.close:
            raise CloseConnection(result.close)
        if result.attempt:
            return result.send + self._decide(backend, session, result.attempt, context)
        return result.send

    def _decide(self, backend: Backend | None, session: SaslSession, attempt: Attempt, context: LogContext) -> bytes:
        """The reply to the attempt. Raises CloseConnection where Postfix would take a reply for a wrong password."""
        fields = {**context.fields, "user": attempt.user, "mechanism": attempt.mechanism}
        try:
            if backend is None:
                raise BackendError("the configuration has no such entry any more")
            body = json.dumps(password_request(backend.entry, attempt)).encode()
            verdict = login_verdict(backend.entry, backend.query(attempt.user, body), attempt.user)
        except BackendError as error:
            if self._log.info:
                self._log.info("Authentication could not be decided", **fields, reason=error.reason)
            if backend is None or backend.entry.temporary_failure == DISCONNECT:
                raise CloseConnection("temporary authentication failure") from error
            return session.fail(attempt, "temporary authentication failure", temp=True)
        if isinstance(verdict, LoginAccepted):
            if self._log.info:
                self._log.info("Authentication succeeded", **fields, account=verdict.account)
            return session.succeed(attempt, verdict.account)
        if self._log.info:
            self._log.info("Authentication failed", **fields, reason=verdict.reason)
        return session.fail(attempt, verdict.reason)

"""Logins: is this password right? (Dovecot's auth-client protocol, see `wire.dovecot`)"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial

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

TOGETHER = 16
"""Lines that are answered in one step at most; then others have their turn."""


def mechanisms(entry: Entry | None) -> tuple[Mechanism, ...]:
    """What is offered to the clients of an entry's listener."""
    return PASSWORD_MECHANISMS


class SaslService:
    """Answers the lines of SASL clients; the client's listener names the entry whose backend decides."""

    def __init__(self, backends: Mapping[str, Backend], logger: Logger) -> None:
        self._backends, self._log = backends, logger

    def step(self, client: Connection) -> bytes | None:
        """What to send for the next line in `client.unread`, which is consumed; None when it is not whole yet.

        Lines that call for nothing go together with the one that follows: whoever greets and asks in one piece, as Exim
        does, is then answered in one step, and its password waits nowhere in between.
        Raises `wire.ProtocolError` for a line that does not end, `HangUp`.
        """
        taken = take_line(client.unread)
        if taken is None:
            return None
        backend = self._backends.get(client.name)
        offered = mechanisms(backend.entry if backend else None)
        connection = SaslSession.thaw(client.state, offered) if client.state else SaslSession(offered)
        reply = b""
        for _ in range(TOGETHER):
            line, used = taken
            client.unread = client.unread[used:]
            reply = self._answer(backend, connection, line, LogContext(client))
            taken = None if reply else take_line(client.unread)
            if taken is None:
                break
        client.state = connection.freeze()
        return reply

    def _answer(self, backend: Backend | None, connection: SaslSession, line: bytes, trace: LogContext) -> bytes:
        """What to send for one line, b"" for nothing. Raises `HangUp`."""
        turn = connection.receive_line(line)
        if turn.note and self._log.debug:
            self._log.debug("SASL line", **trace.fields, note=turn.note)
        if turn.close:
            raise CloseConnection(turn.close)
        if turn.attempt:
            return turn.send + self._decide(backend, connection, turn.attempt, trace)
        return turn.send

    def _decide(self, backend: Backend | None, connection: SaslSession, attempt: Attempt, trace: LogContext) -> bytes:
        """The bytes that answer the attempt. Raises `HangUp` where Postfix would take them for a wrong password."""
        told = {**trace.fields, "user": attempt.user, "mechanism": attempt.mechanism}
        try:
            if backend is None:
                raise BackendError("the configuration has no such entry any more")
            question = json.dumps(password_request(backend.entry, attempt)).encode()
            verdict = backend.consult(attempt.user, partial(login_verdict, user=attempt.user), question)
        except BackendError as failure:
            if self._log.info:
                self._log.info("Authentication could not be decided", **told, reason=failure.reason)
            if backend is None or backend.entry.temporary_failure == DISCONNECT:
                raise CloseConnection("temporary authentication failure") from failure
            return connection.fail(attempt, "temporary authentication failure", temp=True)
        if isinstance(verdict, LoginAccepted):
            if self._log.info:
                self._log.info("Authentication succeeded", **told, account=verdict.account)
            return connection.succeed(attempt, verdict.account)
        if self._log.info:
            self._log.info("Authentication failed", **told, reason=verdict.reason)
        return connection.fail(attempt, verdict.reason)

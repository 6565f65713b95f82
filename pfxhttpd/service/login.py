"""Logins: is this password right? (Dovecot's auth-client protocol, see `wire.dovecot`)"""

from __future__ import annotations

import json
from functools import partial
from typing import Mapping

from pfxhttpd.config.settings import Entry
from pfxhttpd.exchange.answer import BackendFailure
from pfxhttpd.exchange.login import Accepted, judge, password_request
from pfxhttpd.outside.handoff import Client
from pfxhttpd.outside.journal import Journal
from pfxhttpd.service.backend import Backend
from pfxhttpd.service.hangup import HangUp
from pfxhttpd.service.trace import Trace
from pfxhttpd.wire.attempt import Attempt
from pfxhttpd.wire.dovecot import Connection
from pfxhttpd.wire.dovecot_line import take_line
from pfxhttpd.wire.mechanisms import PASSWORDS, Mechanism

DISCONNECT = "disconnect"


def mechanisms(entry: Entry | None) -> tuple[Mechanism, ...]:
    """What is offered to the clients of an entry's listener."""
    return PASSWORDS


class Logins:
    """Answers the lines of SASL clients; the client's listener names the entry whose backend decides."""

    def __init__(self, backends: Mapping[str, Backend], journal: Journal) -> None:
        self._backends, self._log = backends, journal

    def step(self, client: Client) -> bytes | None:
        """What to send for the next line in `client.unread`, which is consumed; None when it is not whole yet.

        Raises `wire.malformed.Malformed` for a line that does not end, `HangUp`.
        """
        taken = take_line(client.unread)
        if taken is None:
            return None
        line, used = taken
        client.unread = client.unread[used:]
        backend = self._backends.get(client.name)
        offered = mechanisms(backend.entry if backend else None)
        connection = Connection.thaw(client.state, offered) if client.state else Connection(offered)
        turn = connection.hear(line)
        trace = Trace(client)
        if turn.note and self._log.debug:
            self._log.debug("SASL line", **trace.fields, note=turn.note)
        if turn.close:
            raise HangUp(turn.close)
        reply = turn.send
        if turn.attempt:
            reply += self._decide(backend, connection, turn.attempt, trace)
        client.state = connection.freeze()
        return reply

    def _decide(self, backend: Backend | None, connection: Connection, attempt: Attempt, trace: Trace) -> bytes:
        """The bytes that answer the attempt. Raises `HangUp` where Postfix would take them for a wrong password."""
        told = {**trace.fields, "user": attempt.user, "mechanism": attempt.mechanism}
        try:
            if backend is None:
                raise BackendFailure("the configuration has no such entry any more")
            question = json.dumps(password_request(backend.entry, attempt)).encode()
            verdict = backend.consult(attempt.user, partial(judge, user=attempt.user), question)
        except BackendFailure as failure:
            if self._log.info:
                self._log.info("Authentication could not be decided", **told, reason=failure.reason)
            if backend is None or backend.entry.temporary_failure == DISCONNECT:
                raise HangUp("temporary authentication failure") from failure
            return connection.fail(attempt, "temporary authentication failure", temp=True)
        if isinstance(verdict, Accepted):
            if self._log.info:
                self._log.info("Authentication succeeded", **told, account=verdict.account)
            return connection.succeed(attempt, verdict.account)
        if self._log.info:
            self._log.info("Authentication failed", **told, reason=verdict.reason)
        return connection.fail(attempt, verdict.reason)

"""The connection that a worker serves at the moment: it is read, answered, and released when other work waits.

A connection leaves its handler in one of three ways: to parking, by its own end, or by a fault. None of them ends the
worker.
"""

from __future__ import annotations

import enum
import os
import select
import time
from collections.abc import Mapping
from typing import Protocol

from pfxhttpd.config.settings import DOVECOT_SASL, POLICY_SERVICE, SOCKET_MAP, Settings
from pfxhttpd.io import handoff
from pfxhttpd.io.handoff import Connection
from pfxhttpd.io.log import Logger
from pfxhttpd.process import client_io
from pfxhttpd.process.child import error_location
from pfxhttpd.process.context import WorkerContext
from pfxhttpd.service import CloseConnection
from pfxhttpd.service.listener_metrics import IDLE_TOO_LONG
from pfxhttpd.service.log_context import connection_fields
from pfxhttpd.service.log_limit import MinuteLimit
from pfxhttpd.wire import ProtocolError
from pfxhttpd.wire.recognize import DOVECOT, POLICY, SOCKETMAP, recognize

PARKING_TIMEOUT = 1.0
"""Seconds that a worker waits for a parking process that takes nothing, before it closes the connection instead."""


_PROTOCOLS = {SOCKET_MAP: SOCKETMAP, POLICY_SERVICE: POLICY, DOVECOT_SASL: DOVECOT}


class Service(Protocol):
    """Answers the requests of one protocol."""

    def handle(self, connection: Connection) -> bytes | None:
        """The reply to the next request in `connection.unread`, which is consumed; None if it is not complete."""


class Outcome(enum.Enum):
    """What came of a look at the connection: no complete request, a reply, or a request for the next generation."""

    NOTHING = enum.auto()
    ANSWERED = enum.auto()
    OUTDATED = enum.auto()


NOTHING, ANSWERED, OUTDATED = Outcome  # to read a member of an Enum takes as long as a call


class ConnectionHandler:
    """Holds at most one connection. `epoll` is the worker's."""

    def __init__(
        self,
        context: WorkerContext,
        settings: Settings,
        services: Mapping[str, Service],
        epoll: select.epoll,
        logger: Logger,
    ) -> None:
        self._context, self._services, self._epoll, self._log = context, services, epoll, logger
        self._listeners = {listener.endpoint: listener for listener in settings.server.listen}
        self._idle_timeout = settings.server.client_idle_timeout
        self._limit, self._metrics = MinuteLimit(), context.metrics.listeners
        self._connection: Connection | None = None
        self.active_at = 0.0
        """When the connection was taken or last answered (monotonic seconds)."""
        self._watched_for = 0
        self.fd = -1
        """The connection's descriptor; -1 without one."""
        self.has_request = False
        """Whether a complete request may be among what was received and not looked at, and can be answered now."""
        self.watched = True
        """Whether epoll reports the events that the connection waits for; true as well without one."""

    def take(self, fd: int, connection: Connection) -> None:
        """Take a connection on which something was received. The handler must not hold another one."""
        self._connection, self.fd = connection, fd
        listener = self._listeners.get(connection.endpoint)
        if listener is not None and listener.kind == connection.kind:
            connection.name = listener.name
        self.has_request = bool(connection.unread) and not connection.unsent
        self.watched = False
        self.active_at = time.monotonic()
        self._context.row.set_held(1)
        self._metrics.hold(connection.endpoint)

    def watch(self) -> None:
        """Have epoll report when the client sends something, or can take more of its reply."""
        if self._connection is None:
            return
        events = select.EPOLLOUT if self._connection.unsent else select.EPOLLIN
        if not self._watched_for:
            self._epoll.register(self.fd, events)
        elif self._watched_for != events:
            self._epoll.modify(self.fd, events)
        self._watched_for, self.watched = events, True

    def idle_time_left(self, otherwise: float) -> float:
        """Seconds until the connection has been silent for too long; `otherwise` without one, or if it may be silent."""
        if self._connection is None or self._connection.kind == DOVECOT_SASL:
            return otherwise
        return max(0.0, self.active_at + self._idle_timeout - time.monotonic())

    def close_if_idle(self) -> None:
        if self.idle_time_left(1.0) <= 0:
            self._close(IDLE_TOO_LONG)

    # -- serving ------------------------------------------------------------------------------------------------

    def serve(self) -> Outcome:
        """The client has sent something, or can take more of its reply."""
        connection = self._connection
        if connection is None:
            return NOTHING
        try:
            if connection.unsent:
                self._send(connection, b"")
                return NOTHING
            if self.has_request or client_io.receive(self.fd, connection):
                return self.answer()
        except CloseConnection as error:
            self._close(error.reason)
        return NOTHING

    def answer(self) -> Outcome:
        """Answer the next request among what was received, if it is complete."""
        connection, context = self._connection, self._context
        if connection is None:
            return NOTHING
        if context.board.generation != context.generation:
            self.release()
            return OUTDATED
        try:
            if connection.kind == DOVECOT_SASL and client_io.has_ended(self.fd):
                # It may have given up while it waited for a worker: Postfix waits 10 seconds for a login. As in Dovecot,
                # a client that only reads on gets no more replies; no mail server does that.
                raise CloseConnection("ended by the client before the reply")
            reply = self._services[connection.kind].handle(connection)
            self.active_at = time.monotonic()
            if reply is None:
                self.has_request = False
                return NOTHING
            self._send(connection, reply)
            return ANSWERED
        except ProtocolError as error:
            self._log_protocol(connection)
            self._close(f"malformed request: {error}")
        except CloseConnection as error:
            self._close(error.reason)
        except Exception as error:  # no input may end a worker: a defect of ours costs one connection
            self._close(f"internal error: {error_location(error)}", error=True)
        return NOTHING

    def _log_protocol(self, connection: Connection) -> None:
        """Log which protocol the client speaks, if it is known and another one than the listener's."""
        spoken, expected = recognize(connection.unread), _PROTOCOLS[connection.kind]
        if spoken not in ("", expected) and self._log.error and self._limit.passes(connection.endpoint + spoken):
            self._log.error(
                "Client speaks another protocol",
                **connection_fields(connection),
                listener=connection.listener,
                expected=expected,
                spoken=spoken,
            )

    def _send(self, connection: Connection, reply: bytes) -> None:
        """Send the reply. A client that does not take all of it is answered further only once it has."""
        client_io.send(self.fd, connection, reply)
        self.has_request = bool(connection.unread) and not connection.unsent
        if connection.unsent or self._watched_for != select.EPOLLIN:
            self.watched = self._watched_for == (select.EPOLLOUT if connection.unsent else select.EPOLLIN)

    # -- releasing ----------------------------------------------------------------------------------------------

    def release(self) -> None:
        """Make way for other work: parking gets the connection, and its next request waits behind those in the queue."""
        if self._connection is None:
            return
        if self._watched_for:
            self._epoll.unregister(self.fd)
        self.park(self.fd, self._connection)
        self._clear()

    def park(self, fd: int, connection: Connection) -> None:
        """Give a connection to parking: this handler's, or one that it has not taken."""
        message = connection.pack()
        try:
            handoff.send(self._context.parking, fd, message)
        except OSError:
            writable = select.poll()
            writable.register(self._context.parking, select.POLLOUT)
            writable.poll(PARKING_TIMEOUT * 1000)
            try:
                handoff.send(self._context.parking, fd, message)
            except OSError as error:
                reason = f"parking does not take it: {error.strerror}"
                client_io.close(fd, connection, reason, self._metrics, self._log)
                return
        self._context.row.count_parked()
        os.close(fd)

    def _close(self, reason: str, error: bool = False) -> None:
        """End the connection; `reason` is "" if its client ended it, as it may."""
        if self._connection is not None:
            client_io.close(self.fd, self._connection, reason, self._metrics, self._log, error)
            self._clear()

    def _clear(self) -> None:
        if self._connection is not None:
            self._metrics.release(self._connection.endpoint)
        self._connection = None
        self.fd, self._watched_for = -1, 0
        self.has_request, self.watched = False, True
        self._context.row.set_held(0)

"""The client that a worker has in hand: hears it, has it answered, and puts it back when others wait.

A client leaves the hand in one of three ways: into parking, by its own end, or by a fault. None of them ends the worker.
"""

from __future__ import annotations

import enum
import os
import select
import time
from collections.abc import Mapping
from typing import Protocol

from pfxhttpd.config.settings import DOVECOT_SASL, Settings
from pfxhttpd.io import handoff
from pfxhttpd.io.handoff import Connection
from pfxhttpd.io.log import Logger
from pfxhttpd.process.child import error_location
from pfxhttpd.process.context import WorkerContext
from pfxhttpd.service import CloseConnection, log_context
from pfxhttpd.wire import ProtocolError

READ = 65536
PARKING_PATIENCE = 1.0
"""Seconds a worker waits for a parking process that takes nothing, before it lets go of a client instead."""


class Service(Protocol):
    """Answers one protocol's requests."""

    def step(self, client: Connection) -> bytes | None:
        """The reply to the next request in `client.unread`, which is consumed; None when it is not whole yet."""


class Outcome(enum.Enum):
    """What came of a look at the client: no whole request, a reply, or a request that the next generation answers."""

    NOTHING = enum.auto()
    ANSWERED = enum.auto()
    OUTDATED = enum.auto()


class ConnectionHandler:
    """Holds at most one client. `epoll` is the worker's."""

    def __init__(
        self,
        post: WorkerContext,
        settings: Settings,
        services: Mapping[str, Service],
        epoll: select.epoll,
        logger: Logger,
    ) -> None:
        self._post, self._services, self._epoll, self._log = post, services, epoll, logger
        self._listeners = {listener.endpoint: listener for listener in settings.server.listen}
        self._idle = settings.server.client_idle_timeout
        self._client: Connection | None = None
        self._more = False
        self._heard_at = 0.0
        self._watched = self._wanted = 0
        self.fd = -1
        """The client's descriptor; -1 when the hand is empty."""

    @property
    def more(self) -> bool:
        """Whether a whole request may be among what the client has sent and nobody has looked at."""
        return self._more and not self._client.unsent

    @property
    def watched(self) -> bool:
        """Whether epoll tells of this client; true as well of nobody."""
        return self._client is None or self._watched > 0

    def take(self, fd: int, client: Connection) -> None:
        """Take a client that has something to say, into the empty hand."""
        self._client, self.fd = client, fd
        self._more = bool(client.unread)
        self._heard_at = time.monotonic()
        self._post.row.set_held(1)

    def watch(self) -> None:
        """Have epoll tell when the client has something to say, or takes more of its reply."""
        if self._client is None:
            return
        wanted = select.EPOLLOUT if self._client.unsent else select.EPOLLIN
        if not self._watched:
            self._epoll.register(self.fd, wanted)
        elif self._watched != wanted:
            self._epoll.modify(self.fd, wanted)
        self._watched = wanted

    def patience(self) -> float | None:
        """Seconds until the client will have been silent for too long; None for one that may be, or for none."""
        if self._client is None or self._client.kind == DOVECOT_SASL:
            return None
        return self._heard_at + self._idle - time.monotonic()

    def close_if_idle(self) -> None:
        patience = self.patience()
        if patience is not None and patience <= 0:
            self._close("idle for too long")

    # -- serving ------------------------------------------------------------------------------------------------

    def serve(self) -> Outcome:
        """The client has something to say, or room for more of its reply."""
        client = self._client
        if client.unsent:
            self._write(b"")
            return Outcome.NOTHING
        if self._more:
            return self.step()
        try:
            data = os.read(self.fd, READ)
        except BlockingIOError:
            return Outcome.NOTHING
        except OSError as error:
            self._close(error.strerror or "connection lost")
            return Outcome.NOTHING
        if not data:
            self._close("in the middle of a request" if client.unread else "")
            return Outcome.NOTHING
        client.unread = client.unread + data if client.unread else data
        return self.step()

    def step(self) -> Outcome:
        """Answer the next request among what is unread, if it is whole."""
        client, post = self._client, self._post
        if post.board.generation != post.generation:
            self.release()
            return Outcome.OUTDATED
        listener = self._listeners.get(client.endpoint)
        if listener is not None and listener.kind == client.kind:
            client.name = listener.name
        try:
            reply = self._services[client.kind].step(client)
        except ProtocolError as error:
            self._close(f"malformed request: {error}")
            return Outcome.NOTHING
        except CloseConnection as error:
            self._close(error.reason)
            return Outcome.NOTHING
        except Exception as error:  # no input may end a worker: a defect of ours costs one connection
            self._close(f"internal error: {error_location(error)}", error=True)
            return Outcome.NOTHING
        self._heard_at = time.monotonic()
        if reply is None:
            self._more = False
            return Outcome.NOTHING
        self._more = bool(client.unread)
        self._write(reply)
        return Outcome.ANSWERED

    def _write(self, reply: bytes) -> None:
        """One send per reply. What the client does not take now is kept, and it is not heard before it has."""
        client = self._client
        reply = client.unsent + reply
        try:
            sent = os.write(self.fd, reply) if reply else 0
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._close(error.strerror or "connection lost")
            return
        client.unsent = reply[sent:]

    # -- letting go ---------------------------------------------------------------------------------------------

    def release(self) -> None:
        """Other work goes first: the client queues up behind it, or waits in parking until it speaks."""
        if self._client is None:
            return
        if self._watched:
            self._epoll.unregister(self.fd)
        self.park(self.fd, self._client)
        self._empty()

    def park(self, fd: int, client: Connection) -> None:
        """Give a client to parking, this or another that was never in hand."""
        message = client.pack()
        try:
            handoff.send(self._post.parking, fd, message)
        except OSError:
            writable = select.poll()
            writable.register(self._post.parking, select.POLLOUT)
            writable.poll(PARKING_PATIENCE * 1000)
            try:
                handoff.send(self._post.parking, fd, message)
            except OSError as error:
                if self._log.info:
                    reason = f"parking takes no client: {error.strerror}"
                    self._log.info("Connection closed", **log_context.fields(client), reason=reason)
                os.close(fd)
                return
        self._post.row.count_parked()
        os.close(fd)

    def _close(self, reason: str, error: bool = False) -> None:
        """End the connection; `reason` is "" when its client ended it, as it may."""
        say = self._log.error if error else self._log.info
        if say:
            given = {"reason": reason} if reason else {}
            say("Connection closed", **log_context.fields(self._client), **given)
        os.close(self.fd)
        self._empty()

    def _empty(self) -> None:
        self._client = None
        self.fd, self._watched = -1, 0
        self._more = False
        self._post.row.set_held(0)

"""Accepts client connections from a process's listeners, and stops accepting while it may not or cannot.

Parking accepts SASL clients and greets them: they send nothing before the greeting, and must have it within a second
whatever the workers are doing. Workers accept all others.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Iterable, Sequence

from pfxhttpd.config.settings import DOVECOT_SASL
from pfxhttpd.io import listen
from pfxhttpd.io.handoff import Connection
from pfxhttpd.io.log import Logger
from pfxhttpd.io.scoreboard import Scoreboard
from pfxhttpd.process.parking_config import SaslListener
from pfxhttpd.service.listener_metrics import ListenerMetrics
from pfxhttpd.service.log_context import connection_fields
from pfxhttpd.wire.dovecot_lines import greeting
from pfxhttpd.wire.mechanisms import PASSWORD_MECHANISMS, TOKEN_MECHANISMS

RETRY_INTERVAL = 0.2
"""Seconds between looks at whether accepting is possible again; no event tells it."""
LOG_INTERVAL = 60.0
"""Seconds between log lines about descriptors that are lacking."""

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_MECHANISMS = {mechanism.name: mechanism for mechanism in (*PASSWORD_MECHANISMS, *TOKEN_MECHANISMS)}


class LimitLog:
    """Logs that a limit of connections is reached, at most once a minute for each kind."""

    def __init__(self) -> None:
        self._logged_at: dict[str, float] = {}

    def reached(self, kind: str, limit: int, logger: Logger) -> bool:
        """Returns False: one more connection may not be accepted."""
        now = time.monotonic()
        if logger.error and now >= self._logged_at.get(kind, -LOG_INTERVAL) + LOG_INTERVAL:
            self._logged_at[kind] = now
            logger.error("Connection limit reached", kind=kind, limit=limit)
        return False


class Acceptor:
    """Listening sockets in one process's epoll. `events` is the mask with which they are registered."""

    def __init__(
        self, epoll: select.epoll, events: int, board: Scoreboard, metrics: ListenerMetrics, logger: Logger
    ) -> None:
        self._epoll, self._events, self._board, self._log = epoll, events, board, logger
        self._metrics = metrics
        self._listeners: dict[int, tuple[socket.socket, tuple[str, str, str]]] = {}
        self._accepting = False
        self.paused = False
        """Whether clients may be waiting in the backlog although there are listeners."""
        self._retry_at = 0.0
        self._logged_at = -LOG_INTERVAL

    def __contains__(self, fd: int) -> bool:
        return fd in self._listeners

    def replace(self, listeners: Iterable[tuple[socket.socket, tuple[str, str, str]]], logger: Logger) -> None:
        """Use other listeners, each with the kind, name and endpoint of its connections; close the old ones here."""
        self._log = logger
        self._unregister()
        kept = [(sock, identity) for sock, identity in listeners]
        for sock, _ in self._listeners.values():
            sock.close()
        self._listeners = {sock.fileno(): (sock, identity) for sock, identity in kept}
        self.paused = bool(self._listeners)

    def update(self, allowed: bool) -> None:
        """Accept if it is `allowed`, unless descriptors were lacking a moment ago."""
        wanted = allowed and (not self._retry_at or time.monotonic() >= self._retry_at)
        if wanted and not self._accepting:
            self._retry_at = 0.0
            for fd in self._listeners:
                self._epoll.register(fd, self._events)
            self._accepting, self.paused = True, False
        elif not wanted:
            self._unregister()

    def requeue(self) -> None:
        """Register anew, behind the other processes that wait for the same listeners (EPOLLEXCLUSIVE)."""
        if self._accepting:
            for fd in self._listeners:
                self._epoll.unregister(fd)
                self._epoll.register(fd, self._events)

    def _unregister(self) -> None:
        for fd in self._listeners if self._accepting else ():
            self._epoll.unregister(fd)
        self._accepting, self.paused = False, bool(self._listeners)

    def accept(self, fd: int) -> tuple[int, Connection] | None:
        """The new connection and its descriptor; None if there is none, or if the listener was shut down.

        If the process or the system has no descriptor or memory left, accepting pauses: accept(2) leaves such a
        listener readable, and whoever tries again at once takes a whole processor.
        """
        sock, (kind, name, endpoint) = self._listeners[fd]
        try:
            accepted, address = sock.accept()
        except OSError as error:
            if error.errno in _EXHAUSTED:
                self._metrics.accept_failed(endpoint)
                self._pause(error)
            elif error.errno == errno.EINVAL:  # the master shut it down: it was removed, or the server stops
                self._epoll.unregister(fd)
                del self._listeners[fd]
                sock.close()
            return None
        accepted.setblocking(False)
        self._metrics.accepted(endpoint)
        connection = Connection(kind, name, endpoint, listen.peer_name(accepted, address), time.monotonic())
        self._prepare(accepted, connection)
        if self._log.info:
            self._log.info("New connection established", **connection_fields(connection), listener=connection.listener)
        return accepted.detach(), connection

    def _prepare(self, accepted: socket.socket, connection: Connection) -> None:
        """What a kind of connection needs before it is served."""

    def _pause(self, error: OSError) -> None:
        self._unregister()
        now = time.monotonic()
        self._retry_at = now + RETRY_INTERVAL
        self._board.accept_failed_at = now
        if self._log.error and now >= self._logged_at + LOG_INTERVAL:
            self._logged_at = now
            self._log.error("Cannot accept connections, trying again", reason=error.strerror, pid=os.getpid())


class SaslAcceptor(Acceptor):
    """Accepts SASL clients and puts the greeting among what is to be sent to them."""

    def __init__(self, epoll: select.epoll, board: Scoreboard, metrics: ListenerMetrics, logger: Logger) -> None:
        super().__init__(epoll, select.EPOLLIN, board, metrics, logger)
        self._offered: dict[str, tuple[str, ...]] = {}
        self._accepted = 0

    def configure(self, sockets: Sequence[socket.socket], listeners: Sequence[SaslListener], logger: Logger) -> None:
        """`sockets` are in the order of `listeners`."""
        identities = [(DOVECOT_SASL, listener.name, listener.endpoint) for listener in listeners]
        self.replace(zip(sockets, identities, strict=True), logger)
        self._offered = {listener.endpoint: listener.mechanisms for listener in listeners}

    def _prepare(self, accepted: socket.socket, connection: Connection) -> None:
        """Over TCP, whichever process closes the connection resets it. After a plain close, Postfix writes its next
        request into the dead connection, and one more user gets a 454 (seen with Postfix 3.7).
        """
        if accepted.family != socket.AF_UNIX:
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._accepted += 1
        offered = [_MECHANISMS[name] for name in self._offered[connection.endpoint]]
        connection.unsent = greeting(offered, os.getpid(), self._accepted, os.urandom(16).hex())

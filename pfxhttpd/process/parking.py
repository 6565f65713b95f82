"""Parking: holds the connections that no worker is serving, and hands each to a worker when its client sends something.

It does for incoming connections what Postfix's scache(8) does for outgoing ones. Workers hand it connections that are
silent. It waits for all of them at once, and puts those that become readable into their pool's ready queue, in order.
It reads only from connections that were parked in the middle of a request, so that a client that sends a byte a minute
costs no worker anything; all others are handed over unread.

It also accepts and greets SASL clients (see `acceptor`).

If it dies, the connections that it holds are lost, and their clients open them again. Its sockets belong to the master, so
the next parking process continues where this one stopped.

Sockets: `arrivals` (workers -> parking, one for all), a queue per pool (parking -> whichever worker is free), and
`channel` (the master's messages, with descriptors; its end of file means that the master is gone).
"""

from __future__ import annotations

import select
import signal
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from fcntl import ioctl

from setproctitle import setproctitle

from pfxhttpd.config.settings import DOVECOT_SASL, POLICY_SERVICE, SOCKET_MAP
from pfxhttpd.io import handoff
from pfxhttpd.io.handoff import Connection, IdleConnection, Receiver
from pfxhttpd.io.log import Logger
from pfxhttpd.io.scoreboard import Scoreboard
from pfxhttpd.process import client_io
from pfxhttpd.process.acceptor import RETRY_INTERVAL, LimitLog, SaslAcceptor
from pfxhttpd.process.child import CONFIG_APPLIED, READY, START
from pfxhttpd.process.liveness import HEARTBEAT_INTERVAL
from pfxhttpd.process.parking_config import MAX_DESCRIPTORS, ParkingConfig
from pfxhttpd.process.ready_queue import ReadyQueue
from pfxhttpd.service import CloseConnection
from pfxhttpd.service.listener_metrics import IDLE_TOO_LONG, ListenerMetrics
from pfxhttpd.wire import dovecot_lines, policy, socketmap

BATCH = 64
"""Arrivals that are received before the parked connections are looked at again."""
QUEUE_INTERVAL = 0.05
"""Seconds until a queue that took nothing, though it seemed to have space, is tried again."""
MAINTENANCE_INTERVAL = 0.02
"""Seconds between looks at what is not an event: limits, silent connections, queues that were full."""
MAX_EVENTS = 256
"""Events that one look returns at most; space for more would be allocated each time."""
CROWD, CROWD_PAUSE = 8, 0.0005
"""While so many connections per worker wait in each queue, parking pauses for so many seconds after each look. No worker gets
through as many in that time, and parking finds several arrivals at once. That saves 13 % of the processor time of a lookup
with 200 busy clients, most of it for waking up."""
MAX_WAKES = 8
"""Idle workers of a pool that are woken at once."""
TITLE_INTERVAL = 1.0
"""Seconds between changes of the process title."""
FIONREAD = 0x541B

_READABLE = select.EPOLLIN | select.EPOLLRDHUP
_HANGUP = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR

IS_COMPLETE: Mapping[str, Callable[[bytes, int], bool]] = {
    SOCKET_MAP: socketmap.is_complete,
    POLICY_SERVICE: policy.is_complete,
    DOVECOT_SASL: lambda buffer, _: dovecot_lines.is_complete(buffer),
}
"""For each kind of connection: does a worker have to look at these bytes?"""


class LostDescriptors(Exception):
    """The master's message has arrived without all of its descriptors."""


class Parking:
    def __init__(
        self,
        arrivals: socket.socket,
        channel: socket.socket,
        queues: Mapping[int, socket.socket],
        sasl_sockets: list[socket.socket],
        config: ParkingConfig,
        board: Scoreboard,
        metrics: ListenerMetrics,
        logger: Logger,
    ) -> None:
        self._metrics = metrics
        self._metrics.rows = config.listener_rows
        self._receiver, self._channel, self._config = Receiver(arrivals), channel, config
        self._board, self._log = board, logger
        self._epoll = select.epoll()
        self._queues = {index: self._queue(index, sender) for index, sender in queues.items()}
        self._acceptor = SaslAcceptor(self._epoll, board, metrics, logger)
        self._acceptor.configure(sasl_sockets, config.sasl_listeners, logger)
        self._parked: OrderedDict[int, tuple[float, Connection | IdleConnection]] = OrderedDict()
        """By descriptor: when the client was last heard (monotonic seconds), and the connection. Oldest first."""
        self._arrived = self._sasl = 0
        self._limiter = LimitLog()
        self._title_set_at, self._title_count = 0.0, -1
        self._maintain_at = 0.0
        self._fresh = select.poll()
        """Looks once at connections that have just arrived."""
        self._leaving = False

    def _queue(self, index: int, sender: socket.socket) -> ReadyQueue:
        return ReadyQueue(sender, self._board.pool(index), self._epoll)

    # -- life ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until the master closes the channel or is gone."""
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        self._senders = {queue.fd: queue for queue in self._queues.values()}
        self._epoll.register(self._receiver.fileno(), select.EPOLLIN)
        self._epoll.register(self._channel.fileno(), select.EPOLLIN)
        self._maintain()
        self._publish(time.monotonic())
        self._channel.send(READY)
        while not self._leaving:
            events = self._epoll.poll(self._timeout(), MAX_EVENTS)
            for fd, mask in events:
                if fd in self._parked:
                    self._on_event(fd, mask)
                elif fd == self._receiver.fileno():
                    self._receive_arrivals()
                elif fd == self._channel.fileno():
                    self._read_channel()
                elif fd in self._acceptor:
                    self._accept(fd)
                elif fd in self._senders:
                    self._senders[fd].deliver()
            if not events:
                self._board.forget_in_transit()
            elif self._is_crowded():
                time.sleep(CROWD_PAUSE)
            now = time.monotonic()
            if not events or now >= self._maintain_at:
                self._maintain_at = now + MAINTENANCE_INTERVAL
                self._maintain()
            self._publish(now)

    def _is_crowded(self) -> bool:
        """Whether every pool has work for longer than a pause."""
        crowd = CROWD * self._config.workers
        return all(queue.waiting >= crowd for queue in self._queues.values())

    def _maintain(self) -> None:
        """What need not be looked at for every event."""
        self._acceptor.update(allowed=self._may_accept())
        self._close_idle()
        if self._board.declined:
            self._wake_for_declined()
        for queue in self._queues.values():
            queue.maintain()

    def _may_accept(self) -> bool:
        """Whether there may be one more SASL connection."""
        config, board = self._config, self._board
        if board.connections >= config.max_connections:
            return self._limiter.reached("all", config.max_connections, self._log)
        if self._sasl >= config.max_sasl_connections:
            return self._limiter.reached(DOVECOT_SASL, config.max_sasl_connections, self._log)
        return True

    def _wake_for_declined(self) -> None:
        """Workers leave new connections in the backlog at the limit, and no event reports that one more may be had. Once
        one may, wake idle workers, which then look at their listeners again."""
        room = self._config.max_connections - self._board.connections
        if room > 0:
            self._board.declined = False
            for queue in self._queues.values():
                queue.wake(min(room, MAX_WAKES))

    def _timeout(self) -> float:
        """Seconds until something is due."""
        if self._board.in_transit or any(queue.waiting for queue in self._queues.values()):
            return QUEUE_INTERVAL
        due = [HEARTBEAT_INTERVAL]
        if self._board.declined or self._acceptor.paused:
            due.append(RETRY_INTERVAL)
        now = time.monotonic()
        if self._parked:
            heard_at, _ = next(iter(self._parked.values()))
            due.append(heard_at + self._config.idle_timeout - now)
        if self._title_count != len(self._parked):
            due.append(self._title_set_at + TITLE_INTERVAL - now)
        return max(0.0, min(due))

    def _read_channel(self) -> None:
        """A new configuration, with the queue senders of new pools and the SASL listeners; or the end."""
        try:
            message, descriptors, _, _ = socket.recv_fds(self._channel, 65536, MAX_DESCRIPTORS)
        except BlockingIOError:
            return
        if not message:
            self._leaving = True
        elif message != START:
            self._configure(message, descriptors)

    def _configure(self, message: bytes, descriptors: list[int]) -> None:
        config, added = ParkingConfig.unpack(message)
        if len(descriptors) != len(added) + len(config.sasl_listeners):
            # The kernel drops those for which this process has no number left (MSG_CTRUNC). A new process is given all.
            raise LostDescriptors
        self._config = config
        self._metrics.rows = config.listener_rows
        self._log = self._log.with_settings(config.logging)
        sasl_sockets = [socket.socket(fileno=fd) for fd in descriptors[len(added) :]]
        self._acceptor.configure(sasl_sockets, config.sasl_listeners, self._log)
        for index, descriptor in zip(added, descriptors, strict=False):
            sender = socket.socket(fileno=descriptor)
            sender.setblocking(False)
            self._queues[index] = self._senders[descriptor] = self._queue(index, sender)
        used = {*config.pools.values(), config.default_pool}
        for index in [index for index in self._queues if index not in used]:
            removed = self._queues.pop(index)
            del self._senders[removed.fd]
            for fd, connection in removed.close():
                self._enqueue(fd, connection)
        self._channel.send(CONFIG_APPLIED)

    # -- connections --------------------------------------------------------------------------------------------

    def _receive_arrivals(self) -> None:
        """Receive what workers have parked. A busy client has usually sent its next request by now; that is looked at once
        for all of them, before any is registered, which would cost two system calls for each."""
        idle: dict[int, Connection | IdleConnection] = {}
        for _ in range(BATCH):
            received = self._receiver.receive()
            if received is None:
                break
            self._arrived += 1
            fd, message = received
            connection = handoff.peek(message)
            if connection.unsent:
                self._park(fd, connection)
            elif not connection.unread:
                idle[fd] = connection
                self._fresh.register(fd, select.POLLIN | select.POLLRDHUP)
            elif self._is_complete(connection):
                self._enqueue(fd, connection)
            else:
                self._park(fd, connection)
        self._arrived += self._receiver.lost
        self._receiver.lost = 0
        readable = {fd for fd, mask in self._fresh.poll(0) if mask == select.POLLIN} if idle else ()
        for fd, connection in idle.items():
            self._fresh.unregister(fd)
            if fd in readable:
                self._enqueue(fd, connection)
            else:
                self._park(fd, connection)

    def _accept(self, listener: int) -> None:
        if not self._may_accept():
            self._acceptor.update(allowed=False)
            return
        accepted = self._acceptor.accept(listener)
        if accepted:
            fd, connection = accepted
            self._park(fd, connection)
            self._send(fd, connection)

    def _on_event(self, fd: int, mask: int) -> None:
        """The client of a parked connection has sent something, has hung up, or can take more of a reply."""
        _, connection = self._parked[fd]
        if connection.unsent:
            self._send(fd, self._unpacked(fd))
        elif connection.unread or (mask & _HANGUP and not _bytes_readable(fd)):
            self._receive(fd, self._unpacked(fd))
        else:
            self._unpark(fd)
            self._enqueue(fd, connection)

    def _send(self, fd: int, connection: Connection) -> None:
        try:
            client_io.send(fd, connection)
        except CloseConnection as error:
            self._close(fd, error.reason)
            return
        if connection.unsent:
            return
        if self._is_complete(connection):
            self._unpark(fd)
            self._enqueue(fd, connection)
        else:
            self._epoll.modify(fd, _READABLE)

    def _receive(self, fd: int, connection: Connection) -> None:
        seen = len(connection.unread)
        try:
            if not client_io.receive(fd, connection):
                return
        except CloseConnection as error:
            self._close(fd, error.reason)
            return
        if self._is_complete(connection, seen):
            self._unpark(fd)
            self._enqueue(fd, connection)
        else:
            self._touch(fd, connection)

    def _unpacked(self, fd: int) -> Connection:
        """The parked connection, in the form that can be changed."""
        heard_at, connection = self._parked[fd]
        if isinstance(connection, IdleConnection):
            connection = handoff.unpack(connection.message)
            self._parked[fd] = heard_at, connection
        return connection

    @staticmethod
    def _is_complete(connection: Connection | IdleConnection, seen: int = 0) -> bool:
        return bool(connection.unread) and IS_COMPLETE[connection.kind](connection.unread, seen)

    def _park(self, fd: int, connection: Connection | IdleConnection) -> None:
        self._parked[fd] = (time.monotonic(), connection)
        self._sasl += connection.kind == DOVECOT_SASL
        self._metrics.hold(connection.endpoint)
        self._epoll.register(fd, select.EPOLLOUT if connection.unsent else _READABLE)

    def _unpark(self, fd: int) -> None:
        _, connection = self._parked.pop(fd)
        self._sasl -= connection.kind == DOVECOT_SASL
        self._metrics.release(connection.endpoint)
        self._epoll.unregister(fd)

    def _touch(self, fd: int, connection: Connection | IdleConnection) -> None:
        """The client was heard just now."""
        self._parked[fd] = (time.monotonic(), connection)
        self._parked.move_to_end(fd)

    def _enqueue(self, fd: int, connection: Connection | IdleConnection) -> None:
        """Have a worker look at the connection."""
        self._queues[self._config.pools.get(connection.endpoint, self._config.default_pool)].add(fd, connection)

    def _close(self, fd: int, reason: str) -> None:
        connection = self._unpacked(fd)
        self._unpark(fd)
        client_io.close(fd, connection, reason, self._metrics, self._log)

    def _close_idle(self) -> None:
        """Close connections that have been silent for too long. A SASL client may be silent for ever: over TCP, Postfix
        would answer its user 454 for a connection that was closed."""
        limit = time.monotonic() - self._config.idle_timeout
        while self._parked:
            fd, (heard_at, connection) = next(iter(self._parked.items()))
            if heard_at > limit:
                return
            if connection.kind == DOVECOT_SASL:
                self._touch(fd, connection)
            else:
                self._close(fd, IDLE_TOO_LONG)

    # -- what is shown ------------------------------------------------------------------------------------------

    def _publish(self, now: float) -> None:
        parked, waiting = len(self._parked), 0
        for queue in self._queues.values():
            queue.publish()
            waiting += queue.waiting
        self._board.set_parked(parked + waiting, self._arrived)
        self._board.beat("parking", now)
        self._arrived = 0
        if self._title_count != parked and now >= self._title_set_at + TITLE_INTERVAL:
            setproctitle(f"pfxhttpd: parking {parked} clients")
            self._title_count, self._title_set_at = parked, now


def _bytes_readable(fd: int) -> int:
    """Bytes that could be read from a socket. What a client sent before it hung up is handed over unread as well: it may be
    a password, which parking must not see."""
    return int.from_bytes(ioctl(fd, FIONREAD, bytes(4)), "little")

"""Parking: holds the connections that nobody is serving, and gives each away when it has something to say.

What scache(8) is to Postfix's outgoing connections, this process is to incoming ones: workers hand it clients that
are silent, it waits for all of them at once, and puts those that speak into their pool's ready queue, in order. It
reads only from clients that were parked in the middle of a request, so that one that sends a byte a minute costs no
worker anything; whoever has said nothing yet is given away unread.

It also opens the door to SASL clients, and greets them: they say nothing before the greeting, and must have it within
a second whatever the workers are doing.

Its loss costs the connections it holds, which their clients open again; its sockets are the master's, so the next
parking process goes on where this one stopped.

Sockets: `arrivals` (workers -> parking, one for all), per pool `queue` (parking -> whichever worker is free),
`channel` (the master's orders, with descriptors; its end of file means that the master is gone).
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from fcntl import ioctl

from setproctitle import setproctitle

from pfxhttpd.config.settings import DOVECOT_SASL, POLICY_SERVICE, SOCKET_MAP
from pfxhttpd.io.handoff import Connection, Receiver
from pfxhttpd.io.log import Logger
from pfxhttpd.io.scoreboard import Scoreboard
from pfxhttpd.process.child import CONFIG_APPLIED, GO, READY
from pfxhttpd.process.parking_config import MAX_DESCRIPTORS, ParkingConfig
from pfxhttpd.process.ready_queue import ReadyQueue
from pfxhttpd.process.sasl_acceptor import SaslAcceptor
from pfxhttpd.service import log_context
from pfxhttpd.wire import dovecot_lines, policy, socketmap

READ = 65536
BATCH = 64
"""Arrivals taken before the clients are looked at again."""
QUEUE_PAUSE = 0.05
"""Seconds until a queue that took nothing, though it seemed to have room, is tried again."""
TITLE_PAUSE = 1.0
"""Seconds between changes of the process title."""
CROWDED_PAUSE = 0.2
"""Seconds between looks at the number of connections while it is at its limit and nothing is accepted."""
FIONREAD = 0x541B

_READABLE = select.EPOLLIN | select.EPOLLRDHUP
_GONE = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR

WHOLE: Mapping[str, Callable[[bytes, int], bool]] = {
    SOCKET_MAP: socketmap.is_complete,
    POLICY_SERVICE: policy.is_complete,
    DOVECOT_SASL: lambda buffer, _: dovecot_lines.is_complete(buffer),
}
"""Per kind of client: does somebody have to look at these bytes?"""


class Parking:
    def __init__(
        self,
        arrivals: socket.socket,
        channel: socket.socket,
        queues: Mapping[int, socket.socket],
        doors: list[socket.socket],
        plan: ParkingConfig,
        board: Scoreboard,
        logger: Logger,
    ) -> None:
        self._receiver, self._channel, self._plan = Receiver(arrivals), channel, plan
        self._board, self._log = board, logger
        self._epoll = select.epoll()
        self._queues = {index: self._queue(index, sender) for index, sender in queues.items()}
        self._greeter = SaslAcceptor(doors, plan, self._epoll, logger)
        self._parked: OrderedDict[int, tuple[float, Connection]] = OrderedDict()
        self._arrived = 0
        self._title_at, self._title_for = 0.0, -1
        self._leaving = False

    def _queue(self, index: int, sender: socket.socket) -> ReadyQueue:
        return ReadyQueue(sender, self._board.pool(index), self._epoll, self._log)

    # -- life ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until the master says so or is gone."""
        for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(ignored, signal.SIG_IGN)
        self._senders = {queue.fd: queue for queue in self._queues.values()}
        self._epoll.register(self._receiver.fileno(), select.EPOLLIN)
        self._epoll.register(self._channel.fileno(), select.EPOLLIN)
        self._publish()
        self._channel.send(READY)
        while not self._leaving:
            self._greeter.mind(room=self._board.connections < self._plan.most)
            heard = self._epoll.poll(self._patience())
            if not heard:
                self._board.forget_in_transit()
            for fd, events in heard:
                if fd == self._receiver.fileno():
                    self._take_arrivals()
                elif fd == self._channel.fileno():
                    self._obey()
                elif fd in self._greeter:
                    self._greet(fd)
                elif fd in self._senders:
                    self._senders[fd].deliver()
                elif fd in self._parked:
                    self._hear(fd, events)
            self._close_idle()
            for queue in self._queues.values():
                queue.tend()
            self._publish()

    def _patience(self) -> float | None:
        waits = []
        if self._parked:
            since, _ = next(iter(self._parked.values()))
            waits.append(since + self._plan.idle - time.monotonic())
        if self._board.in_transit or any(queue.waiting for queue in self._queues.values()):
            waits.append(QUEUE_PAUSE)
        if self._greeter.kept_out:
            waits.append(CROWDED_PAUSE)
        if self._title_for != len(self._parked):
            waits.append(self._title_at + TITLE_PAUSE - time.monotonic())
        return max(0.0, min(waits)) if waits else None

    def _obey(self) -> None:
        """A new plan, with the senders of new pools; or the end."""
        try:
            message, descriptors, _, _ = socket.recv_fds(self._channel, 65536, MAX_DESCRIPTORS)
        except BlockingIOError:
            return
        if not message:
            self._leaving = True
            return
        if message == GO:
            return
        plan, added = ParkingConfig.unpack(message)
        self._plan = plan
        self._log = self._log.with_settings(plan.logging)
        self._greeter.change([socket.socket(fileno=fd) for fd in descriptors[len(added) :]], plan, self._log)
        for index, descriptor in zip(added, descriptors):
            sender = socket.socket(fileno=descriptor)
            sender.setblocking(False)
            self._queues[index] = self._senders[descriptor] = self._queue(index, sender)
        used = {*plan.pools.values(), plan.default}
        for index in [index for index in self._queues if index not in used]:
            gone = self._queues.pop(index)
            del self._senders[gone.fd]
            for fd, client in gone.close():
                self._ready(fd, client)
        self._channel.send(CONFIG_APPLIED)

    # -- clients ------------------------------------------------------------------------------------------------

    def _take_arrivals(self) -> None:
        for _ in range(BATCH):
            taken = self._receiver.receive()
            if taken is None:
                return
            self._arrived += 1
            fd, client = taken
            if client.unread and not client.unsent and WHOLE[client.kind](client.unread, 0):
                self._ready(fd, client)
            else:
                self._parked[fd] = (time.monotonic(), client)
                self._epoll.register(fd, select.EPOLLOUT if client.unsent else _READABLE)

    def _greet(self, door: int) -> None:
        accepted = self._greeter.accept(door)
        if accepted:
            fd, client = accepted
            self._parked[fd] = (time.monotonic(), client)
            self._epoll.register(fd, select.EPOLLOUT)
            self._send(fd, client)

    def _hear(self, fd: int, events: int) -> None:
        """A parked client speaks, hangs up, or takes more of a reply."""
        _, client = self._parked[fd]
        if client.unsent:
            self._send(fd, client)
        elif client.unread or (events & _GONE and not _pending(fd)):
            self._read(fd, client)
        else:
            self._unpark(fd)
            self._ready(fd, client)

    def _send(self, fd: int, client: Connection) -> None:
        try:
            client.unsent = client.unsent[os.write(fd, client.unsent) :]
        except BlockingIOError:
            return
        except OSError as error:
            self._close(fd, error.strerror or "connection lost")
            return
        if client.unsent:
            return
        if client.unread and WHOLE[client.kind](client.unread, 0):
            self._unpark(fd)
            self._ready(fd, client)
        else:
            self._epoll.modify(fd, _READABLE)

    def _read(self, fd: int, client: Connection) -> None:
        try:
            data = os.read(fd, READ)
        except BlockingIOError:
            return
        except OSError as error:
            self._close(fd, error.strerror or "connection lost")
            return
        if not data:
            self._close(fd, "in the middle of a request" if client.unread else "")
            return
        seen = len(client.unread)
        client.unread += data
        if WHOLE[client.kind](client.unread, seen):
            self._unpark(fd)
            self._ready(fd, client)
        else:
            self._parked[fd] = (time.monotonic(), client)
            self._parked.move_to_end(fd)

    def _ready(self, fd: int, client: Connection) -> None:
        """A client that a worker has to look at."""
        self._queues[self._plan.pools.get(client.endpoint, self._plan.default)].add(fd, client)

    def _unpark(self, fd: int) -> None:
        del self._parked[fd]
        self._epoll.unregister(fd)

    def _close(self, fd: int, reason: str) -> None:
        _, client = self._parked[fd]
        self._unpark(fd)
        os.close(fd)
        if self._log.info:
            self._log.info("Connection closed", **log_context.fields(client), **({"reason": reason} if reason else {}))

    def _close_idle(self) -> None:
        """Clients are in the order in which they were last heard. A SASL client may be silent for ever: over TCP,
        Postfix would answer its user 454 for a connection that we closed."""
        limit = time.monotonic() - self._plan.idle
        while self._parked:
            fd, (since, client) = next(iter(self._parked.items()))
            if since > limit:
                return
            if client.kind == DOVECOT_SASL:
                self._parked[fd] = (time.monotonic(), client)
                self._parked.move_to_end(fd)
            else:
                self._close(fd, "idle for too long")

    # -- what is shown ------------------------------------------------------------------------------------------

    def _publish(self) -> None:
        parked = len(self._parked)
        self._board.set_parked(parked + sum(queue.waiting for queue in self._queues.values()), self._arrived)
        self._arrived = 0
        if self._title_for != parked and time.monotonic() >= self._title_at + TITLE_PAUSE:
            setproctitle(f"pfxhttpd: parking {parked} clients")
            self._title_for, self._title_at = parked, time.monotonic()


def _pending(fd: int) -> int:
    """Bytes that could be read from a socket. Whoever has said something before it hung up is given away unread, too:
    it may have been a password, and parking has no business with those."""
    return int.from_bytes(ioctl(fd, FIONREAD, bytes(4)), "little")

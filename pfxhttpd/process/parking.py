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

import errno
import marshal
import os
import select
import signal
import socket
import struct
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from fcntl import ioctl
from typing import Callable, Mapping

from setproctitle import setproctitle

from pfxhttpd.config.settings import DOVECOT_SASL, POLICY_SERVICE, SOCKET_MAP
from pfxhttpd.outside import handoff, listen
from pfxhttpd.outside.handoff import Client, Inbox
from pfxhttpd.outside.journal import Journal
from pfxhttpd.outside.scoreboard import PoolRow, Scoreboard
from pfxhttpd.process.crew import GO, PLANNED, READY
from pfxhttpd.service import trace
from pfxhttpd.wire import dovecot_line, policy, socketmap
from pfxhttpd.wire.dovecot_reply import greeting
from pfxhttpd.wire.mechanisms import PASSWORDS, TOKENS

READ = 65536
BATCH = 64
"""Arrivals taken before the clients are looked at again."""
QUEUE_PAUSE = 0.05
"""Seconds until a queue that took nothing, though it seemed to have room, is tried again."""
TITLE_PAUSE = 1.0
"""Seconds between changes of the process title."""
CROWDED_PAUSE = 0.2
"""Seconds between looks at the number of connections while it is at its limit and nothing is accepted."""
SIOCOUTQ, FIONREAD = 0x5411, 0x541B
_AT_ONCE = struct.pack("ii", 1, 0)

_MECHANISMS = {mechanism.name: mechanism for mechanism in (*PASSWORDS, *TOKENS)}
_READABLE = select.EPOLLIN | select.EPOLLRDHUP
_GONE = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR

WHOLE: Mapping[str, Callable[[bytes, int], bool]] = {
    SOCKET_MAP: socketmap.whole,
    POLICY_SERVICE: policy.whole,
    DOVECOT_SASL: lambda buffer, _: dovecot_line.whole(buffer),
}
"""Per kind of client: does somebody have to look at these bytes?"""


@dataclass(frozen=True, slots=True)
class Door:
    """A SASL listener: its address, its entry, and the mechanisms that its clients are offered, by name."""

    where: str
    name: str
    mechanisms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What parking knows of a configuration: which pool serves a listener, when the silent are let go, how many
    connections there may be, and the doors that it opens itself."""

    pools: Mapping[str, int]
    default: int
    idle: float
    most: int
    doors: tuple[Door, ...]

    def pack(self, added: list[int]) -> bytes:
        """The plan as an order; the senders of the pools `added` go along as descriptors, then the doors."""
        doors = [(door.where, door.name, door.mechanisms) for door in self.doors]
        return marshal.dumps((dict(self.pools), self.default, self.idle, self.most, doors, added))

    @classmethod
    def unpack(cls, message: bytes) -> tuple[Plan, list[int]]:
        pools, default, idle, most, doors, added = marshal.loads(message)
        return cls(pools, default, idle, most, tuple(Door(*door) for door in doors)), added


@dataclass(slots=True)
class _Queue:
    """A pool's ready clients: those that the kernel's queue had no room for wait here."""

    sender: socket.socket
    row: PoolRow
    waiting: deque[tuple[int, Client]] = field(default_factory=deque)
    full: bool = False


class Parking:
    def __init__(
        self,
        arrivals: socket.socket,
        channel: socket.socket,
        queues: Mapping[int, socket.socket],
        doors: list[socket.socket],
        plan: Plan,
        board: Scoreboard,
        journal: Journal,
    ) -> None:
        self._inbox, self._channel, self._plan = Inbox(arrivals), channel, plan
        self._board, self._log = board, journal
        self._queues = {index: _Queue(sender, board.pool(index)) for index, sender in queues.items()}
        self._doors = dict(zip((sock.fileno() for sock in doors), zip(doors, plan.doors)))
        self._doors_open = False
        self._greeted = 0
        self._epoll = select.epoll()
        self._parked: OrderedDict[int, tuple[float, Client]] = OrderedDict()
        self._arrived = 0
        self._title_at, self._title_for = 0.0, -1
        self._leaving = False

    # -- life ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until the master says so or is gone."""
        for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(ignored, signal.SIG_IGN)
        self._senders = {queue.sender.fileno(): queue for queue in self._queues.values()}
        self._epoll.register(self._inbox.fileno(), select.EPOLLIN)
        self._epoll.register(self._channel.fileno(), select.EPOLLIN)
        self._publish()
        self._channel.send(READY)
        while not self._leaving:
            self._mind_doors()
            heard = self._epoll.poll(self._patience())
            if not heard:
                self._board.arrive()
            for fd, events in heard:
                if fd == self._inbox.fileno():
                    self._take_arrivals()
                elif fd == self._channel.fileno():
                    self._obey()
                elif fd in self._doors:
                    self._accept(*self._doors[fd])
                elif fd in self._senders:
                    self._deliver(self._senders[fd])
                elif fd in self._parked:
                    self._hear(fd, events)
            self._let_the_silent_go()
            for queue in self._queues.values():
                if queue.waiting and not queue.full:
                    self._deliver(queue)
                elif not queue.waiting and queue.row.waiting:
                    self._recount(queue)
            self._publish()

    def _patience(self) -> float | None:
        waits = []
        if self._parked:
            since, _ = next(iter(self._parked.values()))
            waits.append(since + self._plan.idle - time.monotonic())
        if self._board.travelling or any(queue.waiting or queue.row.waiting for queue in self._queues.values()):
            waits.append(QUEUE_PAUSE)
        if self._doors and not self._doors_open:
            waits.append(CROWDED_PAUSE)
        if self._title_for != len(self._parked):
            waits.append(self._title_at + TITLE_PAUSE - time.monotonic())
        return max(0.0, min(waits)) if waits else None

    def _obey(self) -> None:
        """A new plan, with the senders of new pools; or the end."""
        try:
            message, descriptors, _, _ = socket.recv_fds(self._channel, 65536, 64)
        except BlockingIOError:
            return
        if not message:
            self._leaving = True
            return
        if message == GO:
            return
        plan, added = Plan.unpack(message)
        self._change_doors([socket.socket(fileno=fd) for fd in descriptors[len(added) :]], plan)
        for index, descriptor in zip(added, descriptors):
            queue = _Queue(socket.socket(fileno=descriptor), self._board.pool(index))
            queue.sender.setblocking(False)
            self._queues[index] = queue
            self._senders[descriptor] = queue
        self._plan = plan
        used = {*plan.pools.values(), plan.default}
        for index in [index for index in self._queues if index not in used]:
            gone = self._queues.pop(index)
            del self._senders[gone.sender.fileno()]
            if gone.full:
                self._epoll.unregister(gone.sender.fileno())
            gone.sender.close()
            for fd, client in gone.waiting:
                self._ready(fd, client)
        self._channel.send(PLANNED)

    # -- doors --------------------------------------------------------------------------------------------------

    def _change_doors(self, doors: list[socket.socket], plan: Plan) -> None:
        self._shut_doors()
        for sock, _ in self._doors.values():
            sock.close()
        self._doors = dict(zip((sock.fileno() for sock in doors), zip(doors, plan.doors)))

    def _shut_doors(self) -> None:
        for fd in self._doors if self._doors_open else ():
            self._epoll.unregister(fd)
        self._doors_open = False

    def _mind_doors(self) -> None:
        """Accept nothing while the server holds all the connections it may."""
        opened = self._board.held < self._plan.most
        if opened and not self._doors_open:
            for fd in self._doors:
                self._epoll.register(fd, select.EPOLLIN)
            self._doors_open = True
        elif not opened:
            self._shut_doors()

    def _accept(self, sock: socket.socket, door: Door) -> None:
        """A SASL client: greet it, and wait for what it says.

        Whoever of us closes it, by will or by dying, resets it. After a plain close over TCP Postfix writes its next
        request into the dead connection, and one more user gets a 454 (seen with Postfix 3.7).
        """
        try:
            accepted, address = sock.accept()
        except OSError:
            return
        accepted.setblocking(False)
        if accepted.family != socket.AF_UNIX:
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self._greeted += 1
        client = Client(DOVECOT_SASL, door.name, door.where, listen.label(accepted, address), time.monotonic())
        offered = [_MECHANISMS[name] for name in door.mechanisms]
        client.unsent = greeting(offered, os.getpid(), self._greeted, os.urandom(16).hex())
        if self._log.info:
            self._log.info("New connection established", **trace.fields(client), listener=door.name)
        fd = accepted.detach()
        self._parked[fd] = (time.monotonic(), client)
        self._epoll.register(fd, select.EPOLLOUT)
        self._send(fd, client)

    # -- clients ------------------------------------------------------------------------------------------------

    def _take_arrivals(self) -> None:
        for _ in range(BATCH):
            taken = self._inbox.take()
            if taken is None:
                return
            self._arrived += 1
            fd, client = taken
            if client.unread and not client.unsent and WHOLE[client.kind](client.unread, 0):
                self._ready(fd, client)
            else:
                self._parked[fd] = (time.monotonic(), client)
                self._epoll.register(fd, select.EPOLLOUT if client.unsent else _READABLE)

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

    def _send(self, fd: int, client: Client) -> None:
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

    def _read(self, fd: int, client: Client) -> None:
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

    def _unpark(self, fd: int) -> None:
        del self._parked[fd]
        self._epoll.unregister(fd)

    def _close(self, fd: int, reason: str) -> None:
        _, client = self._parked[fd]
        self._unpark(fd)
        os.close(fd)
        if self._log.info:
            self._log.info("Connection closed", **trace.fields(client), **({"reason": reason} if reason else {}))

    def _let_the_silent_go(self) -> None:
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

    # -- queues -------------------------------------------------------------------------------------------------

    def _ready(self, fd: int, client: Client) -> None:
        index = self._plan.pools.get(client.where, self._plan.default)
        queue = self._queues[index]
        queue.waiting.append((fd, client))
        if len(queue.waiting) == 1:
            self._deliver(queue)

    def _deliver(self, queue: _Queue) -> None:
        """Put ready clients where the next free worker finds them, as many as the kernel takes."""
        waiting, row = queue.waiting, queue.row
        full = False
        while waiting:
            fd, client = waiting[0]
            try:
                handoff.give(queue.sender, fd, client.pack())
            except BlockingIOError:
                full = True
                break
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    break  # too many descriptors in flight: some worker takes one soon
                if self._log.error:
                    self._log.error("Connection closed", **trace.fields(client), reason="net.core.wmem_max is too small")
            else:
                row.sent()
            waiting.popleft()
            os.close(fd)
        row.count(len(waiting))
        if full is not queue.full:
            queue.full = full
            if full:
                self._epoll.register(queue.sender.fileno(), select.EPOLLOUT)
            else:
                self._epoll.unregister(queue.sender.fileno())

    def _recount(self, queue: _Queue) -> None:
        if int.from_bytes(ioctl(queue.sender, SIOCOUTQ, bytes(4)), "little", signed=True):
            queue.row.count(0)
        else:
            queue.row.settle(0)

    # -- what is shown ------------------------------------------------------------------------------------------

    def _publish(self) -> None:
        parked = len(self._parked)
        self._board.park(parked + sum(queue.row.waiting for queue in self._queues.values()), self._arrived)
        self._arrived = 0
        if self._title_for != parked and time.monotonic() >= self._title_at + TITLE_PAUSE:
            setproctitle(f"pfxhttpd: parking {parked} clients")
            self._title_for, self._title_at = parked, time.monotonic()


def _pending(fd: int) -> int:
    """Bytes that could be read from a socket. Whoever has said something before it hung up is given away unread, too:
    it may have been a password, and parking has no business with those."""
    return int.from_bytes(ioctl(fd, FIONREAD, bytes(4)), "little")

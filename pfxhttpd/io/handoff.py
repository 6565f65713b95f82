"""Passing an open connection from one of our processes to another: SCM_RIGHTS over SEQPACKET sockets (unix(7)).

A message is one connection: its descriptor, and what the next process needs in order to continue where the last one
stopped. Both ends are forks of the same master, and no part of a message's structure comes from outside, so marshal, the
fastest encoder there is, can be used safely.
"""

from __future__ import annotations

import marshal
import os
import socket
import struct
import sys
from dataclasses import dataclass, field

from pfxhttpd.config.settings import DOVECOT_SASL, POLICY_SERVICE, SOCKET_MAP
from pfxhttpd.wire.dovecot import FrozenSession

MAX_INLINE = 64 * 1024
"""Bytes of a message that is sent as it is. A longer one, which has a long reply that its client does not read, is sent as
the descriptor of a file in memory, together with that of the connection. So no configured length is too long."""

WAKE_UP = b"wake up"
"""A message without a descriptor. It only wakes a worker that waits for its pool's queue."""

_KINDS = (SOCKET_MAP, POLICY_SERVICE, DOVECOT_SASL)
_QUEUE_BYTES = 1 << 20
_INT = struct.calcsize("i")
_BYTE_ORDER = sys.byteorder
_ANCILLARY_SIZE = socket.CMSG_SPACE(2 * _INT)


@dataclass(slots=True)
class Connection:
    """A client connection, without its descriptor.

    `endpoint` is its listener's address; `kind` and `name` are what that listener served when the client connected. `peer`
    is the client's address. `session` is empty until something about the connection is logged. `unread` has been received
    and not yet served; `unsent` is the rest of a reply that the client has not yet received. `state` is that of a SASL
    session, else None.
    """

    kind: str
    name: str
    endpoint: str
    peer: str
    opened_at: float
    session: str = ""
    unread: bytes = field(default=b"", repr=False)
    unsent: bytes = field(default=b"", repr=False)
    state: FrozenSession | None = field(default=None, repr=False)

    arrived_as: tuple[bytes, str] = field(default=(b"", ""), repr=False, compare=False)
    """The message in which an idle connection arrived, and its session then."""

    @property
    def listener(self) -> str:
        """What its listener is called in messages, as `config.settings.Listener.title` says."""
        return self.name or self.endpoint

    def pack(self) -> bytes:
        """The message that `send` takes. An idle connection has nothing left to serve or to send, and no SASL state; if
        nothing has changed, the message in which it arrived is used again."""
        idle = not self.unread and not self.unsent and self.state is None
        message, session = self.arrived_as
        if idle and message and session == self.session:
            return message
        endpoint = self.endpoint.encode()
        header = bytes((_KINDS.index(self.kind), idle, len(endpoint))) + endpoint
        fields = (self.name, self.peer, self.opened_at, self.session, self.unread, self.unsent, self.state)
        return header + marshal.dumps(fields)


class IdleConnection:
    """An idle connection as it arrived. Parking passes most connections on without a look into their messages, which
    saves a third of what it does for each."""

    __slots__ = ("endpoint", "kind", "message")

    unread = unsent = b""

    def __init__(self, kind: str, endpoint: str, message: bytes) -> None:
        self.kind, self.endpoint, self.message = kind, endpoint, message

    def pack(self) -> bytes:
        return self.message


def peek(message: bytes) -> Connection | IdleConnection:
    """The connection of a message, unpacked only if it is not idle."""
    kind, idle, length = message[:3]
    if idle:
        return IdleConnection(_KINDS[kind], message[3 : 3 + length].decode(), message)
    return unpack(message)


def unpack(message: bytes) -> Connection:
    """The connection of a message."""
    kind, idle, length = message[:3]
    body = 3 + length
    connection = Connection(_KINDS[kind], "", message[3:body].decode(), "", 0.0)
    (
        connection.name,
        connection.peer,
        connection.opened_at,
        connection.session,
        connection.unread,
        connection.unsent,
        connection.state,
    ) = marshal.loads(message[body:])
    if idle:
        connection.arrived_as = message, connection.session
    return connection


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """A pair of non-blocking sockets that preserve message boundaries: the receiver's end and the senders' end."""
    receiver, sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (receiver, sender):
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _QUEUE_BYTES)
    return receiver, sender


def send(sender: socket.socket, descriptor: int, message: bytes) -> None:
    """Send a connection. The caller keeps its own copy of the descriptor and closes it.

    Raises `BlockingIOError` when the receiver's queue is full, `OSError` when the receiver is gone or too many descriptors
    are in flight.
    """
    if len(message) > MAX_INLINE:
        _send_by_file(sender, descriptor, message)
        return
    sender.sendmsg((message,), ((socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor.to_bytes(_INT, _BYTE_ORDER)),))


def _send_by_file(sender: socket.socket, descriptor: int, message: bytes) -> None:
    with open(os.memfd_create("connection", os.MFD_CLOEXEC), "w+b", buffering=0) as file:
        file.write(message)
        descriptors = struct.pack("2i", descriptor, file.fileno())
        sender.sendmsg((b"\0",), ((socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors),))


def wake(sender: socket.socket) -> None:
    """Wake one worker that waits for the queue, if the queue has space."""
    try:
        sender.send(WAKE_UP)
    except OSError:
        pass  # a full queue wakes workers by itself


class Receiver:
    """The receiving end. It has one buffer for all messages: a new one would cost a page fault each time."""

    def __init__(self, receiver: socket.socket) -> None:
        self._receiver = receiver
        self._buffer = bytearray(MAX_INLINE)
        self._view = memoryview(self._buffer)
        self.lost = 0
        """How many connections have been lost since this was last set to 0."""

    def fileno(self) -> int:
        return self._receiver.fileno()

    def receive(self) -> tuple[int, bytes] | None:
        """The next descriptor and its message, for `peek` or `unpack`; None when no message is waiting.

        A message that has lost a descriptor is skipped: this process had no free descriptor number, the kernel has closed
        the connection, and the client will connect again. `lost` counts these.
        """
        while True:
            try:
                size, ancillary, _, _ = self._receiver.recvmsg_into(
                    (self._buffer,), _ANCILLARY_SIZE, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return None
            if ancillary:
                descriptors = ancillary[0][2]
                if len(descriptors) == _INT:
                    if size > 1:
                        return int.from_bytes(descriptors, _BYTE_ORDER), bytes(self._view[:size])
                    os.close(int.from_bytes(descriptors, _BYTE_ORDER))  # the file beside it was lost
                    self.lost += 1
                else:
                    descriptor, file = struct.unpack("2i", descriptors)
                    with open(file, "rb", buffering=0) as opened:
                        opened.seek(0)
                        return descriptor, opened.readall()
            elif size == 0 or self._view[:size] == WAKE_UP:
                return None
            else:
                self.lost += 1

"""How an open connection changes hands between our own processes: SCM_RIGHTS over SEQPACKET sockets (unix(7)).

One message is one client: its descriptor, and beside it what the next process must know to go on where the last one
stopped. Both ends are forks of one master, so marshal, which is the fastest encoder there is and needs no schema,
is safe here: no byte of a message's structure was written by a stranger.
"""

from __future__ import annotations

import marshal
import socket
import struct
import sys
from dataclasses import dataclass, field

from pfxhttpd.wire.dovecot import FrozenSession

MAX_MESSAGE = 512 * 1024
"""Bytes one message may have: the largest request (100 kB) and one read more (64 KiB), twice over."""

_INT = struct.calcsize("i")
_ORDER = sys.byteorder
_ROOM = socket.CMSG_SPACE(_INT)


@dataclass(slots=True)
class Connection:
    """A connection, without its descriptor.

    `endpoint` is its listener's address and `kind`/`name` what that listener served when the client came.
    `session` is "" until something about the client is logged. `unread` was received and not yet served, `unsent` is
    the rest of a reply that the client has not taken yet. `state` is a SASL connection's, None for the others.
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

    def pack(self) -> bytes:
        return marshal.dumps(
            (
                self.kind,
                self.name,
                self.endpoint,
                self.peer,
                self.opened_at,
                self.session,
                self.unread,
                self.unsent,
                self.state,
            )
        )


def unpack(message: bytes | memoryview) -> Connection:
    return Connection(*marshal.loads(message))


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """A pair of connected sockets that keep messages whole: (for the receiver, for the senders), non-blocking."""
    receiver, sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (receiver, sender):
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_MESSAGE * 2)
    return receiver, sender


def send(sender: socket.socket, descriptor: int, message: bytes) -> None:
    """Pass a descriptor on. The caller still has its own copy and closes it.

    Raises `BlockingIOError` when the receiver's queue is full, `OSError` when it is gone or too many are in flight.
    """
    sender.sendmsg((message,), ((socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor.to_bytes(_INT, _ORDER)),))


class Receiver:
    """The receiving end: one buffer for all messages, since a fresh one of this size would cost a page fault each."""

    def __init__(self, receiver: socket.socket) -> None:
        self._receiver = receiver
        self._buffer = bytearray(MAX_MESSAGE)
        self._view = memoryview(self._buffer)

    def fileno(self) -> int:
        return self._receiver.fileno()

    def receive(self) -> tuple[int, Connection] | None:
        """The next (descriptor, client), or None when there is nothing to take now.

        A message that lost its descriptor on the way (this process has no number left for it) is passed over: the
        kernel has closed the connection, and its client will come again.
        """
        while True:
            try:
                size, ancillary, _, _ = self._receiver.recvmsg_into((self._buffer,), _ROOM, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return None
            if ancillary:
                return int.from_bytes(ancillary[0][2][:_INT], _ORDER), unpack(self._view[:size])
            if size == 0:
                return None

"""Passing an open connection from one of our processes to another: SCM_RIGHTS over SEQPACKET sockets (unix(7)).

A message is one connection: its descriptor, and what the next process needs in order to continue where the last one
stopped. Both ends are forks of the same master, and no part of a message's structure comes from outside. That is why
marshal, the fastest encoder there is, can be used safely.
"""

from __future__ import annotations

import marshal
import socket
import struct
import sys
from dataclasses import dataclass, field

from pfxhttpd.wire.dovecot import FrozenSession

MAX_MESSAGE = 512 * 1024
"""Bytes of a message: twice the largest request (100 kB) and one more read (64 KiB)."""

_INT = struct.calcsize("i")
_BYTE_ORDER = sys.byteorder
_ANCILLARY_SIZE = socket.CMSG_SPACE(_INT)


@dataclass(slots=True)
class Connection:
    """A client connection, without its descriptor.

    `endpoint` is its listener's address; `kind` and `name` are what that listener served when the client connected.
    `session` is empty until something about the connection is logged. `unread` has been received and not yet served,
    `unsent` is the rest of a reply that the client has not received yet. `state` is that of a SASL session, else None.
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
    """A pair of non-blocking sockets that preserve message boundaries: the receiver's end and the senders' end."""
    receiver, sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (receiver, sender):
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_MESSAGE * 2)
    return receiver, sender


def send(sender: socket.socket, descriptor: int, message: bytes) -> None:
    """Send a descriptor. The caller keeps its own copy and closes it.

    Raises `BlockingIOError` when the receiver's queue is full, `OSError` when the receiver is gone or too many
    descriptors are in flight.
    """
    sender.sendmsg((message,), ((socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor.to_bytes(_INT, _BYTE_ORDER)),))


class Receiver:
    """The receiving end. It has one buffer for all messages: a new one of that size would cost a page fault each time."""

    def __init__(self, receiver: socket.socket) -> None:
        self._receiver = receiver
        self._buffer = bytearray(MAX_MESSAGE)
        self._view = memoryview(self._buffer)

    def fileno(self) -> int:
        return self._receiver.fileno()

    def receive(self) -> tuple[int, Connection] | None:
        """The next descriptor and its connection, or None when no message is waiting.

        A message without its descriptor is skipped: this process had no free descriptor number, the kernel has closed
        the connection, and the client will connect again.
        """
        while True:
            try:
                size, ancillary, _, _ = self._receiver.recvmsg_into(
                    (self._buffer,), _ANCILLARY_SIZE, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return None
            if ancillary:
                return int.from_bytes(ancillary[0][2][:_INT], _BYTE_ORDER), unpack(self._view[:size])
            if size == 0:
                return None

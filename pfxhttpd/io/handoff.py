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

from pfxhttpd.wire.dovecot import FrozenSession

MAX_INLINE = 64 * 1024
"""Bytes of a message that is sent as it is. A longer one, which has a long reply that its client does not read, is sent as
the descriptor of a file in memory, together with that of the connection. So no configured length is too long."""

WAKE_UP = b"wake up"
"""A message without a descriptor. It only wakes a worker that waits for its pool's queue."""

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

    def fileno(self) -> int:
        return self._receiver.fileno()

    def receive(self) -> tuple[int, Connection] | None:
        """The next descriptor and its connection, or None when no message is waiting.

        A message that has lost a descriptor is skipped: this process had no free descriptor number, the kernel has closed
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
                descriptors = ancillary[0][2]
                if len(descriptors) == _INT:
                    if size > 1:
                        return int.from_bytes(descriptors, _BYTE_ORDER), unpack(self._view[:size])
                    os.close(int.from_bytes(descriptors, _BYTE_ORDER))  # the file beside it was lost
                else:
                    return _receive_by_file(*struct.unpack("2i", descriptors))
            elif size == 0 or self._view[:size] == WAKE_UP:
                return None


def _receive_by_file(descriptor: int, file: int) -> tuple[int, Connection]:
    with open(file, "rb", buffering=0) as opened:
        opened.seek(0)
        return descriptor, unpack(opened.readall())

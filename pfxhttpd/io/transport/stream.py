"""A connection to a backend, over TCP or TLS, with a deadline for every read.

It sends while it waits to receive, so the response of a server that answers before it has read the whole request is
read at once (RFC 9112 section 9.5: a server may answer early and read no further).

TLS runs over another stream, not over a socket. So TLS through the tunnel of a proxy that itself speaks TLS needs no
further code, and a handshake has the same deadline, however slowly its bytes arrive.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import Any, Protocol

READ_SIZE = 65536
FIRST_WAIT = 0.05
"""Seconds that a read waits in the kernel alone (socket(7), SO_RCVTIMEO). The usual response arrives in that time, and costs
one system call; a later one is waited for with poll(2), until the deadline."""

_FIRST_WAIT = struct.pack("@ll", 0, int(FIRST_WAIT * 1_000_000))

OnWait = Callable[[], None]
"""Called when a response takes longer than FIRST_WAIT."""


def ignore_wait() -> None:
    """Nothing has to be done when a response takes longer."""


class Stream(Protocol):
    """What both kinds can do.

    `read` raises `TimeoutError` at the deadline (monotonic seconds) and `OSError` when the connection is broken, and
    returns b"" once the peer has closed it. `write` never fails: what a broken connection does not take stays unsent,
    because what the peer sent before it broke may be a response.
    """

    def write(self, data: bytes) -> None: ...

    def read(self, deadline: float) -> bytes: ...

    @property
    def flushed(self) -> bool:
        """Whether everything that was written has been sent."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits to be read, neither data nor the end of the connection."""

    def close(self) -> None: ...


class TcpStream:
    """A connected TCP socket. It sends without blocking; it receives as FIRST_WAIT says."""

    __slots__ = ("_on_wait", "_poll", "_sock", "_unsent")

    def __init__(self, sock: socket.socket, on_wait: OnWait = ignore_wait) -> None:
        sock.setblocking(True)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _FIRST_WAIT)
        self._sock, self._on_wait = sock, on_wait
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._unsent = memoryview(b"")

    def write(self, data: bytes) -> None:
        if self._unsent:
            self._unsent = memoryview(bytes(self._unsent) + data)
            return
        try:
            sent = self._sock.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._unsent = memoryview(data)
            return
        if sent < len(data):
            self._unsent = memoryview(data)[sent:]
            self._poll.modify(self._sock, select.POLLIN | select.POLLOUT)

    def read(self, deadline: float) -> bytes:
        if deadline - time.monotonic() > FIRST_WAIT and not self._unsent:
            try:
                return self._sock.recv(READ_SIZE)
            except BlockingIOError:
                self._on_wait()
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            for _, event in self._poll.poll(left * 1000):
                if event & select.POLLOUT and self._unsent:
                    self._send_more()
                if event & ~select.POLLOUT:
                    try:
                        return self._sock.recv(READ_SIZE, socket.MSG_DONTWAIT)
                    except BlockingIOError:
                        continue

    def _send_more(self) -> None:
        try:
            self._unsent = self._unsent[self._sock.send(self._unsent, socket.MSG_DONTWAIT) :]
            broken = False
        except BlockingIOError:
            return
        except OSError:
            broken = True
        if broken or not self._unsent:
            self._poll.modify(self._sock, select.POLLIN)

    @property
    def flushed(self) -> bool:
        return not self._unsent

    @property
    def is_idle(self) -> bool:
        return not self._poll.poll(0)

    def close(self) -> None:
        self._sock.close()


class TlsStream:
    """TLS (RFC 8446, RFC 5246) over another stream. `handshake` has to be called first."""

    __slots__ = ("_incoming", "_outgoing", "_tls", "_transport")

    def __init__(self, transport: Stream, context: ssl.SSLContext, name: str) -> None:
        """`name` is what the server's certificate has to be for. Raises `ValueError` when it cannot be a name."""
        self._transport = transport
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)

    def handshake(self, deadline: float) -> None:
        """Raises `ssl.SSLError` (`ssl.SSLCertVerificationError` for an untrusted peer), `TimeoutError`, `OSError`."""
        while True:
            try:
                self._tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                pass
            finally:
                self._send_outgoing()
            self._receive_incoming(deadline)

    @property
    def certificate(self) -> dict[str, Any]:
        """The peer's certificate as `ssl.SSLSocket.getpeercert` returns it; empty if it was not verified."""
        return self._tls.getpeercert() or {}

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[self._tls.write(view) :]
        except ssl.SSLError:
            return
        finally:
            self._send_outgoing()

    def read(self, deadline: float) -> bytes:
        """The end of the connection without a TLS close_notify counts as its end, because many servers send none. The
        framing of the response shows whether it is complete."""
        while True:
            if not self._incoming.pending and not self._tls.pending():
                self._receive_incoming(deadline)
            try:
                return self._tls.read(READ_SIZE)
            except ssl.SSLWantReadError:
                self._send_outgoing()
            except ssl.SSLEOFError:
                return b""

    def _receive_incoming(self, deadline: float) -> None:
        data = self._transport.read(deadline)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _send_outgoing(self) -> None:
        if self._outgoing.pending:
            self._transport.write(self._outgoing.read())

    @property
    def flushed(self) -> bool:
        return self._transport.flushed

    @property
    def is_idle(self) -> bool:
        return self._transport.is_idle and not self._incoming.pending and not self._tls.pending()

    def close(self) -> None:
        self._transport.close()

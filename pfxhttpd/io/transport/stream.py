"""A connection to a backend, plain or under TLS, that takes what is to be sent and gives what arrives, by a deadline.

It sends while it waits for something to arrive, so a peer that answers before it has read everything is heard at once
(RFC 9112 section 9.5: a server may answer early and read no further).

TLS is laid over a line instead of over a socket. That makes TLS through the tunnel of a proxy that itself speaks TLS
the same thing once more, and its handshake subject to the same deadline, however slowly it trickles.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from typing import Protocol

READ = 65536


class Stream(Protocol):
    """What both kinds can do. `get` raises `TimeoutError` at the deadline (monotonic seconds), `OSError` when the
    connection is broken, and gives b"" once the peer has closed it. `put` never fails: what a broken connection does
    not take stays unsent, since what the peer said before it broke is worth hearing.
    """

    def write(self, data: bytes) -> None: ...

    def read(self, deadline: float) -> bytes: ...

    @property
    def flushed(self) -> bool:
        """Everything has left."""

    @property
    def is_idle(self) -> bool:
        """Nothing has arrived that nobody asked for, not even the peer's end of the connection."""

    def close(self) -> None: ...


class TcpStream:
    """A connected TCP socket, which it makes non-blocking."""

    __slots__ = ("_poll", "_sock", "_unsent")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._unsent = memoryview(b"")

    def write(self, data: bytes) -> None:
        if self._unsent:
            self._unsent = memoryview(bytes(self._unsent) + data)
            return
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._unsent = memoryview(data)
            return
        if sent < len(data):
            self._unsent = memoryview(data)[sent:]
            self._poll.modify(self._sock, select.POLLIN | select.POLLOUT)

    def read(self, deadline: float) -> bytes:
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            for _, event in self._poll.poll(left * 1000):
                if event & select.POLLOUT and self._unsent:
                    self._send_more()
                if event & ~select.POLLOUT:
                    try:
                        return self._sock.recv(READ)
                    except BlockingIOError:
                        continue

    def _send_more(self) -> None:
        try:
            self._unsent = self._unsent[self._sock.send(self._unsent) :]
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
    """TLS (RFC 8446, RFC 5246) over another line; `handshake` comes before anything else."""

    __slots__ = ("_arrived", "_below", "_leaving", "_tls")

    def __init__(self, below: Stream, context: ssl.SSLContext, name: str) -> None:
        """`name` is whom the certificate must name. Raises `ValueError` when it cannot be anybody's name."""
        self._below = below
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arrived, self._leaving, server_hostname=name)

    def handshake(self, deadline: float) -> None:
        """Raises `ssl.SSLError` (`ssl.SSLCertVerificationError` for whom we do not trust), `TimeoutError`, `OSError`."""
        while True:
            try:
                self._tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                pass
            finally:
                self._pass_on()
            self._hear(deadline)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[self._tls.write(view) :]
        except ssl.SSLError:
            return
        finally:
            self._pass_on()

    def read(self, deadline: float) -> bytes:
        """An end without TLS's own goodbye counts as an end: many servers never say it, and whether a response is
        whole its own framing tells."""
        while True:
            if not self._arrived.pending and not self._tls.pending():
                self._hear(deadline)
            try:
                return self._tls.read(READ)
            except ssl.SSLWantReadError:
                self._pass_on()
            except ssl.SSLEOFError:
                return b""

    def _hear(self, deadline: float) -> None:
        data = self._below.read(deadline)
        if data:
            self._arrived.write(data)
        else:
            self._arrived.write_eof()

    def _pass_on(self) -> None:
        if self._leaving.pending:
            self._below.write(self._leaving.read())

    @property
    def flushed(self) -> bool:
        return self._below.flushed

    @property
    def is_idle(self) -> bool:
        return self._below.is_idle and not self._arrived.pending and not self._tls.pending()

    def close(self) -> None:
        self._below.close()

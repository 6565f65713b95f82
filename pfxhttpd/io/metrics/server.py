"""The HTTP server of the metrics process. It serves few clients, and none of them for long.

Each connection has a thread and serves one request. A client that is slow or silent occupies nothing but its thread:
after DEADLINE seconds its connection is closed, or earlier, if MAX_CONNECTIONS others are open and one more client
connects. So whoever sends a complete request gets a response, whatever other clients do.

http.server parses the request, from a copy of its head that is bounded in size and time.
"""

from __future__ import annotations

import errno
import io
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler

DEADLINE = 10.0
"""Seconds for a whole connection: the TLS handshake, the request and the response."""
MAX_CONNECTIONS = 32
MAX_HEAD = 16 * 1024
"""Bytes of a request line with its header fields."""
ACCEPT_PAUSE = 0.2
"""Seconds without accepting after the system had no descriptor or memory for a connection."""

_TOO_LONG = b"HTTP/1.0 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@dataclass(frozen=True, slots=True)
class Request:
    """A request for a page. The names in `headers` are in lower case; `peer` is the client's host."""

    path: str
    headers: Mapping[str, str]
    peer: str


@dataclass(frozen=True, slots=True)
class Response:
    """A page. `headers` are those besides the length and the type."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


Respond = Callable[[Request], Response]
"""Gives the response to a request. It is called in the thread of the connection."""


class _Handler(BaseHTTPRequestHandler):
    """Turns the head of a request into the bytes of the response."""

    error_message_format = "%(code)d %(message)s\n"
    error_content_type = "text/plain; charset=utf-8"
    wfile: io.BytesIO

    def __init__(self, head: bytes, peer: str, respond: Respond) -> None:
        self.rfile, self.wfile = io.BufferedReader(io.BytesIO(head)), io.BytesIO()
        self.client_address = (peer, 0)
        self._respond = respond
        self.close_connection = True
        self.handle_one_request()

    def response(self) -> bytes:
        """What is to be sent."""
        return self.wfile.getvalue()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        headers = {name.lower(): value for name, value in self.headers.items()}
        response = self._respond(Request(path, headers, self.client_address[0]))
        self.send_response(response.status)
        fields = {"Content-Type": response.content_type, "Content-Length": str(len(response.body))}
        for name, value in {**fields, **response.headers, "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    do_HEAD = do_GET

    def version_string(self) -> str:
        return "pfxhttpd"

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: what is worth a line is logged by whoever responds."""


@dataclass(eq=False, slots=True)
class _Connection:
    sock: socket.socket
    peer: str
    deadline: float

    def abort(self) -> None:
        """Wake the thread, whatever it waits for. It closes the connection then."""
        with suppress(OSError):
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)  # of an SSLSocket, without a message to the peer


class HttpServer:
    """Serves the connections of one listening socket. `accept` and `expire` are for the process's main thread."""

    def __init__(self, listener: socket.socket, tls: ssl.SSLContext | None, respond: Respond) -> None:
        self.listener, self._tls, self._respond = listener, tls, respond
        self._connections: list[_Connection] = []
        self._lock = threading.Lock()
        self._paused_until = 0.0
        self._is_shut_down = False

    @property
    def busy(self) -> bool:
        """Whether there is a connection."""
        return bool(self._connections)

    @property
    def accepting(self) -> bool:
        """Whether `accept` is to be called when the listener is readable: not if it was shut down, nor if the system had
        nothing left for a connection a moment ago."""
        return not self._is_shut_down and time.monotonic() >= self._paused_until

    def accept(self) -> None:
        """Accept a client and serve it in a thread."""
        try:
            sock, address = self.listener.accept()
        except OSError as error:
            if error.errno in _EXHAUSTED:
                self._paused_until = time.monotonic() + ACCEPT_PAUSE
            self._is_shut_down = error.errno == errno.EINVAL
            return
        sock.settimeout(DEADLINE)
        connection = _Connection(sock, str(address[0]), time.monotonic() + DEADLINE)
        with self._lock:
            oldest = self._connections[: max(0, len(self._connections) + 1 - MAX_CONNECTIONS)]
            self._connections.append(connection)
        for other in oldest:
            other.abort()
        try:
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
        except RuntimeError:  # the system has no thread left
            self._paused_until = time.monotonic() + ACCEPT_PAUSE
            self._close(connection)

    def expire(self, now: float) -> None:
        """Close the connections whose time is over (monotonic seconds)."""
        with self._lock:
            overdue = [connection for connection in self._connections if now > connection.deadline]
        for connection in overdue:
            connection.abort()

    def _serve(self, connection: _Connection) -> None:
        try:
            if self._tls is not None:
                wrapped = self._tls.wrap_socket(connection.sock, server_side=True, do_handshake_on_connect=False)
                connection.sock = wrapped
                wrapped.do_handshake()
            head = _read_head(connection.sock)
            if len(head) > MAX_HEAD:
                connection.sock.sendall(_TOO_LONG)
            elif head:
                connection.sock.sendall(_Handler(head, connection.peer, self._respond).response())
        except (OSError, ValueError):
            pass  # the client's concern: it has gone, was too slow, or speaks another protocol
        finally:
            self._close(connection)

    def _close(self, connection: _Connection) -> None:
        with self._lock:
            self._connections.remove(connection)
        connection.sock.close()


def _read_head(sock: socket.socket) -> bytes:
    """What the client sends up to the empty line, or more than MAX_HEAD bytes of it; b"" if it ends before that."""
    head = b""
    while b"\r\n\r\n" not in head and b"\n\n" not in head and len(head) <= MAX_HEAD:
        data = sock.recv(4096)
        if not data:
            return b""
        head += data
    return head


NOT_FOUND = Response(HTTPStatus.NOT_FOUND, b"There is no such page.\n")

"""A server that follows a script byte by byte, for what no correct HTTP server does.

    with Scripted([Receive(), Send(b"HTTP/1.1 200 OK\\r\\n..."), Idle()]) as server: ... server.url, server.received

Each connection follows a script: the first connection the first one given, and so on; the last script serves all later
connections. At the end of its script a connection is closed.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from kit.server import ServerTls


@dataclass(frozen=True, slots=True)
class Receive:
    """Reads one whole request, body included; with `head_only` up to the blank line, as little beyond it as it can."""

    head_only: bool = False


@dataclass(frozen=True, slots=True)
class Send:
    """Sends bytes at once."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Trickle:
    """Sends bytes one by one, with so many seconds before each, until the client leaves."""

    data: bytes
    pause: float = 0.05


@dataclass(frozen=True, slots=True)
class Idle:
    """Sends nothing more and reads nothing more until the server stops."""


@dataclass(frozen=True, slots=True)
class ReceiveEnd:
    """Reads until the client closes."""


@dataclass(frozen=True, slots=True)
class WaitFor:
    """Waits for a test to call `Scripted.go(name)`."""

    name: str


@dataclass(frozen=True, slots=True)
class Signal:
    """Lets a test that waits in `Scripted.wait(name)` continue."""

    name: str


@dataclass(frozen=True, slots=True)
class Reset:
    """Ends the connection with a RST."""


@dataclass(frozen=True, slots=True)
class StartTls:
    """From here on TLS."""

    tls: ServerTls


Step = Receive | Send | Trickle | Idle | ReceiveEnd | WaitFor | Signal | Reset | StartTls
Script = list[Step]


class Scripted:
    """Listens on a loopback port from construction until the context ends."""

    def __init__(self, *scripts: Script, tls: ServerTls | None = None) -> None:
        self._scripts = [[StartTls(tls), *script] if tls else script for script in scripts]
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._flags: dict[str, threading.Event] = {}
        self._open: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}/"
        self.received: list[tuple[int, bytes]] = []
        """The requests read so far, each with the number of its connection, from 1."""
        self.connections = 0
        self.errors: list[Exception] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for flag in self._flags.values():
            flag.set()
        for each in [self._listener, *self._open]:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in list(self._threads):
            thread.join(10)
        self._listener.close()

    def go(self, name: str) -> None:
        self._flag(name).set()

    def wait(self, name: str, timeout: float = 10.0) -> None:
        if not self._flag(name).wait(timeout):
            raise TimeoutError(f"the script did not reach {name!r}")

    def wait_received(self, number: int, timeout: float = 10.0) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.received) >= number, timeout):
                raise TimeoutError(f"{number} requests expected, received {self.received}")

    def _flag(self, name: str) -> threading.Event:
        with self._changed:
            return self._flags.setdefault(name, threading.Event())

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._changed:
                self.connections += 1
                number = self.connections
            self._open.append(sock)
            thread = threading.Thread(target=self._play, args=(sock, number), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _play(self, sock: socket.socket, number: int) -> None:
        stream = sock
        try:
            for step in self._scripts[min(number, len(self._scripts)) - 1]:
                if isinstance(step, StartTls):
                    stream = step.tls.context().wrap_socket(stream, server_side=True)
                    self._open.append(stream)
                else:
                    self._perform(stream, number, step)
        except (OSError, EOFError) as error:
            self.errors.append(error)
        finally:
            stream.close()

    def _perform(self, stream: socket.socket, number: int, step: Step) -> None:
        match step:
            case Receive(head_only):
                request = _request(stream, head_only)
                with self._changed:
                    self.received.append((number, request))
                    self._changed.notify_all()
            case Send(data):
                stream.sendall(data)
            case Trickle(data, pause):
                self._trickle(stream, data, pause)
            case Idle():
                self._stopped.wait()
            case ReceiveEnd():
                _receive_end(stream)
            case WaitFor(name):
                self._flag(name).wait()
            case Signal(name):
                self._flag(name).set()
            case Reset():
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                stream.close()

    def _trickle(self, stream: socket.socket, data: bytes, pause: float) -> None:
        for position in range(len(data)):
            if self._stopped.wait(pause):
                return
            stream.sendall(data[position : position + 1])


def _request(stream: socket.socket, head_only: bool) -> bytes:
    data = bytearray()
    while (end := data.find(b"\r\n\r\n")) < 0:
        data += _some(stream)
    size = 0 if head_only else end + 4 + next(_lengths(bytes(data[:end])), 0)
    while len(data) < size:
        data += _some(stream)
    return bytes(data)


def _lengths(head: bytes) -> Iterator[int]:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            yield int(value)


def _some(stream: socket.socket) -> bytes:
    data = stream.recv(65536)
    if not data:
        raise EOFError("the client closed inside a request")
    return data


def _receive_end(stream: socket.socket) -> None:
    try:
        while stream.recv(65536):
            pass
    except (ConnectionResetError, ssl.SSLError):
        pass

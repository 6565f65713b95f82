"""A server that plays a script byte by byte, for what no decent HTTP server would do.

    with Scripted([Hear(), Say(b"HTTP/1.1 200 OK\\r\\n..."), Stay()]) as server: ... server.url, server.heard

Each connection plays a script: the first the first one given, and so on; the last one serves all that follow. At the
end of its script a connection is closed.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Union

from kit.server import ServerTls


@dataclass(frozen=True, slots=True)
class Hear:
    """Reads one whole request, body included; with `head_only` up to the blank line, as little beyond it as it can."""

    head_only: bool = False


@dataclass(frozen=True, slots=True)
class Say:
    """Sends bytes at once."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Trickle:
    """Sends bytes one by one, with so many seconds before each, until the client leaves."""

    data: bytes
    pause: float = 0.05


@dataclass(frozen=True, slots=True)
class Stay:
    """Sends nothing more and reads nothing more until the server stops."""


@dataclass(frozen=True, slots=True)
class AwaitEnd:
    """Reads until the client closes."""


@dataclass(frozen=True, slots=True)
class Await:
    """Waits for a test to call `Scripted.go(name)`."""

    name: str


@dataclass(frozen=True, slots=True)
class Tell:
    """Lets a test that waits in `Scripted.wait(name)` go on."""

    name: str


@dataclass(frozen=True, slots=True)
class Reset:
    """Ends the connection with a RST."""


@dataclass(frozen=True, slots=True)
class Secure:
    """From here on TLS."""

    tls: ServerTls


Step = Union[Hear, Say, Trickle, Stay, AwaitEnd, Await, Tell, Reset, Secure]
Script = list[Step]


class Scripted:
    """Listens on a loopback port from construction until the context ends."""

    def __init__(self, *scripts: Script, tls: ServerTls | None = None) -> None:
        self._scripts = [[Secure(tls), *script] if tls else script for script in scripts]
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._flags: dict[str, threading.Event] = {}
        self._open: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}/"
        self.heard: list[tuple[int, bytes]] = []
        """The requests read so far, each with the number of its connection, from 1."""
        self.connections = 0
        self.faults: list[Exception] = []
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
            raise TimeoutError(f"the script did not come to {name!r}")

    def wait_heard(self, number: int, timeout: float = 10.0) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.heard) >= number, timeout):
                raise TimeoutError(f"{number} requests awaited, heard {self.heard}")

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
        talk = sock
        acts: dict[type, Callable[[socket.socket, Step], None]] = {
            Say: lambda talk, step: talk.sendall(step.data),
            Trickle: self._trickle,
            Stay: lambda talk, step: self._stopped.wait() and None,
            AwaitEnd: _await_end,
            Await: lambda talk, step: self._flag(step.name).wait() and None,
            Tell: lambda talk, step: self._flag(step.name).set(),
            Reset: _reset,
        }
        try:
            for step in self._scripts[min(number, len(self._scripts)) - 1]:
                if isinstance(step, Secure):
                    talk = step.tls.context().wrap_socket(talk, server_side=True)
                    self._open.append(talk)
                elif isinstance(step, Hear):
                    request = _request(talk, step.head_only)
                    with self._changed:
                        self.heard.append((number, request))
                        self._changed.notify_all()
                else:
                    acts[type(step)](talk, step)
        except (OSError, EOFError) as error:
            self.faults.append(error)
        finally:
            talk.close()

    def _trickle(self, talk: socket.socket, step: Step) -> None:
        assert isinstance(step, Trickle)
        for position in range(len(step.data)):
            if self._stopped.wait(step.pause):
                return
            talk.sendall(step.data[position : position + 1])


def _request(talk: socket.socket, head_only: bool) -> bytes:
    data = bytearray()
    while (end := data.find(b"\r\n\r\n")) < 0:
        data += _some(talk)
    wanted = 0 if head_only else end + 4 + next(_lengths(bytes(data[:end])), 0)
    while len(data) < wanted:
        data += _some(talk)
    return bytes(data)


def _lengths(head: bytes) -> Iterator[int]:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            yield int(value)


def _some(talk: socket.socket) -> bytes:
    data = talk.recv(65536)
    if not data:
        raise EOFError("the client closed inside a request")
    return data


def _await_end(talk: socket.socket, _: Step) -> None:
    try:
        while talk.recv(65536):
            pass
    except (ConnectionResetError, ssl.SSLError):
        pass


def _reset(talk: socket.socket, _: Step) -> None:
    talk.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    talk.close()

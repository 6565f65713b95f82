"""A small HTTP proxy for tests: absolute-form requests and CONNECT, everything it was asked is recorded.

It sends every request to the address given, whatever host the client named, so that tests may use names that no
resolver knows.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import BinaryIO

from kit.answer import Request
from kit.server import Gone, read_request


class Proxy:
    """Listens on a loopback port from construction until the context ends."""

    def __init__(self, upstream_port: int, status: int = 200) -> None:
        """`status` other than 200 is what every request and CONNECT is refused with."""
        self._upstream = ("127.0.0.1", upstream_port)
        self._status = status
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._changed = threading.Condition()
        self._requests: list[Request] = []
        self._sockets: list[socket.socket] = [self._listener]
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            for each in self._sockets:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()

    def requests(self) -> list[Request]:
        """What the clients asked for, in order: `method` and `target` as they were written."""
        with self._changed:
            return list(self._requests)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._changed:
                self._sockets.append(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(Gone, OSError, ValueError), client, client.makefile("rb") as stream:
            while (request := read_request(stream, 0)) is not None:
                with self._changed:
                    self._requests.append(request)
                if self._status != 200:
                    client.sendall(b"HTTP/1.1 %d Refused\r\nContent-Length: 0\r\n\r\n" % self._status)
                elif request.method == "CONNECT":
                    with socket.create_connection(self._upstream) as server:
                        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                        back = threading.Thread(target=_copy, args=(server, client), daemon=True)
                        back.start()
                        _copy(client, server)
                        back.join()
                    return
                else:
                    self._forward(client, request)

    def _forward(self, client: socket.socket, request: Request) -> None:
        path = "/" + request.target.split("/", 3)[3] if "://" in request.target else request.target
        head = f"{request.method} {path} HTTP/1.1\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in request.headers if name.lower() != "connection")
        with socket.create_connection(self._upstream) as server:
            server.sendall(head.encode("latin-1") + b"Connection: close\r\n\r\n" + request.body)
            with server.makefile("rb") as answer:
                client.sendall(_whole_response(answer))


def _whole_response(stream: BinaryIO) -> bytes:
    """One response with a Content-Length, which is what the test backend sends by default."""
    head, length = b"", 0
    while (line := stream.readline()) not in (b"\r\n", b""):
        if line.lower().startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
        head += line
    return head + b"\r\n" + stream.read(length)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)

"""The HTTP server of the metrics process: each client gets what it may, and nobody occupies it."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from kit.waiting import until

from pfxhttpd.io.metrics import server
from pfxhttpd.io.metrics.server import HttpServer, Request, Response


class Serving:
    """A server with a thread in the place of the process's main loop."""

    def __init__(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = listener.getsockname()
        self.server = HttpServer(listener, None, self.respond)
        self.seen: list[Request] = []
        self._stopped = False
        self._listener = listener
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def respond(self, request: Request) -> Response:
        self.seen.append(request)
        return Response(200, b"x" * 30_000_000 if request.path == "/large" else b"hello\n", headers={"X-Y": "z"})

    def _run(self) -> None:
        while not self._stopped:
            readable, _, _ = select.select([self._listener], (), (), 0.02)
            self.server.expire(time.monotonic())
            if readable and self.server.accepting:
                self.server.accept()

    def stop(self) -> None:
        self._stopped = True
        self._thread.join()
        self._listener.close()

    def connect(self, data: bytes = b"") -> socket.socket:
        client = socket.create_connection(self.address, 10)
        client.sendall(data)
        return client

    def exchange(self, data: bytes) -> bytes:
        """Everything that the server sends until it closes the connection."""
        with self.connect(data) as client:
            return b"".join(iter(lambda: client.recv(65536), b""))


@pytest.fixture
def serving() -> Iterator[Serving]:
    started = Serving()
    yield started
    started.stop()


def test_a_request_gets_its_response(serving: Serving) -> None:
    reply = serving.exchange(b"GET /a%20b?c=d HTTP/1.1\r\nHost: x\r\nAccept: text/plain\r\n\r\n")
    head, _, body = reply.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 OK\r\nServer: pfxhttpd\r\n") and body == b"hello\n"
    assert b"\r\nContent-Length: 6\r\n" in head and b"\r\nX-Y: z\r\n" in head
    (request,) = serving.seen
    assert (request.path, request.headers["accept"], request.peer) == ("/a%20b", "text/plain", "127.0.0.1")
    assert serving.exchange(b"HEAD / HTTP/1.0\n\n").endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"501"),
        (b"GET /metrics HTTP/9\r\n\r\n", b"400"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 20_000, b"431"),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", b"431"),
    ],
)
def test_what_is_no_request_for_a_page_is_refused(serving: Serving, data: bytes, status: bytes) -> None:
    assert status in serving.exchange(data)[:20] and not serving.seen


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\n", b"GET /large HTTP/1.1\r\n\r\n"])
def test_a_client_that_is_silent_or_does_not_read_is_disconnected(
    serving: Serving, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "DEADLINE", 0.2)
    with serving.connect(data):
        until(lambda: serving.server.busy, "the connection to be accepted")
        until(lambda: not serving.server.busy, "the connection to be closed")
    assert b"hello" in serving.exchange(b"GET / HTTP/1.0\r\n\r\n")


def test_a_client_that_sends_a_byte_now_and_then_is_disconnected(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "DEADLINE", 0.3)
    with serving.connect(b"GET / HTTP/1.0\r\nX: ") as client, pytest.raises((BrokenPipeError, ConnectionResetError)):
        for _ in range(200):
            client.sendall(b"x")
            time.sleep(0.05)


def test_the_oldest_client_makes_way_for_a_new_one(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "DEADLINE", 60)
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(serving.connect(b"GET / ")) for _ in range(server.MAX_CONNECTIONS)]
        assert b"hello" in serving.exchange(b"GET / HTTP/1.0\r\n\r\n")
        assert slow[0].recv(1) == b""
        slow[-1].sendall(b"HTTP/1.0\r\n\r\n")
        assert slow[-1].recv(12) == b"HTTP/1.0 200"

"""An HTTP backend in one process, which gives the same small answer to every POST request.

    backend.py DELAY fixed|echo

It answers after DELAY seconds; with `echo` its answer contains the key of the request. It prints its port on 127.0.0.1 and
ends when its standard input does. nginx is faster, but can neither wait nor echo without further modules.
"""

from __future__ import annotations

import heapq
import json
import select
import socket
import sys
import time

ANSWER = b'{"result": "found", "action": "DUNNO found"}'


def response(body: bytes) -> bytes:
    """The HTTP response with this body."""
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def split_request(received: bytes) -> tuple[bytes, bytes] | None:
    """The body of the first request in `received`, and what follows it; None if the request is incomplete."""
    head, separator, rest = received.partition(b"\r\n\r\n")
    if not separator:
        return None
    _, header, value = head.lower().partition(b"\r\ncontent-length:")
    size = int(value.partition(b"\r")[0]) if header else 0
    return (rest[:size], rest[size:]) if len(rest) >= size else None


class Backend:
    """All connections, and the responses that are due later."""

    def __init__(self, delay: float, echo: bool) -> None:
        self._delay, self._echo = delay, echo
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._epoll = select.epoll()
        self._connections: dict[int, socket.socket] = {}
        self._received: dict[int, bytes] = {}
        self._due: list[tuple[float, int, bytes]] = []
        self.port: int = self._listener.getsockname()[1]

    def run(self) -> None:
        """Serves until standard input ends."""
        self._epoll.register(self._listener, select.EPOLLIN)
        self._epoll.register(sys.stdin, select.EPOLLIN)
        while True:
            for fd, _ in self._epoll.poll(self._send_due()):
                if fd == self._listener.fileno():
                    self._accept()
                elif fd in self._connections:
                    self._receive(fd)
                else:
                    return

    def _send_due(self) -> float | None:
        """Sends the responses whose time has come; returns the seconds until the next one."""
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            _, fd, data = heapq.heappop(self._due)
            if fd in self._connections:
                self._connections[fd].send(data)
        return self._due[0][0] - now if self._due else None

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        fd = connection.fileno()
        self._connections[fd], self._received[fd] = connection, b""
        self._epoll.register(fd, select.EPOLLIN)

    def _receive(self, fd: int) -> None:
        try:
            data = self._connections[fd].recv(65536)
        except OSError:
            data = b""
        if not data:
            self._connections.pop(fd).close()
            return
        self._received[fd] += data
        request = split_request(self._received[fd])
        if request is None:
            return
        body, self._received[fd] = request
        answer = json.dumps({"result": json.loads(body)["key"]}).encode() if self._echo else ANSWER
        if self._delay:
            heapq.heappush(self._due, (time.monotonic() + self._delay, fd, response(answer)))
        else:
            self._connections[fd].send(response(answer))


def main() -> None:
    """Prints the port and serves."""
    backend = Backend(float(sys.argv[1]), sys.argv[2] == "echo")
    print(backend.port, flush=True)
    backend.run()


if __name__ == "__main__":
    main()

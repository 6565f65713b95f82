"""Very many lookups at the same moment: every connection sends all of its requests at once."""

from __future__ import annotations

import selectors
import socket
import time
from dataclasses import dataclass

from kit.clients import netstring


@dataclass(frozen=True, slots=True)
class Burst:
    """The replies in the order of their arrival, as text, and when each came, in seconds since the first request was sent."""

    replies: list[str]
    times: list[float]

    @property
    def seconds(self) -> float:
        """From the first request to the last reply."""
        return self.times[-1]

    def quantile(self, share: float) -> float:
        """The time within which so large a share of the replies had come."""
        return sorted(self.times)[min(len(self.times) - 1, int(share * len(self.times)))]


def send_burst(port: int, name: str, connections: int, each: int, timeout: float = 60.0) -> Burst:
    """Looks up `connections` × `each` keys, each key once. Raises TimeoutError, ConnectionError."""
    replies: list[str] = []
    times: list[float] = []
    received: dict[socket.socket, bytes] = {}
    with selectors.DefaultSelector() as waiting:
        try:
            for _ in range(connections):
                sock = socket.create_connection(("127.0.0.1", port), timeout)
                received[sock] = b""
                waiting.register(sock, selectors.EVENT_READ)
            began = time.monotonic()
            for number, sock in enumerate(received):
                sock.sendall(b"".join(netstring(f"{name} k{number}-{turn}".encode()) for turn in range(each)))
            while len(replies) < connections * each:
                ready = waiting.select(max(0.0, began + timeout - time.monotonic()))
                if not ready:
                    raise TimeoutError(f"{len(replies)} of {connections * each} replies within {timeout} s")
                for key, _ in ready:
                    sock = key.fileobj
                    data = sock.recv(65536)
                    if not data:
                        raise ConnectionError(f"closed after {received[sock]!r}")
                    found, received[sock] = _netstrings(received[sock] + data)
                    replies += found
                    times += [time.monotonic() - began] * len(found)
        finally:
            for sock in received:
                sock.close()
    return Burst(replies, times)


def _netstrings(data: bytes) -> tuple[list[str], bytes]:
    """The whole netstrings in the data, and the rest."""
    found = []
    while True:
        length, colon, rest = data.partition(b":")
        if not colon or len(rest) <= int(length):
            return found, data
        found.append(rest[: int(length)].decode())
        data = rest[int(length) + 1 :]

"""A backend of our own: one process, one epoll, the same small answer to every POST.

    backend.py DELAY ECHO

answers after DELAY seconds; with ECHO "echo" its answer holds the key that was asked for. It prints its port on
127.0.0.1 and ends with its standard input. nginx is faster, but cannot wait and cannot echo without modules.
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
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def take(have: bytes) -> tuple[bytes, bytes] | None:
    """The body of the first request in `have`, and what follows it; None when it is not whole."""
    head, blank, rest = have.partition(b"\r\n\r\n")
    if not blank:
        return None
    at = head.lower().find(b"\r\ncontent-length:")
    size = int(head[at + 17 :].partition(b"\r")[0]) if at >= 0 else 0
    return (rest[:size], rest[size:]) if len(rest) >= size else None


def serve(delay: float, echo: bool) -> None:
    door = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(door.getsockname()[1], flush=True)
    epoll = select.epoll()
    epoll.register(door, select.EPOLLIN)
    epoll.register(sys.stdin, select.EPOLLIN)
    talks: dict[int, socket.socket] = {}
    unread: dict[int, bytes] = {}
    due: list[tuple[float, int, bytes]] = []
    fixed = response(ANSWER)
    while True:
        now = time.monotonic()
        while due and due[0][0] <= now:
            _, fd, answer = heapq.heappop(due)
            if fd in talks:
                talks[fd].send(answer)
        for fd, _ in epoll.poll(max(0.0, due[0][0] - now) if due else None):
            if fd == door.fileno():
                talk, _ = door.accept()
                talk.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                talks[talk.fileno()], unread[talk.fileno()] = talk, b""
                epoll.register(talk.fileno(), select.EPOLLIN)
                continue
            if fd not in talks:
                return
            try:
                data = talks[fd].recv(65536)
            except OSError:
                data = b""
            if not data:
                talks.pop(fd).close()
                continue
            taken = take(unread[fd] + data)
            if taken is None:
                unread[fd] += data
                continue
            body, unread[fd] = taken
            answer = response(json.dumps({"result": json.loads(body)["key"]}).encode()) if echo else fixed
            if delay:
                heapq.heappush(due, (time.monotonic() + delay, fd, answer))
            else:
                talks[fd].send(answer)


if __name__ == "__main__":
    serve(float(sys.argv[1]), sys.argv[2] == "echo")

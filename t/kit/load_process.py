"""The program of the process that `kit.load` starts: all of its clients in one loop."""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
import time
from multiprocessing.connection import Connection

from kit import proc
from kit.clients import netstring
from kit.load import LoadPlan, LoadResult

EXAMPLES = 20
REFUSED_PAUSE = 0.01
"""Seconds until a client that was refused, or whose connection broke, connects again."""


class _Client:
    """A client; `sock` is its present connection, open or not."""

    __slots__ = ("buffer", "connecting", "floor", "key", "number", "sent", "sock")

    def __init__(self, number: int) -> None:
        self.number = number
        self.sock = socket.socket()
        self.key = b""
        self.sent = 0.0
        self.floor = 0
        self.buffer = b""
        self.connecting = False


class _Clients:
    """All clients. `outstanding` is how many requests have no reply yet."""

    def __init__(self, plan: LoadPlan, pipe: Connection) -> None:
        self.plan, self.pipe = plan, pipe
        self.result = LoadResult([0] * plan.clients)
        self.floor = self.ceiling = 0
        self.sent = 0
        self.outstanding = 0
        self.finishing = False
        self.epoll = select.epoll()
        self.by_fd: dict[int, _Client] = {}
        self.later: list[tuple[float, _Client]] = []
        self.waiting: tuple[str, int] | None = None
        self.started = time.monotonic()

    def run(self) -> None:
        self.epoll.register(self.pipe.fileno(), select.EPOLLIN)
        for number in range(self.plan.clients):
            self.connect(_Client(number))
        while True:
            timeout = max(0.0, self.later[0][0] - time.monotonic()) if self.later else -1
            for fd, _ in self.epoll.poll(timeout):
                if fd == self.pipe.fileno():
                    self.on_command()
                elif (client := self.by_fd.get(fd)) is not None:
                    self.on_event(client)
            while self.later and self.later[0][0] <= time.monotonic():
                self.connect(self.later.pop(0)[1])
            self.report()

    # The test

    def on_command(self) -> None:
        try:
            command, number = self.pipe.recv()
        except EOFError:
            sys.exit(0)
        if command == "allow":
            self.ceiling = number
        elif command == "demand":
            self.floor = number
        elif command == "finish":
            self.finishing = True
            self.later.clear()
        answers = self.result.answers
        goals = {"more": sum(answers) + number, "each": number}
        self.base = list(answers)
        self.waiting = (command, goals.get(command, 0))

    def report(self) -> None:
        """Sends the result that the test waits for, once it is reached."""
        if self.waiting is None:
            return
        command, goal = self.waiting
        answers = self.result.answers
        if command == "more" and sum(answers) < goal:
            return
        if command == "each" and any(now - before < goal for now, before in zip(answers, self.base)):
            return
        if command == "finish" and self.outstanding:
            return
        self.waiting = None
        self.result.seconds = time.monotonic() - self.started
        self.pipe.send(self.result)

    # The server

    def connect(self, client: _Client) -> None:
        client.sock.close()
        family = socket.AF_UNIX if isinstance(self.plan.address, str) else socket.AF_INET
        client.sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        if family == socket.AF_INET:
            client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.buffer = b""
        code = client.sock.connect_ex(self.plan.address)
        if code not in (0, errno.EINPROGRESS):
            self.on_refused(client)
            return
        client.connecting = True
        self.by_fd[client.sock.fileno()] = client
        self.epoll.register(client.sock.fileno(), select.EPOLLOUT)

    def on_refused(self, client: _Client) -> None:
        self.result.refused += 1
        self.disconnect(client)

    def disconnect(self, client: _Client) -> None:
        self.by_fd.pop(client.sock.fileno(), None)
        client.sock.close()
        if not self.finishing:
            self.later.append((time.monotonic() + REFUSED_PAUSE, client))

    def on_event(self, client: _Client) -> None:
        if client.connecting:
            if client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self.on_refused(client)
                return
            client.connecting = False
            self.epoll.modify(client.sock.fileno(), select.EPOLLIN)
            self.send(client)
            return
        try:
            data = client.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            if client.key:
                self.on_broken(client, f"after {client.buffer!r}")
            else:
                self.disconnect(client)
            return
        client.buffer += data
        self.on_data(client)

    def send(self, client: _Client) -> None:
        client.key = b""
        if self.finishing:
            return
        self.sent += 1
        client.key = b"k%d" % self.sent
        client.floor = self.floor
        client.sent = time.monotonic()
        self.outstanding += 1
        try:
            client.sock.send(netstring(b"%b %b" % (self.plan.map_name.encode(), client.key)))
        except OSError as error:
            self.on_broken(client, error.strerror)

    def on_broken(self, client: _Client, reason: str | None) -> None:
        self.outstanding -= 1
        self.result.broken += 1
        self.note(f"broken: client {client.number}, {client.key!r}: {reason}")
        self.disconnect(client)

    def on_data(self, client: _Client) -> None:
        size, colon, rest = client.buffer.partition(b":")
        if not colon or len(rest) <= int(size):
            return
        reply, comma, more = rest[: int(size)], rest[int(size) : int(size) + 1], rest[int(size) + 1 :]
        self.outstanding -= 1
        self.check_reply(client, reply, comma == b"," and not more)
        client.buffer = b""
        self.send(client)

    def check_reply(self, client: _Client, reply: bytes, framed: bool) -> None:
        result, tokens = self.result, self.plan.tokens
        result.slowest = max(result.slowest, time.monotonic() - client.sent)
        status, _, value = reply.partition(b" ")
        token, _, key = value.partition(b" ")
        if status != b"OK" and framed:
            result.failed += 1
        elif not framed or key != (client.key if tokens else b"") or token.decode() not in (tokens or ["fixed"]):
            result.wrong += 1
        elif tokens and token.decode() not in {
            tokens[number % len(tokens)] for number in range(client.floor, self.ceiling + 1)
        }:
            result.stale += 1
        else:
            result.answers[client.number] += 1
            return
        self.note(f"client {client.number}, {client.key!r}, {client.floor} to {self.ceiling}: {reply!r}")

    def note(self, what: str) -> None:
        if len(self.result.examples) < EXAMPLES:
            self.result.examples.append(what)


def _main() -> None:
    proc.raise_descriptor_limit()
    pipe = Connection(int(sys.argv[1]))
    _Clients(pipe.recv(), pipe).run()
    os._exit(0)


if __name__ == "__main__":
    _main()

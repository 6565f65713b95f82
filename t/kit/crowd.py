"""The clients of `kit.load`, all in one loop: this is the program of its process."""

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
from kit.load import Plan, Tally

EXAMPLES = 20
REFUSED_PAUSE = 0.01
"""Seconds until a client that was refused, or whose connection broke, comes again."""


class _Client:
    """One connection, or the lack of one."""

    __slots__ = ("buffer", "connecting", "floor", "key", "number", "sent", "sock")

    def __init__(self, number: int) -> None:
        self.number = number
        self.sock: socket.socket | None = None
        self.key = b""
        self.sent = 0.0
        self.floor = 0
        self.buffer = b""
        self.connecting = False


class _Crowd:
    """All clients, in one loop. `owed` is how many requests have no reply yet."""

    def __init__(self, plan: Plan, talk: Connection) -> None:
        self.plan, self.talk = plan, talk
        self.tally = Tally([0] * plan.clients)
        self.floor = self.ceiling = 0
        self.asked = 0
        self.owed = 0
        self.finishing = False
        self.epoll = select.epoll()
        self.by_fd: dict[int, _Client] = {}
        self.later: list[tuple[float, _Client]] = []
        self.waiting: tuple[str, int] | None = None
        self.started = time.monotonic()

    def run(self) -> None:
        self.epoll.register(self.talk.fileno(), select.EPOLLIN)
        for number in range(self.plan.clients):
            self.connect(_Client(number))
        while True:
            patience = max(0.0, self.later[0][0] - time.monotonic()) if self.later else -1
            for fd, _ in self.epoll.poll(patience):
                if fd == self.talk.fileno():
                    self.obey()
                elif (client := self.by_fd.get(fd)) is not None:
                    self.act(client)
            while self.later and self.later[0][0] <= time.monotonic():
                self.connect(self.later.pop(0)[1])
            self.report()

    # -- the test's side

    def obey(self) -> None:
        try:
            verb, number = self.talk.recv()
        except EOFError:
            sys.exit(0)
        if verb == "allow":
            self.ceiling = number
        elif verb == "demand":
            self.floor = number
        elif verb == "finish":
            self.finishing = True
            self.later.clear()
        answers = self.tally.answers
        goals = {"more": sum(answers) + number, "each": number}
        self.base = list(answers)
        self.waiting = (verb, goals.get(verb, 0))

    def report(self) -> None:
        """Answers the test's question, when the time has come."""
        if self.waiting is None:
            return
        verb, goal = self.waiting
        answers = self.tally.answers
        if verb == "more" and sum(answers) < goal:
            return
        if verb == "each" and any(now - before < goal for now, before in zip(answers, self.base)):
            return
        if verb == "finish" and self.owed:
            return
        self.waiting = None
        self.tally.seconds = time.monotonic() - self.started
        self.talk.send(self.tally)

    # -- the server's side

    def connect(self, client: _Client) -> None:
        family = socket.AF_UNIX if isinstance(self.plan.address, str) else socket.AF_INET
        client.sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        if family == socket.AF_INET:
            client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.buffer = b""
        code = client.sock.connect_ex(self.plan.address)
        if code not in (0, errno.EINPROGRESS):
            self.refused(client)
            return
        client.connecting = True
        self.by_fd[client.sock.fileno()] = client
        self.epoll.register(client.sock.fileno(), select.EPOLLOUT)

    def refused(self, client: _Client) -> None:
        self.tally.refused += 1
        self.leave(client)

    def leave(self, client: _Client) -> None:
        self.by_fd.pop(client.sock.fileno(), None)
        client.sock.close()
        client.sock = None
        if not self.finishing:
            self.later.append((time.monotonic() + REFUSED_PAUSE, client))

    def act(self, client: _Client) -> None:
        if client.connecting:
            if client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self.refused(client)
                return
            client.connecting = False
            self.epoll.modify(client.sock.fileno(), select.EPOLLIN)
            self.ask(client)
            return
        try:
            data = client.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            if client.key:
                self.broken(client, f"after {client.buffer!r}")
            else:
                self.leave(client)
            return
        client.buffer += data
        self.hear(client)

    def ask(self, client: _Client) -> None:
        client.key = b""
        if self.finishing:
            return
        self.asked += 1
        client.key = b"k%d" % self.asked
        client.floor = self.floor
        client.sent = time.monotonic()
        self.owed += 1
        try:
            client.sock.send(netstring(b"%b %b" % (self.plan.map_name.encode(), client.key)))
        except OSError as error:
            self.broken(client, error.strerror)

    def broken(self, client: _Client, how: str) -> None:
        self.owed -= 1
        self.tally.broken += 1
        self.note(f"broken: client {client.number}, {client.key!r}: {how}")
        self.leave(client)

    def hear(self, client: _Client) -> None:
        size, colon, rest = client.buffer.partition(b":")
        if not colon or len(rest) <= int(size):
            return
        reply, comma, more = rest[: int(size)], rest[int(size) : int(size) + 1], rest[int(size) + 1 :]
        self.owed -= 1
        self.judge(client, reply, comma == b"," and not more)
        client.buffer = b""
        self.ask(client)

    def judge(self, client: _Client, reply: bytes, framed: bool) -> None:
        tally, tokens = self.tally, self.plan.tokens
        tally.slowest = max(tally.slowest, time.monotonic() - client.sent)
        status, _, value = reply.partition(b" ")
        token, _, key = value.partition(b" ")
        if status != b"OK" and framed:
            tally.failed += 1
        elif not framed or key != (client.key if tokens else b"") or token.decode() not in (tokens or ["fixed"]):
            tally.wrong += 1
        elif tokens and token.decode() not in {
            tokens[number % len(tokens)] for number in range(client.floor, self.ceiling + 1)
        }:
            tally.stale += 1
        else:
            tally.answers[client.number] += 1
            return
        self.note(f"client {client.number}, {client.key!r}, {client.floor} to {self.ceiling}: {reply!r}")

    def note(self, what: str) -> None:
        if len(self.tally.examples) < EXAMPLES:
            self.tally.examples.append(what)


def _main() -> None:
    proc.raise_descriptor_limit()
    talk = Connection(int(sys.argv[1]))
    _Crowd(talk.recv(), talk).run()
    os._exit(0)


if __name__ == "__main__":
    _main()

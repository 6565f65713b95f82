"""The load generator: load.c compiled when there is a compiler, else the same in Python, which saturates less.

`measure` starts it and returns what it printed: rate (answers a second), p50, p99, slowest (milliseconds; the last one
counts questions that are still unanswered, too), first (milliseconds from the first connection to the first answer
counted), wrong, lost (connections of clients that asked), silent_lost, refused (connections), served (clients that got
an answer), least and most (answers that one client got).
"""

from __future__ import annotations

import json
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
POLICY = (
    "request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\nclient_address=192.0.2.17\n"
    "client_name=mail.example.org\nhelo_name=mail.example.org\nsender={key}\nrecipient=someone@example.net\n"
    "instance={key}\nsize=12345\n\n"
)


def generator(directory: Path) -> list[str]:
    """The command that generates load; compiled into `directory` if it can be."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    program = directory / "load"
    if compiler:
        built = subprocess.run([compiler, "-O2", "-o", str(program), str(HERE / "load.c")], capture_output=True)
        if built.returncode == 0:
            return [str(program)]
    return [sys.executable, str(HERE / "load.py")]


def measure(
    command: list[str],
    kind: str,
    port: int,
    clients: int,
    silent: int = 0,
    seconds: float = 3.0,
    warm: float = 0.5,
    name: str = "bench",
    wanted: str = "found",
    during: Callable[[str], None] = lambda moment: None,
) -> dict[str, Any]:
    """One measurement. `during` is called with "begin" and "end" of the measured time. Raises `RuntimeError`."""
    arguments = [kind, port, clients, silent, warm, seconds, name, wanted]
    with subprocess.Popen([*command, *map(str, arguments)], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        if running.stdout.readline() != "begin\n":
            raise RuntimeError(f"the load generator did not begin: {' '.join(map(str, arguments))}")
        during("begin")
        line = running.stdout.readline()
        during("end")
    if not line:
        raise RuntimeError(f"the load generator failed: {' '.join(map(str, arguments))}")
    return json.loads(line)


@dataclass(slots=True)
class Client:
    number: int
    silent: bool
    sock: socket.socket
    have: bytes = b""
    key: str = ""
    asked_at: float = 0.0
    questions: int = 0
    answers: int = 0


@dataclass(slots=True)
class Load:
    """The generator in Python."""

    kind: str
    port: int
    name: str
    wanted: str
    epoll: select.epoll = field(default_factory=select.epoll)
    clients: dict[int, Client] = field(default_factory=dict)
    samples: list[float] = field(default_factory=list)
    measuring: bool = False
    wrong: int = 0
    lost: int = 0
    silent_lost: int = 0
    first_wrong: str = ""

    def add(self, number: int, silent: bool = False) -> Client:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = self.clients[sock.fileno()] = Client(number, silent, sock)
        self.epoll.register(sock.fileno(), select.EPOLLIN)
        self.ask(client)
        return client

    def ask(self, client: Client) -> None:
        client.key = key = f"user{client.number}.{client.questions}@example.com"
        client.questions += 1
        if self.kind == "map":
            text = f"{len(self.name) + 1 + len(key)}:{self.name} {key},"
        elif self.kind == "policy":
            text = POLICY.format(key=key)
        else:
            body = json.dumps({"key": key})
            text = f"POST {self.name} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        client.asked_at = time.monotonic()
        client.sock.sendall(text.encode())

    def hear(self, client: Client) -> None:
        try:
            data = client.sock.recv(16384)
        except OSError:
            data = b""
        if not data:
            del self.clients[client.sock.fileno()]
            client.sock.close()
            if client.silent:
                self.silent_lost += 1
            else:
                self.lost += 1
                self.add(client.number).answers = client.answers
            return
        client.have += data
        if not self.whole(client.have):
            return
        if (client.key if self.wanted == "=" else self.wanted).encode() not in client.have:
            self.wrong += 1
            self.first_wrong = self.first_wrong or repr(client.have)
        if self.measuring:
            self.samples.append(time.monotonic() - client.asked_at)
            client.answers += 1
        client.have = b""
        client.asked_at = 0.0
        if not client.silent:
            self.ask(client)

    def whole(self, have: bytes) -> bool:
        if self.kind == "map":
            length, colon, rest = have.partition(b":")
            return bool(colon) and len(rest) > int(length)
        if self.kind == "policy":
            return have.endswith(b"\n\n")
        head, blank, body = have.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r")[0]
        return bool(blank) and len(body) >= int(length or 0)

    def turn(self, patience: float) -> None:
        for fd, _ in self.epoll.poll(patience, 256):
            if fd in self.clients:
                self.hear(self.clients[fd])

    def run(self, clients: int, silent: int, warm: float, seconds: float) -> dict[str, Any]:
        began = time.monotonic()
        for number in range(silent):
            client = self.add(clients + number, silent=True)
            while client.asked_at:
                self.turn(1.0)
        for number in range(clients):
            client, moment = self.add(number), time.monotonic() + 0.02
            while client.questions < 2 and time.monotonic() < moment:
                self.turn(0.001)
        end = time.monotonic() + warm
        while time.monotonic() < end:
            self.turn(0.001)
        print("begin", flush=True)
        self.measuring, first = True, -1.0
        start = time.monotonic()
        while time.monotonic() < start + seconds:
            self.turn(0.001)
            if first < 0 and self.samples:
                first = time.monotonic() - began
        now = time.monotonic()
        took = now - start
        busy = [client for client in self.clients.values() if not client.silent]
        times = sorted(self.samples) or [0.0]
        slowest = max([times[-1], *(now - client.asked_at for client in busy if client.asked_at)])
        counts = [client.answers for client in busy] or [0]
        return {
            "seconds": took, "answers": len(self.samples), "rate": len(self.samples) / took,
            "p50": times[len(times) // 2] * 1000, "p99": times[int((len(times) - 1) * 0.99)] * 1000,
            "slowest": slowest * 1000, "first": first * 1000, "wrong": self.wrong, "lost": self.lost,
            "silent_lost": self.silent_lost, "refused": 0, "served": sum(count > 0 for count in counts),
            "least": min(counts), "most": max(counts), "first_wrong": self.first_wrong,
        }  # fmt: skip


if __name__ == "__main__":
    kind, port, clients, silent, warm, seconds, name, wanted = sys.argv[1:]
    load = Load(kind, int(port), name, wanted)
    print(json.dumps(load.run(int(clients), int(silent), float(warm), float(seconds))))

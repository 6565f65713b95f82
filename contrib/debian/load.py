"""Lookups without a pause, as several Postfix processes send them, until SIGTERM; then one line of JSON with the counts.

    load.py PORT MAP KEY REPLY

`answered` lookups had the expected reply. `refused` connections found no listener. `closed` connections ended while a
lookup was waiting for its reply; Postfix sends such a lookup again. `longest` is the longest time, in seconds, from the
first attempt of a lookup to its reply. Any other reply is `wrong`, with the first of them in `example`.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
import threading
import time
from collections import Counter

CLIENTS = 4


class Load:
    def __init__(self, port: int, name: str, key: str, reply: str) -> None:
        self.port = port
        self.request = netstring(f"{name} {key}")
        self.reply = netstring(reply)
        self.counts: Counter[str] = Counter()
        self.longest = 0.0
        self.example = ""
        self.stopped = threading.Event()
        self.lock = threading.Lock()

    def count(self, what: str) -> None:
        with self.lock:
            self.counts[what] += 1

    def client(self) -> None:
        connection: socket.socket | None = None
        while not self.stopped.is_set():
            begin = time.monotonic()
            reply = b""
            while not reply and not self.stopped.is_set():
                try:
                    connection = connection or socket.create_connection(("127.0.0.1", self.port), timeout=30)
                except ConnectionRefusedError:
                    self.count("refused")
                    time.sleep(0.01)
                    continue
                try:
                    reply = self.ask(connection)
                except ConnectionError:
                    self.count("closed")
                    connection.close()
                    connection = None
            if not reply:
                break
            self.count("answered" if reply == self.reply else "wrong")
            with self.lock:
                self.longest = max(self.longest, time.monotonic() - begin)
                if reply != self.reply:
                    self.example = self.example or reply.decode(errors="replace")

    def ask(self, connection: socket.socket) -> bytes:
        connection.sendall(self.request)
        reply = b""
        while not reply.endswith(b","):
            received = connection.recv(4096)
            if not received:
                raise ConnectionResetError("closed before the reply")
            reply += received
        return reply


def netstring(text: str) -> bytes:
    return b"%d:%s," % (len(text.encode()), text.encode())


def main(arguments: list[str]) -> int:
    load = Load(int(arguments[0]), *arguments[1:])
    signal.signal(signal.SIGTERM, lambda *_: load.stopped.set())
    clients = [threading.Thread(target=load.client) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    load.stopped.wait()
    for client in clients:
        client.join()
    names = ("answered", "refused", "closed", "wrong")
    print(
        json.dumps(
            {
                **{name: load.counts[name] for name in names},
                "longest": round(load.longest, 2),
                "example": load.example,
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The server that one would write first: so many processes, each accepts a client, answers it until it leaves, and asks
the backend with `Session.post`. It is what pfxhttpd is compared with.

    naive.py map|policy WORKERS URL [CA]

prints its port on 127.0.0.1.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import BinaryIO

import requests


def lookup(stream: BinaryIO, session: requests.Session, url: str, verify: str | bool) -> bytes | None:
    length = b""
    while (digit := stream.read(1)) != b":":
        if not digit:
            return None
        length += digit
    payload = stream.read(int(length) + 1)[:-1].decode()
    _, _, key = payload.partition(" ")
    try:
        answer = session.post(url, json={"key": key}, timeout=10, verify=verify)
        answer.raise_for_status()
        value = answer.json().get("result")
        reply = f"OK {value}" if value else "NOTFOUND "
    except (requests.RequestException, ValueError) as error:
        reply = f"TEMP {error}"
    return b"%d:%b," % (len(reply.encode()), reply.encode())


def check(stream: BinaryIO, session: requests.Session, url: str, verify: str | bool) -> bytes | None:
    attributes = {}
    while (line := stream.readline()) != b"\n":
        if not line:
            return None
        name, _, value = line.decode().rstrip("\n").partition("=")
        attributes[name] = value
    try:
        answer = session.post(url, json=attributes, timeout=10, verify=verify)
        answer.raise_for_status()
        action = answer.json().get("action") or "DUNNO"
    except (requests.RequestException, ValueError):
        action = "DEFER_IF_PERMIT Service unavailable"
    return f"action={action}\n\n".encode()


def work(door: socket.socket, kind: str, url: str, ca: str) -> None:
    answer = lookup if kind == "map" else check
    session = requests.Session()
    while True:
        client, _ = door.accept()
        with client, client.makefile("rb") as stream:
            while (reply := answer(stream, session, url, ca or True)) is not None:
                client.sendall(reply)


def main(kind: str, workers: int, url: str, ca: str = "") -> None:
    door = socket.create_server(("127.0.0.1", 0), backlog=512)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for _ in range(workers):
        if os.fork() == 0:
            while True:
                try:
                    work(door, kind, url, ca)
                except OSError:
                    continue
    print(door.getsockname()[1], flush=True)
    os.wait()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])

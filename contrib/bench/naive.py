"""The server that one would write first. It is what pfxhttpd is compared with.

    naive.py map|policy|sasl WORKERS URL environment|direct

A fixed number of processes: each accepts a client, answers its requests until it disconnects, and asks the backend with
`requests.Session().post`. With `direct` the session has `trust_env = False`, as an experienced developer would write it: requests
then does not look into the environment and ~/.netrc for every request. The program prints its port on 127.0.0.1.
"""

from __future__ import annotations

import base64
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

import requests


class Backend:
    """The backend's URL, and the session that asks it."""

    def __init__(self, url: str, trust_env: bool) -> None:
        self._url = url
        self._session = requests.Session()
        self._session.trust_env = trust_env

    def post(self, question: dict[str, str]) -> Any:
        """The decoded answer. Raises `RequestException` or `ValueError`."""
        response = self._session.post(self._url, json=question, timeout=10)
        response.raise_for_status()
        return response.json()


def serve_map(stream: BinaryIO, client: socket.socket, backend: Backend) -> None:
    """Answers socketmap requests until the client disconnects."""
    while True:
        length = b""
        while (digit := stream.read(1)) != b":":
            if not digit:
                return
            length += digit
        _, _, key = stream.read(int(length) + 1)[:-1].decode().partition(" ")
        try:
            value = backend.post({"key": key}).get("result")
            reply = f"OK {value}" if value else "NOTFOUND "
        except (requests.RequestException, ValueError) as error:
            reply = f"TEMP {error}"
        client.sendall(b"%d:%b," % (len(reply.encode()), reply.encode()))


def serve_policy(stream: BinaryIO, client: socket.socket, backend: Backend) -> None:
    """Answers policy requests until the client disconnects."""
    attributes: dict[str, str] = {}
    for line in stream:
        if line != b"\n":
            name, _, value = line.decode().rstrip("\n").partition("=")
            attributes[name] = value
            continue
        try:
            action = backend.post(attributes).get("action") or "DUNNO"
        except (requests.RequestException, ValueError):
            action = "DEFER_IF_PERMIT Service unavailable"
        client.sendall(f"action={action}\n\n".encode())
        attributes = {}


def serve_sasl(stream: BinaryIO, client: socket.socket, backend: Backend) -> None:
    """Answers AUTH PLAIN commands of Dovecot's protocol until the client disconnects."""
    client.sendall(b"VERSION\t1\t1\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\nCOOKIE\t%032x\nDONE\n" % 1)
    for line in stream:
        fields = line.decode().rstrip("\n").split("\t")
        if fields[0] != "AUTH":
            continue
        response = fields[-1].removeprefix("resp=")
        _, user, password = base64.b64decode(response).decode().split("\0")
        try:
            backend.post({"username": user, "password": password, "protocol": "smtp", "method": "PLAIN"})
            reply = f"OK\t{fields[1]}\tuser={user}\n"
        except (requests.RequestException, ValueError):
            reply = f"FAIL\t{fields[1]}\tuser={user}\ttemp\n"
        client.sendall(reply.encode())


Service = Callable[[BinaryIO, socket.socket, Backend], None]
SERVICES: dict[str, Service] = {"map": serve_map, "policy": serve_policy, "sasl": serve_sasl}


def run_worker(listener: socket.socket, service: Service, backend: Backend) -> None:
    """Serves one client after the other, for ever."""
    while True:
        client, _ = listener.accept()
        try:
            with client, client.makefile("rb") as stream:
                service(stream, client, backend)
        except OSError:
            continue  # The connection has broken.


def main(protocol: str, workers: str, url: str, environment: str) -> None:
    """Binds, prints the port and forks the workers."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for _ in range(int(workers)):
        if os.fork() == 0:
            run_worker(listener, SERVICES[protocol], Backend(url, environment == "environment"))
    print(listener.getsockname()[1], flush=True)
    os.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The response cache when the machine has much more to do than it can: many busy workers, more clients, no backend."""

from __future__ import annotations

import selectors
import socket
from collections import Counter

import pytest
from kit.backend import Answer, Backend
from kit.clients import SocketMap
from kit.configuration import socket_map
from kit.fallback import wait_cached
from kit.site import Site

pytestmark = [pytest.mark.alone, pytest.mark.executed]

WORKERS, CLIENTS, KEYS, REQUESTS = 80, 160, 100, 8000
SHARE = 0.9
"""Part of the replies that have to come from the cache, which holds all of them. Before it was waited for in earnest, fewer
than a fifth did."""


class Client:
    """A connection on which the next request is sent as soon as the last one has its reply."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self._received = b""
        self._key = ""

    def ask(self, number: int) -> None:
        self._key = f"k{number % KEYS}"
        self._received = b""
        self.socket.sendall(b"%d:map %b," % (4 + len(self._key), self._key.encode()))

    def receive(self) -> str:
        """ "" while the reply is not complete, else "cached" or what it says instead."""
        data = self.socket.recv(4096)
        assert data, "the connection was closed"
        self._received += data
        length, colon, rest = self._received.partition(b":")
        if not colon or len(rest) <= int(length):
            return ""
        reply = rest[:-1].decode()
        return "cached" if reply == f"OK of {self._key}" else reply


def ask_all(port: int) -> Counter[str]:
    """What the replies are to REQUESTS requests of CLIENTS clients."""
    tally: Counter[str] = Counter()
    clients = [Client(port) for _ in range(CLIENTS)]
    with selectors.DefaultSelector() as selector:
        for number, client in enumerate(clients):
            selector.register(client.socket, selectors.EVENT_READ, client)
            client.ask(number)
        while tally.total() < REQUESTS:
            for key, _ in selector.select():
                reply = key.data.receive()
                if reply:
                    tally[reply] += 1
                    key.data.ask(tally.total())
    for client in clients:
        client.socket.close()
    return tally


def test_an_outage_under_load_is_answered_from_the_cache() -> None:
    with Backend() as backend:
        backend.answer("/map", Answer(json={"result": "of {key}"}, fill=True))
        maps = {"map": socket_map(backend.url("/map"), timeout="5s")}
        site = Site(maps, response_cache={"enabled": True, "ttl": "1h"}, workers=WORKERS, level="info")
        with site:
            with SocketMap(("127.0.0.1", site.map_port)) as client:
                for number in range(KEYS):
                    assert client.ask("map", f"k{number}") == f"OK of k{number}"
            wait_cached(site.daemon, KEYS)
            backend.stop()
            tally = ask_all(site.map_port)
    print(tally)
    assert tally["cached"] >= SHARE * tally.total(), tally

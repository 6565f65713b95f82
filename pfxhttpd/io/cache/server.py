"""The server of the cache process: a `multiprocessing.Manager` server with two shared objects, the table of responses and
the documents of OpenID providers.

A manager's server has a thread for each client and waits for a client's authentication without a limit. This one closes
the connection of a client that has not authenticated itself within `AUTHENTICATION_TIMEOUT`.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from multiprocessing.managers import Server
from typing import Any

from pfxhttpd.io import SetupError
from pfxhttpd.io.cache.directory import check_private, remove_socket, socket_path
from pfxhttpd.io.cache.documents import Document, Documents, Offer, ProviderState
from pfxhttpd.io.cache.table import CacheTable, Item

AUTHENTICATION_TIMEOUT = 2.0
"""Seconds within which a client has to authenticate itself."""
TABLE, DOCUMENTS = "table", "documents"
"""The shared objects' names. Clients know them, so none has to ask the manager to create an object, as proxies do."""

PublishCounts = Callable[[int, int, int, int, int, int], None]
"""Called after every change with the table's counts (`io.cache.table.Counts`)."""


class SharedTable:
    """The object that clients call, each from a thread of its own: a table behind a lock."""

    def __init__(self, publish: PublishCounts) -> None:
        self._table, self._publish, self._lock = CacheTable(), publish, threading.Lock()

    def wait(self) -> None:
        with self._lock:
            pass

    def put(self, items: Iterable[Item], max_entries: int) -> None:
        with self._lock:
            self._table.put(items, max_entries)
            self._publish(*self._table.counts)

    def get(self, key: bytes, ttl: float, items: Iterable[Item], max_entries: int) -> str | None:
        """Store the `items`, then return the value under `key`, or None."""
        with self._lock:
            self._table.put(items, max_entries)
            value = self._table.get(key, ttl, time.monotonic())
            self._publish(*self._table.counts)
        return value

    def purge(self, name: str | None, keys: Iterable[bytes]) -> int:
        with self._lock:
            removed = self._table.purge(name, keys, time.monotonic())
            self._publish(*self._table.counts)
        return removed


class SharedDocuments:
    """The other object: the documents of OpenID providers behind a lock of their own (`io.cache.documents`)."""

    def __init__(self) -> None:
        self._documents, self._lock = Documents(), threading.Lock()

    def obtain(self, name: str, owner: str, lease: float, newer_than: float, since: float) -> Offer:
        with self._lock:
            return self._documents.obtain(name, owner, lease, newer_than, since, time.monotonic())

    def store(self, name: str, provider: str, document: Document) -> None:
        with self._lock:
            self._documents.store(name, provider, document)

    def fail(self, name: str, provider: str, error: str, timeout: bool) -> None:
        with self._lock:
            self._documents.fail(name, provider, error, timeout, time.monotonic())

    def discard(self, name: str, fetched_at: float) -> None:
        with self._lock:
            self._documents.discard(name, fetched_at)

    def providers(self) -> list[ProviderState]:
        with self._lock:
            return self._documents.providers()


class CacheServer(Server):
    """Listens on the socket in `directory`, which must be private. `publish` receives the table's counts.

    Raises `SetupError`.
    """

    def __init__(self, directory: str, authkey: bytes, publish: PublishCounts) -> None:
        check_private(directory)
        path = socket_path(directory)
        try:
            remove_socket(directory)
            super().__init__({}, path, authkey, "pickle")
        except OSError as error:
            raise SetupError(f"cache socket {path}: {error.strerror or error}") from error
        self._table = SharedTable(publish)
        self.id_to_obj[TABLE] = (self._table, {"put", "get", "purge"}, {})
        self.id_to_obj[DOCUMENTS] = (SharedDocuments(), {"obtain", "store", "fail", "discard", "providers"}, {})

    def await_table(self) -> None:
        """Return once no call uses the table; never, if one hangs."""
        self._table.wait()

    def handle_request(self, conn: Any) -> None:
        """Handle a new connection, which is not authenticated yet."""
        _set_timeout(conn, AUTHENTICATION_TIMEOUT)
        super().handle_request(conn)

    def accept_connection(self, c: Connection[Any, Any], name: str) -> None:
        """Serve a client that has authenticated itself; it may stay silent for as long as it likes."""
        _set_timeout(c, 0.0)
        super().accept_connection(c, name)


def _set_timeout(connection: Connection[Any, Any], seconds: float) -> None:
    """Set the kernel's limit for a single read or write (socket(7), SO_RCVTIMEO); 0 is none."""
    interval = struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))
    sock = socket.socket(fileno=connection.fileno())
    try:
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            sock.setsockopt(socket.SOL_SOCKET, option, interval)
    finally:
        sock.detach()

"""What the workers remember together: a `multiprocessing.Manager` of one bounded table, and a way to it that never waits.

The table lives in a process of its own and outlives every worker and reload. It is a help, never a need: whoever asks
gets nothing when it is slow, full of silent strangers, stopped or gone, and its next call tries again.

The manager's own proxies have no time limits, so the caller's side is done here: the same protocol over a socket whose
reads and writes the kernel ends (SO_RCVTIMEO, socket(7)).
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import time
from collections import OrderedDict
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from multiprocessing.context import AuthenticationError, ProcessError
from multiprocessing.managers import BaseManager, Server, dispatch
from typing import Any, Callable, Iterable

SOCKET = "cache.sock"
LIMIT = 0.09
"""Seconds that one read or write of a call may take."""
MOST_BYTES = 64 * 1024 * 1024
"""What the table may hold in all, whatever the number of its entries."""
OVERHEAD = 200
"""Bytes that an entry takes beside its name and its value, roughly."""
TYPE = "table"

Tell = Callable[[int, int, int, int, int], None]
"""Is told entries, bytes, hits, misses and evictions after every change."""

Item = tuple[bytes, str, str | None, float]
"""(key, name of the entry, value or None to forget what is there, time of writing)."""

_TIMEVAL = struct.pack("@ll", 0, int(LIMIT * 1_000_000))


class StoreError(Exception):
    """The store cannot be set up; one line."""


class Table:
    """The entries, least recently used first. Times are monotonic seconds, which all processes share."""

    def __init__(self, tell: Tell, clock: Callable[[], float] = time.monotonic) -> None:
        self._told, self._clock = tell, clock
        self._entries: OrderedDict[bytes, tuple[float, str, str]] = OrderedDict()
        self._bytes = self._hits = self._misses = self._evictions = 0

    def put(self, items: Iterable[Item], most: int) -> None:
        """Remember the items; `most` entries stay."""
        for key, name, value, written in items:
            self._forget(key)
            if value is None:
                continue
            self._entries[key] = (written, name, value)
            self._bytes += _size(name, value)
        while len(self._entries) > most or self._bytes > MOST_BYTES:
            self._forget(next(iter(self._entries)))
            self._evictions += 1
        self._tell()

    def get(self, key: bytes, ttl: float) -> str | None:
        """The value under `key`, unless it is older than `ttl` seconds."""
        kept = self._entries.get(key)
        if kept is not None and self._clock() - kept[0] >= ttl:
            self._forget(key)
            kept = None
        if kept is None:
            self._misses += 1
        else:
            self._hits += 1
            self._entries.move_to_end(key)
        self._tell()
        return kept[2] if kept else None

    def purge(self, name: str | None, keys: Iterable[bytes]) -> int:
        """Forget the `keys`; without any, all entries of that name; without a name, everything. Returns how many."""
        before = len(self._entries)
        chosen = list(keys) or [key for key, kept in self._entries.items() if name is None or kept[1] == name]
        for key in chosen:
            self._forget(key)
        self._tell()
        return before - len(self._entries)

    def _forget(self, key: bytes) -> None:
        kept = self._entries.pop(key, None)
        if kept is not None:
            self._bytes -= _size(kept[1], kept[2])

    def _tell(self) -> None:
        self._told(len(self._entries), self._bytes, self._hits, self._misses, self._evictions)


def _size(name: str, value: str) -> int:
    return len(name) + len(value) + OVERHEAD


def address(directory: str) -> str:
    return os.path.join(directory, SOCKET)


def make_directory(directory: str, owner: tuple[int, int] | None = None) -> None:
    """Make the private directory (mode 0700) for the socket; `owner` is a user and a group id.

    Raises `StoreError`.
    """
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        if owner:
            os.chown(directory, *owner)
        os.chmod(directory, 0o700)
    except OSError as error:
        raise StoreError(f"cache directory {directory}: {error.strerror}") from error


def serve(directory: str, authkey: bytes, tell: Tell) -> Server:
    """The manager's server, listening in the private `directory`. Raises `StoreError`."""
    path = address(directory)
    try:
        state = os.stat(directory)
        if state.st_uid != os.geteuid() or stat.S_IMODE(state.st_mode) & 0o077:
            raise StoreError(f"cache directory {directory}: must be ours alone (mode 0700)")
        if os.path.lexists(path):
            os.unlink(path)

        class Manager(BaseManager):
            pass

        table = Table(tell)
        Manager.register(TYPE, callable=lambda: table, exposed=("put", "get", "purge"))
        return Manager(address=path, authkey=authkey).get_server()
    except OSError as error:
        raise StoreError(f"cache socket {path}: {error.strerror or error}") from error


class Store:
    """One process's way to the table. Every method comes back within a few `LIMIT`s; None means that nothing is known."""

    PAUSE = 1.0
    """Seconds without a try after a call that failed, so that a dead store costs one timeout a second, not one a call."""

    def __init__(self, directory: str, authkey: bytes) -> None:
        self._path, self._authkey = address(directory), authkey
        self._connection: Connection | None = None
        self._table = ""
        self._not_before = 0.0

    def put(self, items: list[Item], most: int) -> None:
        self._call("put", items, most)

    def get(self, key: bytes, ttl: float) -> str | None:
        return self._call("get", key, ttl)

    def purge(self, name: str | None, keys: list[bytes]) -> int | None:
        return self._call("purge", name, keys)

    def close(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None

    def _call(self, method: str, *args: Any) -> Any:
        now = time.monotonic()
        if now < self._not_before:
            return None
        try:
            try:
                return self._ask(method, args)
            except (EOFError, BrokenPipeError, ConnectionResetError):
                self.close()  # the table has a new process since the last call
                return self._ask(method, args)
        except (OSError, EOFError, ValueError, AuthenticationError, ProcessError):
            self.close()
            self._not_before = time.monotonic() + self.PAUSE
            return None

    def _ask(self, method: str, args: tuple[Any, ...]) -> Any:
        if self._connection is None:
            with self._connect() as first:
                self._table, _ = dispatch(first, None, "create", (TYPE,))
            connection = self._connect()
            dispatch(connection, None, "accept_connection", (f"pfxhttpd-{os.getpid()}",))
            self._connection = connection
        self._connection.send((self._table, method, args, {}))
        kind, result = self._connection.recv()
        if kind != "#RETURN":
            raise ProcessError(f"the table answered {kind}")
        return result

    def _connect(self) -> Connection:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            sock.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL)
        try:
            sock.connect(self._path)
        except OSError:
            sock.close()
            raise
        connection = Connection(sock.detach())
        try:
            answer_challenge(connection, self._authkey)
            deliver_challenge(connection, self._authkey)
        except BaseException:
            connection.close()
            raise
        return connection

"""What the workers remember together: a `multiprocessing.Manager` of one bounded table, and a way to it that never waits.

The table (`io.cache.table`) lives in a process of its own and outlives every worker and reload. It is a help, never a
need: whoever asks gets nothing when it is slow, full of silent strangers, stopped or gone, and a later call tries again.

The manager's own proxies have no time limits. So the callers' side is done here: the same messages, each call with one
deadline over all that it takes. And the manager waits for ever for a stranger to authenticate himself; here he gets
`PATIENCE`.
"""

from __future__ import annotations

import os
import pickle
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from multiprocessing.context import ProcessError
from multiprocessing.managers import Server
from typing import Any

from pfxhttpd.io import SetupError
from pfxhttpd.io.cache.table import CacheTable, Item

SOCKET = "cache.sock"
CALL_TIMEOUT = 0.045
"""Seconds that a call may take. A request meets two calls at most, its own and that for the one before it: so the cache
delays nobody by more than a tenth of a second."""
PAUSE = 1.0
"""Seconds without a try after a call that failed, so that a dead store costs one `LIMIT` a second, not one a call."""
STEP = 0.01
"""Seconds between attempts to reach a table whose process is not up yet."""
PATIENCE = 2.0
"""Seconds that the server gives a stranger to say who he is."""
MOST_REPLY = 16 * 1024 * 1024
"""Bytes; the longest value that a backend can give has 10 MiB."""
TABLE = "table"
"""The shared object's name, known to all ahead: so nobody has to have one made, as callers of a manager usually do."""

Tell = Callable[[int, int, int, int, int, int], None]
"""Is told the table's counts after every change (`io.cache.table.Counts`)."""

_LENGTH = struct.Struct("!i")
"""What precedes each message of `multiprocessing.connection` that is shorter than 2 GiB."""
_MISHAPS = (OSError, EOFError, ValueError, AssertionError, ProcessError, pickle.PickleError)
"""What a call can come to; an assertion is how `answer_challenge` says that it was not given one."""


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
        raise SetupError(f"cache directory {directory}: {error.strerror}") from error


# -- the table's process ----------------------------------------------------------------------------------------------


class _Desk:
    """What callers can ask of the table: one at a time, though each has a thread of the server's."""

    def __init__(self, tell: Tell) -> None:
        self._table, self._told, self._one = CacheTable(), tell, threading.Lock()

    def put(self, items: Iterable[Item], most: int) -> None:
        with self._one:
            self._table.put(items, most)
            self._told(*self._table.counts)

    def get(self, key: bytes, ttl: float, items: Iterable[Item], most: int) -> str | None:
        """What is there under `key` once the `items` are."""
        with self._one:
            self._table.put(items, most)
            value = self._table.get(key, ttl, time.monotonic())
            self._told(*self._table.counts)
        return value

    def purge(self, name: str | None, keys: Iterable[bytes]) -> int:
        with self._one:
            forgotten = self._table.purge(name, keys, time.monotonic())
            self._told(*self._table.counts)
        return forgotten


class _Server(Server):
    """The manager's server, which hangs up on strangers that stay silent: each has a thread and a descriptor."""

    def handle_request(self, conn: Connection) -> None:
        _limit(conn, PATIENCE)
        super().handle_request(conn)

    def accept_connection(self, c: Connection, name: str) -> None:
        _limit(c, 0.0)
        super().accept_connection(c, name)


def _limit(connection: Connection, seconds: float) -> None:
    """Have the kernel end reads and writes after so long (socket(7)); 0 is for ever."""
    sock = socket.socket(fileno=connection.fileno())
    _set_limit(sock, seconds)
    sock.detach()


def _set_limit(sock: socket.socket, seconds: float) -> None:
    interval = struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, interval)


def serve(directory: str, authkey: bytes, tell: Tell) -> Server:
    """The manager's server, listening in the private `directory`. Raises `StoreError`."""
    path = address(directory)
    try:
        state = os.stat(directory)
        if state.st_uid != os.geteuid() or stat.S_IMODE(state.st_mode) & 0o077:
            raise SetupError(f"cache directory {directory}: must be ours alone (mode 0700)")
        remove(directory)
        server = _Server({}, path, authkey, "pickle")
    except OSError as error:
        raise SetupError(f"cache socket {path}: {error.strerror or error}") from error
    server.id_to_obj[TABLE] = (_Desk(tell), {"put", "get", "purge"}, None)
    return server


def remove(directory: str) -> None:
    """Remove the socket's file, if there is one."""
    try:
        os.unlink(address(directory))
    except FileNotFoundError:
        pass


# -- the callers ------------------------------------------------------------------------------------------------------


class _Line:
    """A `multiprocessing.connection.Connection` as far as it is needed, whose every move is over by `deadline`.

    Raises `TimeoutError`, `OSError`, `EOFError`, `ValueError` for a message that is too long.
    """

    def __init__(self, path: str, deadline: float) -> None:
        self.deadline = deadline
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # A backlog that is full makes connect(2) wait on a blocking socket, and fail at once on any other.
            _set_limit(self._sock, self._left())
            self._sock.connect(path)
        except OSError:
            self._sock.close()
            raise

    def _left(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def send_bytes(self, message: bytes) -> None:
        self._sock.settimeout(self._left())
        self._sock.sendall(_LENGTH.pack(len(message)) + message)

    def recv_bytes(self, most: int = MOST_REPLY) -> bytes:
        (length,) = _LENGTH.unpack(self._take(_LENGTH.size))
        if not 0 <= length <= most:
            raise ValueError("a message that is too long")
        return self._take(length)

    def _take(self, length: int) -> bytes:
        taken = b""
        while len(taken) < length:
            self._sock.settimeout(self._left())
            piece = self._sock.recv(length - len(taken))
            if not piece:
                raise EOFError
            taken += piece
        return taken

    def request(self, ident: str | None, method: str, *args: Any) -> Any:
        """What the manager's server answers. Raises `ProcessError` when it is not a result."""
        self.send_bytes(pickle.dumps((ident, method, args, {})))
        kind, result = pickle.loads(self.recv_bytes())
        if kind != "#RETURN":
            raise ProcessError(f"the table answered {kind}")
        return result

    def close(self) -> None:
        self._sock.close()


class CacheClient:
    """One process's way to the table. Every method comes back within `LIMIT`; None means that nothing is known."""

    def __init__(self, directory: str, authkey: bytes) -> None:
        self._path, self._authkey = address(directory), authkey
        self._line: _Line | None = None
        self._not_before = 0.0
        self.losses = 0
        """Grows whenever something that was put may not be there any more: a call failed, or the table is a new one."""

    def connect(self, timeout: float) -> None:
        """Connect ahead of need, while nobody waits: for `timeout` seconds at most."""
        deadline = time.monotonic() + timeout
        while self._line is None:
            try:
                self._line = self._connect(deadline)
            except _MISHAPS:
                if time.monotonic() + STEP >= deadline:
                    return
                time.sleep(STEP)

    def put(self, items: list[Item], most: int) -> None:
        """Have the items remembered, or forgotten (see `io.cache.table`), if that can be."""
        self._call("put", items, most)

    def get(self, key: bytes, ttl: float, items: list[Item], most: int) -> str | None:
        """The value that was given under `key` within the last `ttl` seconds; the `items` are put before."""
        return self._call("get", key, ttl, items, most)

    def purge(self, name: str | None, keys: list[bytes]) -> int | None:
        """Have `keys`, all of an entry, or everything forgotten; how many were there, None when the table is not."""
        return self._call("purge", name, keys)

    def close(self) -> None:
        if self._line:
            self._line.close()
            self._line = None
            self.losses += 1

    def _call(self, method: str, *args: Any) -> Any:
        now = time.monotonic()
        if now < self._not_before:
            self.losses += 1
            return None
        deadline = now + CALL_TIMEOUT
        try:
            try:
                return self._ask(deadline, method, args)
            except (EOFError, BrokenPipeError, ConnectionResetError):
                self.close()  # the table has a new process since the last call
                return self._ask(deadline, method, args)
        except _MISHAPS:
            self.close()
            self.losses += 1
            self._not_before = time.monotonic() + PAUSE
            return None

    def _ask(self, deadline: float, method: str, args: tuple[Any, ...]) -> Any:
        if self._line is None:
            self._line = self._connect(deadline)
        self._line.deadline = deadline
        return self._line.request(TABLE, method, *args)

    def _connect(self, deadline: float) -> _Line:
        line = _Line(self._path, deadline)
        try:
            answer_challenge(line, self._authkey)
            deliver_challenge(line, self._authkey)
            line.request(None, "accept_connection", f"pfxhttpd-{os.getpid()}")
        except BaseException:
            line.close()
            raise
        return line

"""How a process calls the cache: the messages of a `multiprocessing.Manager` proxy, with a deadline on every call.

The manager's own proxies have no timeouts, so the client's side of the protocol is implemented here. A call to a cache
that is slow, stopped or gone returns nothing in time.

On a busy machine a reply can be late although the cache works. Then the connection is kept, the next call discards the
late reply first, and only when several calls in a row have failed there is a pause without calls.
"""

from __future__ import annotations

import os
import pickle
import socket
import struct
import time
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from multiprocessing.context import ProcessError
from typing import Any, cast

from pfxhttpd.io.cache.directory import socket_path
from pfxhttpd.io.cache.documents import Document, Offer, ProviderState
from pfxhttpd.io.cache.server import DOCUMENTS, TABLE
from pfxhttpd.io.cache.table import Item

CALL_TIMEOUT = 0.08
"""Seconds that a call may take."""
PUT_TIMEOUT = 0.015
"""Seconds that a worker waits until its writes are stored. A request waits for its own call and for the writes of the
request before it, so the cache delays no request by more than a tenth of a second."""
DOCUMENT_TIMEOUT = 0.25
"""The same for the documents of OpenID providers. Without the cache they have to be fetched, which takes longer than that."""
PAUSES = (0.0, 0.0, 0.1, 0.3, 1.0)
"""Seconds without calls after the first, second ... failure in a row, so that a cache that does not answer costs one
`CALL_TIMEOUT` a second in the end, and one that is late on a busy machine is still asked."""
CONNECT_PAUSE = 0.01
"""Seconds between attempts to connect to a cache process that is not up yet."""
MAX_REPLY = 16 * 1024 * 1024
"""Bytes of a reply. The longest value that a backend can give has 10 MiB."""

_LENGTH = struct.Struct("!i")
"""What precedes each message of `multiprocessing.connection` that is shorter than 2 GiB."""
_RECEIVE = 4096
"""Bytes that are read at once, at least."""
_CALL_ERRORS = (OSError, EOFError, ValueError, AssertionError, ProcessError, pickle.PickleError)
"""What a call can raise. `answer_challenge` raises AssertionError when the peer does not send a challenge."""


class _CacheConnection:
    """The part of a `multiprocessing.connection.Connection` that a client needs, with a `deadline` for every operation.

    Raises `TimeoutError`, after which the connection can still be used, and `OSError`, `EOFError`, `ProcessError`,
    `PickleError`, and `ValueError` for a message that is too long.
    """

    def __init__(self, path: str, deadline: float) -> None:
        self.deadline = deadline
        self._received = bytearray()
        self._unanswered = 0
        """How many calls have no reply yet."""
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # With a full backlog connect(2) waits on a blocking socket, for SO_SNDTIMEO at most, and fails at once on
            # a non-blocking one.
            seconds = self._time_left()
            interval = struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, interval)
            self._sock.connect(path)
        except OSError:
            self._sock.close()
            raise

    def _time_left(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def send_bytes(self, message: bytes) -> None:
        self._sock.settimeout(self._time_left())
        try:
            self._sock.sendall(_LENGTH.pack(len(message)) + message)
        except TimeoutError as error:
            raise ConnectionError("only a part of the message was sent") from error

    def recv_bytes(self, maxlength: int = MAX_REPLY) -> bytes:
        (length,) = _LENGTH.unpack(self._peek(_LENGTH.size))
        if not 0 <= length <= maxlength:
            raise ValueError("message too long")
        message = self._peek(_LENGTH.size + length)[_LENGTH.size :]
        del self._received[: _LENGTH.size + length]
        return message

    def _peek(self, length: int) -> bytes:
        """The first bytes that were received and not consumed. What has arrived by the deadline is read even after it,
        since this process may not have run in between."""
        while len(self._received) < length:
            self._sock.settimeout(max(0.0, self.deadline - time.monotonic()))
            try:
                data = self._sock.recv(max(_RECEIVE, length - len(self._received)))
            except BlockingIOError as error:
                raise TimeoutError from error
            if not data:
                raise EOFError
            self._received += data
        return bytes(self._received[:length])

    def request(self, ident: str | None, method: str, args: tuple[Any, ...], may_be_late: bool = False) -> Any:
        """Call a method of the manager's server. Raises `ProcessError` when the reply is not a result.

        If it `may_be_late`, the result is None when there is no reply by the deadline.
        """
        while self._unanswered:
            self.recv_bytes()
            self._unanswered -= 1
        self.send_bytes(pickle.dumps((ident, method, args, {})))
        self._unanswered += 1
        try:
            reply = self.recv_bytes()
        except TimeoutError:
            if may_be_late:
                return None
            raise
        self._unanswered -= 1
        kind, result = pickle.loads(reply)
        if kind != "#RETURN":
            raise ProcessError(f"the cache answered {kind}")
        return result

    def close(self) -> None:
        self._sock.close()


class CacheClient:
    """One process's access to the cache. Every method returns within its timeout; None means that nothing is known."""

    def __init__(self, directory: str, authkey: bytes) -> None:
        self._path, self._authkey = socket_path(directory), authkey
        self._connection: _CacheConnection | None = None
        self._failures = 0
        """How many calls in a row have failed."""
        self._paused_until = 0.0
        self.losses = 0
        """Grows whenever an item that was put may be missing: a call failed, or the cache process is a new one."""

    def connect(self, timeout: float) -> None:
        """Connect before the first request, waiting at most `timeout` seconds for the cache process to be up."""
        deadline = time.monotonic() + timeout
        while self._connection is None:
            try:
                self._connection = self._connect(deadline)
            except _CALL_ERRORS:
                if time.monotonic() + CONNECT_PAUSE >= deadline:
                    return
                time.sleep(CONNECT_PAUSE)

    def put(self, items: list[Item], max_entries: int) -> None:
        """Store or delete the items (see `io.cache.table`), if the cache can be reached."""
        self._call(TABLE, "put", items, max_entries, timeout=PUT_TIMEOUT, may_be_late=True)

    def get(self, key: bytes, ttl: float, items: list[Item], max_entries: int) -> str | None:
        """The value stored under `key` within the last `ttl` seconds. The `items` are put first."""
        value = self._call(TABLE, "get", key, ttl, items, max_entries)
        return value if isinstance(value, str) else None

    def purge(self, name: str | None, keys: list[bytes]) -> int | None:
        """Remove `keys`, all keys of an entry, or everything. Returns how many were removed, None without a cache."""
        removed = self._call(TABLE, "purge", name, keys)
        return removed if isinstance(removed, int) else None

    def close(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None
            self.losses += 1

    def obtain_document(self, name: str, owner: str, lease: float, newer_than: float, since: float) -> Offer | None:
        """The document of that name, or a lease to fetch it (`io.cache.documents`); None without a cache."""
        offer = self._call(DOCUMENTS, "obtain", name, owner, lease, newer_than, since, timeout=DOCUMENT_TIMEOUT)
        return offer if isinstance(offer, Offer) else None

    def store_document(self, name: str, provider: str, document: Document) -> None:
        """Share a document that was fetched."""
        self._call(DOCUMENTS, "store", name, provider, document, timeout=DOCUMENT_TIMEOUT)

    def fail_document(self, name: str, provider: str, error: str, timeout: bool) -> None:
        """Share that a fetch has failed, and why; `error` is one line without secrets."""
        self._call(DOCUMENTS, "fail", name, provider, error, timeout)

    def discard_document(self, name: str, fetched_at: float) -> None:
        """Have the document that was fetched at that time forgotten, if it is still the one."""
        self._call(DOCUMENTS, "discard", name, fetched_at)

    def providers(self) -> list[ProviderState]:
        """What there is to be shown of each provider; nothing without a cache."""
        states = self._call(DOCUMENTS, "providers")
        return states if isinstance(states, list) else []

    def _call(
        self, ident: str, method: str, *args: Any, timeout: float | None = None, may_be_late: bool = False
    ) -> object:
        now = time.monotonic()
        if now < self._paused_until:
            self.losses += 1
            return None
        deadline = now + (CALL_TIMEOUT if timeout is None else timeout)
        try:
            try:
                result = self._request(deadline, ident, method, args, may_be_late)
            except (EOFError, BrokenPipeError, ConnectionResetError):
                self.close()  # the cache process has been replaced since the last call
                result = self._request(deadline, ident, method, args, may_be_late)
        except _CALL_ERRORS as error:
            if not isinstance(error, TimeoutError):
                self.close()
            self.losses += 1
            self._paused_until = time.monotonic() + PAUSES[min(self._failures, len(PAUSES) - 1)]
            self._failures += 1
            return None
        self._failures = 0
        return result

    def _request(self, deadline: float, ident: str, method: str, args: tuple[Any, ...], may_be_late: bool) -> object:
        if self._connection is None:
            self._connection = self._connect(deadline)
        self._connection.deadline = deadline
        return self._connection.request(ident, method, args, may_be_late)

    def _connect(self, deadline: float) -> _CacheConnection:
        connection = _CacheConnection(self._path, deadline)
        try:
            answer_challenge(cast("Connection[Any, Any]", connection), self._authkey)
            deliver_challenge(cast("Connection[Any, Any]", connection), self._authkey)
            connection.request(None, "accept_connection", (f"pfxhttpd-{os.getpid()}",))
        except BaseException:
            connection.close()
            raise
        return connection

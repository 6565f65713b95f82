"""The HTTP/1.1 server inside the test backend: plain sockets, a thread per connection, able to misbehave on purpose.

It is written for tests and so knows nothing of robustness against its own clients; what it can do wrong is what
`kit.answer.Answer` lists.
"""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import struct
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import responses
from typing import Any, BinaryIO

from kit.answer import UNSET, Answer, Keyed, Request, Rule, Series

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
TLS_HANDSHAKE = b"\x16"
NOT_HTTP = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
NOT_PROGRAMMED = Answer(status=404, json={"error": "the test programmed no answer for this path"})


@dataclass(frozen=True, slots=True)
class ServerTls:
    """A certificate chain and key in PEM files; with `client_ca`, clients must show a certificate of that CA."""

    certificate: str
    key: str
    client_ca: str = ""
    newest: str = ""
    """"1.1" or "1.2" refuses to speak anything newer."""

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        if self.newest == "1.1":
            context.set_ciphers("ALL:@SECLEVEL=0")
            with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # that is the point
                context.minimum_version = ssl.TLSVersion.TLSv1
                context.maximum_version = ssl.TLSVersion.TLSv1_1
        elif self.newest == "1.2":
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        if self.client_ca:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.client_ca)
        return context


class Gone(Exception):
    """The client closed its connection, or sent no HTTP."""


def read_request(stream: BinaryIO, connection: int, peer: str = "", server_name: str = "") -> Request | None:
    """The next request of the connection; None at its end. Raises Gone when it ends inside one."""
    line = stream.readline()
    if not line:
        return None
    try:
        method, target, version = line.decode("latin-1").split()
    except ValueError:
        raise Gone(f"no request line: {line!r}") from None
    headers = []
    while (line := stream.readline()) not in (b"\r\n", b"\n"):
        if not line:
            raise Gone("end of file inside the head")
        name, _, value = line.decode("latin-1").partition(":")
        headers.append((name, value.strip()))
    lower = {name.lower(): value for name, value in headers}
    if lower.get("transfer-encoding", "").lower() == "chunked":
        body = b"".join(_chunks(stream))
    else:
        length = int(lower.get("content-length", "0"))
        body = stream.read(length)
        if len(body) < length:
            raise Gone("end of file inside the body")
    return Request(method, target, version, tuple(headers), body, connection, peer, server_name)


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    while size := int(stream.readline().split(b";")[0], 16):
        yield stream.read(size)
        stream.readline()
    while stream.readline() not in (b"\r\n", b"\n", b""):
        pass


def _filled(value: Any, fields: dict[str, Any]) -> Any:
    if isinstance(value, str):
        return value.format_map(fields)
    if isinstance(value, dict):
        return {name: _filled(member, fields) for name, member in value.items()}
    if isinstance(value, list):
        return [_filled(member, fields) for member in value]
    return value


def response_bytes(answer: Answer, request: Request) -> tuple[bytes, bytes]:
    """Head and body of the answer as they go over the wire."""
    headers = list(answer.headers.items() if hasattr(answer.headers, "items") else answer.headers)
    body = answer.body
    if answer.json is not UNSET:
        body = json.dumps(_filled(answer.json, request.fields()) if answer.fill else answer.json).encode()
        headers.append(("Content-Type", "application/json"))
    if answer.gzip:
        body = gzip.compress(body)
        headers.append(("Content-Encoding", "gzip"))
    if answer.framing == "chunked":
        headers.append(("Transfer-Encoding", "chunked"))
        pieces = [body[start : start + answer.chunk] for start in range(0, len(body), answer.chunk)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    elif answer.framing == "length" and answer.status not in (204, 304):
        headers.append(("Content-Length", str(len(body))))
    if answer.then == "announce":
        headers.append(("Connection", "close"))
    head = f"HTTP/1.1 {answer.status} {responses.get(answer.status, 'Other')}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers)
    return head.encode("latin-1") + b"\r\n", body


class Server:
    """Listens on a loopback port from construction until `stop`."""

    def __init__(self, tls: ServerTls | None = None, host: str = "127.0.0.1", record: bool = True) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, backlog=1024)
        self._tls = tls.context() if tls else None
        if self._tls:
            self._tls.sni_callback = self._note_server_name
        self._record = record
        self._changed = threading.Condition()
        self._rules: dict[str, Rule] = {}
        self._turns: Counter[str] = Counter()
        self._requests: list[Request] = []
        self._seen: Counter[str] = Counter()
        self._connections = 0
        self._open: dict[int, socket.socket] = {}
        self._gates: dict[str, threading.Event] = {}
        self._stopping = threading.Event()
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    # What a test says and asks. Every method may be called from any thread.

    def answer(self, path: str, rule: Rule) -> None:
        """From now on requests for `path` (without its query) are answered by `rule`."""
        with self._changed:
            self._rules[path] = rule
            self._turns.pop(path, None)

    def requests(self, path: str | None = None) -> list[Request]:
        """The requests seen since the last `forget`, of one path or all."""
        with self._changed:
            return [request for request in self._requests if path is None or request.path == path]

    def count(self, path: str | None = None) -> int:
        with self._changed:
            return self._seen.total() if path is None else self._seen[path]

    def forget(self) -> None:
        with self._changed:
            self._requests.clear()
            self._seen.clear()

    def wait_requests(self, number: int, path: str | None = None, timeout: float = 10.0) -> list[Request]:
        """Returns the requests seen as soon as there are `number` of them. Raises TimeoutError."""
        with self._changed:
            enough = self._changed.wait_for(
                lambda: (self._seen.total() if path is None else self._seen[path]) >= number, timeout
            )
            if not enough:
                raise TimeoutError(f"{number} requests for {path or 'any path'} awaited, saw {dict(self._seen)}")
        return self.requests(path)

    def connections(self) -> int:
        """How many connections were accepted in all."""
        with self._changed:
            return self._connections

    def open_connections(self) -> int:
        with self._changed:
            return len(self._open)

    def wait_open_connections(self, number: int, timeout: float = 10.0) -> None:
        """Returns when exactly `number` connections are open. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._open) == number, timeout):
                raise TimeoutError(f"{number} open connections awaited, there are {len(self._open)}")

    def release(self, gate: str) -> None:
        """Lets every answer with `hold=gate` go, those to come too."""
        self._gate(gate).set()

    def close_idle(self) -> None:
        """Closes every connection, as a backend does that restarts or tires of idle ones; goes on listening."""
        with self._changed:
            still_open = list(self._open.values())
        for connection in still_open:
            _shut(connection)
        self.wait_open_connections(0)

    def stop(self) -> None:
        self._stopping.set()
        for gate in list(self._gates.values()):
            gate.set()
        _shut(self._listener)
        self._listener.close()
        with self._changed:
            still_open = list(self._open.values())
        for connection in still_open:
            _shut(connection)

    # What happens on the sockets.

    def _gate(self, name: str) -> threading.Event:
        with self._changed:
            return self._gates.setdefault(name, threading.Event())

    def _note_server_name(self, connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        vars(connection)["asked_name"] = name or ""

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._changed:
                self._connections += 1
                number = self._connections
                self._open[number] = connection
                self._changed.notify_all()
            threading.Thread(target=self._serve, args=(connection, number), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        try:
            self._converse(connection, number)
        except (Gone, OSError, ValueError):
            pass
        finally:
            with self._changed:
                self._open.pop(number, None)
                self._changed.notify_all()

    def _converse(self, connection: socket.socket, number: int) -> None:
        with connection:
            peer = server_name = ""
            talk = connection
            if self._tls:
                talk = self._tls.wrap_socket(connection, server_side=True)
                with self._changed:
                    self._open[number] = talk
                peer = _common_name(talk)
                server_name = getattr(talk, "asked_name", "")
            with talk, talk.makefile("rb") as stream:
                if stream.peek(1)[:1] == TLS_HANDSHAKE:
                    talk.sendall(NOT_HTTP)
                    return
                while (request := read_request(stream, number, peer, server_name)) is not None:
                    if not self._perform(talk, request, self._choose(request)):
                        return

    def _choose(self, request: Request) -> Answer:
        with self._changed:
            if self._record:
                self._requests.append(request)
            self._seen[request.path] += 1
            self._changed.notify_all()
            rule: Rule = self._rules.get(request.path, NOT_PROGRAMMED)
            turn = self._turns[request.path]
            self._turns[request.path] += 1
        if isinstance(rule, Series):
            return rule.answers[min(turn, len(rule.answers) - 1)]
        if isinstance(rule, Keyed):
            return rule.table.get(str(request.fields().get(rule.name)), rule.otherwise)
        return rule if isinstance(rule, Answer) else rule(request)

    def _perform(self, talk: socket.socket, request: Request, answer: Answer) -> bool:
        """Carries the answer out; whether the connection stays open."""
        if answer.hold:
            self._gate(answer.hold).wait()
        if answer.delay:
            self._stopping.wait(answer.delay)
        if answer.silent:
            while talk.recv(4096):
                pass
            return False
        if answer.drop:
            return self._end(talk, "reset" if answer.then == "reset" else "close")
        for status in answer.interim:
            talk.sendall(f"HTTP/1.1 {status} {responses.get(status, 'Interim')}\r\n\r\n".encode())
        if answer.raw is not None:
            self._send(talk, answer.raw, answer.trickle)
            return self._end(talk, answer.then)
        head, body = response_bytes(answer, request)
        if answer.cut is not None:
            self._send(talk, head + body[: answer.cut], answer.trickle)
            return self._end(talk, "reset" if answer.then == "reset" else "close")
        if answer.trickle and answer.trickle_from == "body":
            talk.sendall(head)
            self._send(talk, body, answer.trickle)
        else:
            at_once = b"" if answer.trailing_after else answer.trailing
            self._send(talk, head + body + at_once, answer.trickle)
        if answer.trailing_after:
            self._stopping.wait(answer.trailing_after)
            talk.sendall(answer.trailing)
        return self._end(talk, "close" if answer.framing == "close" else answer.then)

    def _send(self, talk: socket.socket, data: bytes, trickle: float) -> None:
        if not trickle:
            talk.sendall(data)
            return
        for position in range(len(data)):
            if self._stopping.wait(trickle):
                return
            talk.sendall(data[position : position + 1])

    def _end(self, talk: socket.socket, how: str) -> bool:
        ending: dict[str, Callable[[socket.socket], bool]] = {
            "keep": lambda _: True,
            "close": lambda _: False,
            "announce": lambda _: False,
            "reset": _reset,
        }
        return ending[how](talk)


def _reset(talk: socket.socket) -> bool:
    talk.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    return False


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except (OSError, ValueError):
        pass


def _common_name(connection: ssl.SSLSocket) -> str:
    certificate = connection.getpeercert() or {}
    subject: Any = certificate.get("subject", ())  # tuples of pairs, which the annotation does not say
    return next((value for part in subject for name, value in part if name == "commonName"), "")

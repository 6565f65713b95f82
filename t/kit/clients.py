"""Clients on plain sockets, one per protocol: they write what the test says and show what came back, nothing more.

They share no code with the package, so that a mistake in its encoders cannot hide itself.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import os
import socket
from typing import Self

Address = tuple[str, int] | str
"""(host, port), or the path of a Unix socket."""


class Closed(Exception):
    """The server closed the connection where an answer was awaited; `partial` is what had come of it."""

    def __init__(self, partial: bytes) -> None:
        super().__init__(f"connection closed after {partial!r}")
        self.partial = partial


class _Connection:
    """A connection with a deadline on each wait (seconds)."""

    def __init__(self, address: Address, timeout: float = 10.0) -> None:
        if isinstance(address, str):
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.socket.settimeout(timeout)
            self.socket.connect(address)
        else:
            self.socket = socket.create_connection(address, timeout)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send_raw(self, data: bytes) -> None:
        self.socket.sendall(data)

    def finish(self) -> None:
        """Sends end of file; answers can still be read."""
        self.socket.shutdown(socket.SHUT_WR)

    def rest(self) -> bytes:
        """Everything until the server closes. Raises TimeoutError when it does not."""
        while self._more():
            pass
        data, self._buffer = self._buffer, b""
        return data

    def closed(self) -> bool:
        """True as soon as the server closed without sending another byte, False if it sends one.

        Raises TimeoutError when neither happens.
        """
        return not self._buffer and not self._more()

    def quiet(self, seconds: float) -> bool:
        """Whether nothing at all comes, neither a byte nor the end, for so long."""
        if self._buffer:
            return False
        before = self.socket.gettimeout()
        self.socket.settimeout(seconds)
        try:
            self._more()
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(before)
        return False

    def _more(self) -> bool:
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            return False
        self._buffer += data
        return bool(data)

    def _until(self, mark: bytes) -> bytes:
        """What comes up to and without the mark. Raises Closed, TimeoutError."""
        start = 0
        while (end := self._buffer.find(mark, start)) < 0:
            start = max(0, len(self._buffer) - len(mark) + 1)
            if not self._more():
                raise Closed(self._buffer)
        found, self._buffer = self._buffer[:end], self._buffer[end + len(mark) :]
        return found

    def _exactly(self, number: int) -> bytes:
        while len(self._buffer) < number:
            if not self._more():
                raise Closed(self._buffer)
        found, self._buffer = self._buffer[:number], self._buffer[number:]
        return found


def netstring(payload: bytes) -> bytes:
    return b"%d:%b," % (len(payload), payload)


class SocketMap(_Connection):
    """Postfix's socketmap_table(5) client."""

    def ask(self, name: str, key: str | bytes) -> str:
        """One lookup: "OK value", "NOTFOUND ", "TEMP reason", …"""
        self.send(name, key)
        return self.reply()

    def send(self, name: str, key: str | bytes) -> None:
        self.send_raw(netstring(name.encode() + b" " + (key if isinstance(key, bytes) else key.encode())))

    def reply(self) -> str:
        """The next reply. Raises Closed, TimeoutError, and AssertionError for what is no netstring."""
        length = self._until(b":")
        assert length.isdigit() and (length == b"0" or length[:1] != b"0"), f"no netstring length: {length!r}"
        payload = self._exactly(int(length) + 1)
        assert payload.endswith(b","), f"netstring without its comma: {payload[-50:]!r}"
        return payload[:-1].decode()


class Policy(_Connection):
    """Postfix's policy delegation client (SMTPD_POLICY_README)."""

    def ask(self, attributes: dict[str, str] | None = None, **more: str) -> str:
        """One request; the action of the reply."""
        self.send(attributes, **more)
        return self.reply()

    def send(self, attributes: dict[str, str] | None = None, **more: str) -> None:
        everything = {"request": "smtpd_access_policy", **(attributes or {}), **more}
        self.send_raw("".join(f"{name}={value}\n" for name, value in everything.items()).encode() + b"\n")

    def reply(self) -> str:
        """The next action. Raises Closed, TimeoutError, and AssertionError for what is no policy reply."""
        reply = self._until(b"\n\n")
        assert b"\r" not in reply and b"\n" not in reply, f"a reply of one line awaited: {reply!r}"
        name, equals, action = reply.partition(b"=")
        assert name == b"action" and equals, f"no action: {reply!r}"
        return action.decode()


class Sasl(_Connection):
    """A client of Dovecot's auth protocol 1.x: shakes hands, then exchanges lines."""

    def __init__(self, address: Address, timeout: float = 10.0, handshake: bool = True) -> None:
        super().__init__(address, timeout)
        self.greeting: list[str] = []
        self._ids = itertools.count(1)
        if handshake:
            self.send_line(f"VERSION\t1\t1\nCPID\t{os.getpid()}")
            self.greet()

    def greet(self) -> list[str]:
        """Reads the server's greeting up to and with DONE."""
        while not self.greeting or self.greeting[-1] != "DONE":
            self.greeting.append(self.line())
        return self.greeting

    @property
    def mechanisms(self) -> dict[str, list[str]]:
        """Mechanism -> its flags, from the greeting."""
        lines = [line.split("\t") for line in self.greeting]
        return {parts[1]: parts[2:] for parts in lines if parts[0] == "MECH"}

    def send_line(self, line: str) -> None:
        self.send_raw(line.encode() + b"\n")

    def line(self) -> str:
        """The next line. Raises Closed, TimeoutError."""
        return self._until(b"\n").decode()

    def auth(self, mechanism: str, response: bytes | str | None = None, *fields: str) -> str:
        """Starts an exchange and returns the server's first line for it; the id is `last_id`.

        `response` is put in base64 (as Postfix does, in the last field); `fields` are written as they are.
        """
        self.last_id = next(self._ids)
        line = ["AUTH", str(self.last_id), mechanism, "service=smtp", *fields]
        if response is not None:
            line.append("resp=" + _base64(response))
        self.send_line("\t".join(line))
        return self.line()

    def plain(self, user: str, password: str, *fields: str, authorization: str = "") -> str:
        """A whole PLAIN exchange; the server's line."""
        return self.auth("PLAIN", f"{authorization}\0{user}\0{password}", *fields)

    def replies(self) -> bytes:
        """All replies to what was sent, up to that to a last request for a mechanism that does not exist, or to the end.

        Raises TimeoutError. A connection that is ended before the replies are read gets none.
        """
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send_raw(b"\nAUTH\t4294967295\tNONE\n")
        try:
            return self._until(b"FAIL\t4294967295\tcode=auth_mech_invalid\treason=unsupported mechanism\n")
        except Closed:
            return self.rest()

    def cont(self, response: bytes | str, id: int | None = None) -> str:
        """Answers a CONT of the server; its next line."""
        self.send_line(f"CONT\t{self.last_id if id is None else id}\t{_base64(response)}")
        return self.line()


def _base64(data: bytes | str) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()

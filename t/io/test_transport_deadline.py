"""One deadline over everything: each way to waste a client's time ends when `timeout` seconds are over."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kit import ports
from kit.certificates import Authority
from kit.scripted import Idle, Receive, ReceiveEnd, Scripted, Send, Trickle
from kit.server import ServerTls
from kit.transports import Way, ours, trusting

TIMEOUT = 0.4
TOLERANCE = 0.25
"""Seconds that a busy machine may add."""
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
RECEIVE_BUFFER = 1 << 16
LARGE = b"x" * (int(Path("/proc/sys/net/ipv4/tcp_wmem").read_text().split()[2]) + 16 * RECEIVE_BUFFER)
"""More than the kernel buffers for a connection to a server with that buffer (tcp(7))."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def tls(authority: Authority) -> ServerTls:
    pair = authority.server()
    return ServerTls(pair.certificate, pair.key)


@pytest.fixture
def way(authority: Authority) -> Iterator[Way]:
    with ours(trusting(authority.certificate)) as made:
        yield made


@contextmanager
def in_time() -> Iterator[None]:
    started = time.monotonic()
    yield
    took = time.monotonic() - started
    assert took + 0.01 >= TIMEOUT and took < TIMEOUT + TOLERANCE, took


ENDLESS = {
    "silence": [Idle()],
    "a head": [Trickle(OK + b"X-Slow: " + b"y" * 1000)],
    "interim responses": [Trickle(b"HTTP/1.1 100 Continue\r\n\r\n" * 50, 0.02)],
    "a body": [Send(OK + b"Content-Length: 1000\r\n\r\n"), Trickle(b"z" * 1000)],
    "a body without a length": [Send(OK + b"\r\n"), Trickle(b"z" * 1000)],
    "a silent body": [Send(OK + b"Content-Length: 1000\r\n\r\nx"), Idle()],
    "chunks": [Send(CHUNKED), Trickle(b"1\r\nx\r\n" * 200, 0.01)],
    "an extension": [Send(CHUNKED + b"1;"), Trickle(b"e" * 1000)],
    "trailers": [Send(CHUNKED + b"0\r\n"), Trickle(b"T: v\r\n" * 200)],
}


@pytest.mark.parametrize("trickled", ENDLESS)
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
def test_a_response(way: Way, tls: ServerTls, trickled: str, secure: bool):
    with Scripted([Receive(), *ENDLESS[trickled]], tls=tls if secure else None) as server, in_time():
        assert way.outcome(server.url, TIMEOUT).error == "ReadTimeout"


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
def test_a_request_that_nobody_reads(way: Way, tls: ServerTls, secure: bool):
    with Scripted([Idle()], tls=tls if secure else None) as server:
        server._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        started = time.monotonic()
        assert way.outcome(server.url, TIMEOUT, body=LARGE).error == "ReadTimeout"
        # To encrypt it takes a moment, and on a busy machine several.
        assert time.monotonic() - started < TIMEOUT + 8 * TOLERANCE


@pytest.mark.parametrize(
    "answer", [[Idle()], [Trickle(b"\x16\x03\x03\x3f\xff" + b"\x02" * 1000)]], ids=["silence", "a record"]
)
def test_a_handshake(way: Way, answer: list):
    with Scripted(answer) as server, in_time():
        assert way.outcome(server.url.replace("http:", "https:"), TIMEOUT).error == "ConnectTimeout"


@pytest.mark.parametrize("answer", [
    [Idle()], [Trickle(b"HTTP/1.1 200 Connection established\r\nX-Slow: " + b"y" * 1000)],
    [Trickle(b"HTTP/1.1 100 Continue\r\n\r\n" * 50, 0.02)], [Send(b"HTTP/1.1 200 OK\r\n\r\n"), Idle()],
], ids=["silence", "a head", "interim responses", "silence in the tunnel"])  # fmt: skip
def test_a_tunnel(way: Way, answer: list):
    with Scripted([Receive(), *answer]) as proxy, in_time():
        assert way.outcome("https://backend.example/", TIMEOUT, proxy.url).error == "ConnectTimeout"


def test_a_proxy_that_is_asked_for_plain_http(way: Way):
    with Scripted([Receive(), Idle()]) as proxy, in_time():
        assert way.outcome("http://backend.example/", TIMEOUT, proxy.url).error == "ReadTimeout"


def test_connecting(way: Way):
    with ports.unanswered() as port, in_time():
        assert way.outcome(f"http://127.0.0.1:{port}/", TIMEOUT).error == "ConnectTimeout"


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    """What names resolve to: ports of the loopback, or an error; a name that is not there keeps its asker waiting."""
    names: dict[str, object] = {}
    real, ended = socket.getaddrinfo, threading.Event()

    def getaddrinfo(host: str, port: int, *args: int, flags: int = 0, **more: int) -> list:
        if flags & socket.AI_NUMERICHOST:
            return real(host, port, *args, flags=flags, **more)
        answer = names.get(host)
        if answer is None:
            ended.wait()
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        if isinstance(answer, Exception):
            raise answer
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", each)) for each in answer]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield names
    ended.set()


def test_resolving(way: Way, resolver: dict[str, object]):
    with in_time():
        assert way.outcome("http://slow.example/", TIMEOUT).error == "ConnectTimeout"


@pytest.mark.parametrize("error", [socket.gaierror(socket.EAI_NONAME, "unknown"), UnicodeError("label too long")])
def test_a_name_that_does_not_resolve(way: Way, resolver: dict[str, object], error: Exception):
    resolver["no.example"] = error
    assert way.outcome("http://no.example/").error == "ConnectionError"


def test_an_address_that_hangs_leaves_time_for_the_next(way: Way, resolver: dict[str, object]):
    good = OK + b"Content-Length: 2\r\n\r\nok"
    with ports.unanswered() as hanging, Scripted([Receive(), Send(good), Idle()]) as server:
        resolver["two.example"] = [hanging, server.port]
        assert way.outcome("http://two.example/", TIMEOUT * 2).body == b"ok"


def test_an_address_that_refuses_is_passed_over(way: Way, resolver: dict[str, object]):
    good = OK + b"Content-Length: 2\r\n\r\nok"
    with ports.refusing() as refusing, Scripted([Receive(), Send(good), Idle()]) as server:
        resolver["two.example"] = [refusing, server.port]
        assert way.outcome("http://two.example/").body == b"ok"


def test_all_addresses_hang(way: Way, resolver: dict[str, object]):
    with ports.unanswered() as one, ports.unanswered() as two, in_time():
        resolver["two.example"] = [one, two]
        assert way.outcome("http://two.example/", TIMEOUT).error == "ConnectTimeout"


def test_no_time_at_all(way: Way):
    with Scripted([ReceiveEnd()]) as server:
        assert way.outcome(server.url, 0.0).error == "ConnectTimeout"
        assert way.outcome(server.url, -1.0).error == "ConnectTimeout"


def test_a_family_that_this_machine_lacks_is_passed_over(way: Way, monkeypatch: pytest.MonkeyPatch):
    good = OK + b"Content-Length: 2\r\n\r\nok"
    with Scripted([Receive(), Send(good), Idle()]) as server:
        found = [
            (9999, socket.SOCK_STREAM, 6, "", ("::1", server.port, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port)),
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        assert way.outcome(server.url).body == b"ok"

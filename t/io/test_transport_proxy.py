"""Through HTTP proxies, plain and under TLS themselves, with and without a name."""

from __future__ import annotations

import base64
import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest
from kit import ports
from kit.backend import Answer, ThreadBackend
from kit.certificates import Authority
from kit.proxy import Proxy
from kit.scripted import Idle, Receive, ReceiveEnd, Reset, Scripted, Send, Signal
from kit.server import ServerTls
from kit.transports import Way, ours, stock, trusting
from requests import exceptions

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
WAYS = pytest.mark.parametrize("made", [ours, stock], ids=["ours", "stock"])


class TlsFront:
    """TLS in front of a plain server, on a loopback port from construction until the context ends."""

    def __init__(self, port: int, tls: ServerTls) -> None:
        """`port` is the plain server's."""
        self._behind = ("127.0.0.1", port)
        self._context = tls.context()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listener]
        self.port: int = self._listener.getsockname()[1]
        self.url = f"https://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> TlsFront:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        # ValueError: the other side has been closed by `close`, and has no descriptor any more.
        with contextlib.suppress(OSError, ValueError), socket.create_connection(self._behind) as behind:
            with self._context.wrap_socket(client, server_side=True) as inside:
                self._open += [inside, behind]
                inside.settimeout(10)
                while data := _next(inside, behind):
                    source, piece = data
                    (behind if source is inside else inside).sendall(piece)


def _next(inside: ssl.SSLSocket, behind: socket.socket) -> tuple[socket.socket, bytes] | None:
    """The next bytes, and from which side; None at the end of either. One thread reads both sides."""
    ready = [inside] if inside.pending() else select.select([inside, behind], [], [])[0]
    data = ready[0].recv(65536)
    return (ready[0], data) if data else None


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def plain() -> Iterator[ThreadBackend]:
    with ThreadBackend() as backend:
        backend.answer("/path", Answer(body=b"plain"))
        yield backend


@pytest.fixture(scope="module")
def secure(authority: Authority) -> Iterator[ThreadBackend]:
    pair = authority.server("backend.example")
    with ThreadBackend(ServerTls(pair.certificate, pair.key)) as backend:
        backend.answer("/path", Answer(body=b"secure"))
        yield backend


@pytest.fixture
def way(authority: Authority) -> Iterator[Way]:
    with ours(trusting(authority.certificate)) as made:
        yield made


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@WAYS
def test_plain(made, plain: ThreadBackend):
    with Proxy(plain.port) as proxy, made() as way:
        for _ in range(2):
            assert way.outcome("http://backend.example:81/path?q=1", proxy=proxy.url).body == b"plain"
        first, _ = proxy.requests()
        assert (first.method, first.target) == ("POST", "http://backend.example:81/path?q=1")
        assert first.header("host") == "backend.example:81"
        assert first.header("proxy-authorization") is None


@WAYS
def test_tunnel(made, authority: Authority, secure: ThreadBackend):
    before = secure.connections()
    with Proxy(secure.port) as proxy, made(trusting(authority.certificate)) as way:
        for _ in range(2):
            assert way.outcome("https://backend.example/path", proxy=proxy.url).body == b"secure"
        (tunnel,) = proxy.requests()
        assert (tunnel.method, tunnel.target) == ("CONNECT", "backend.example:443")
        assert secure.connections() == before + 1, "the tunnel is kept"
        assert secure.requests()[-1].server_name == "backend.example"


@WAYS
def test_a_tunnel_to_somebody_else(made, authority: Authority, secure: ThreadBackend):
    """It is the backend's certificate that counts, not the proxy's word."""
    with Proxy(secure.port) as proxy, made(trusting(authority.certificate)) as way:
        assert way.outcome("https://other.example/path", proxy=proxy.url).error == "SSLError"


@WAYS
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_credentials(made, authority: Authority, plain: ThreadBackend, secure: ThreadBackend, scheme: str):
    backend = plain if scheme == "http" else secure
    backend.forget()
    with Proxy(backend.port) as proxy, made(trusting(authority.certificate)) as way:
        named = proxy.url.replace("//", "//us%40er:p%3Ass@")
        assert way.outcome(f"{scheme}://backend.example/path", proxy=named).status == 200
        (asked,) = proxy.requests()
        assert asked.header("proxy-authorization") == basic("us@er:p:ss")
        if scheme == "https":
            assert backend.requests()[-1].header("proxy-authorization") is None, "that is no business of the backend's"


def test_credentials_are_utf_8(plain: ThreadBackend, way: Way):
    with Proxy(plain.port) as proxy:
        assert way.outcome("http://backend.example/path", proxy=proxy.url.replace("//", "//a:%E2%82%AC@")).status == 200
        assert proxy.requests()[0].header("proxy-authorization") == basic("a:€")


def test_a_request_that_went_through_a_proxy_goes_straight_the_next_time(plain: ThreadBackend, way: Way):
    prepared = way.prepare(plain.url("/path"))
    plain.forget()
    with Proxy(plain.port) as proxy:
        way.send(prepared, proxy=proxy.url)
        way.send(prepared)
        way.send(prepared, proxy=proxy.url)
        assert [request.target for request in proxy.requests()] == [plain.url("/path")] * 2
    assert [request.target for request in plain.requests()] == ["/path"] * 3


@WAYS
def test_without_a_scheme(made, plain: ThreadBackend):
    with Proxy(plain.port) as proxy, made() as way:
        assert way.outcome("http://backend.example/path", proxy=f"127.0.0.1:{proxy.port}").body == b"plain"


@WAYS
@pytest.mark.parametrize("status", [403, 407, 502])
def test_a_proxy_that_refuses(made, plain: ThreadBackend, status: int):
    with Proxy(plain.port, status) as proxy, made() as way:
        assert way.outcome("http://backend.example/", proxy=proxy.url).status == status
        assert way.outcome("https://backend.example/", proxy=proxy.url).error == "ProxyError"


@WAYS
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_not_there(made, scheme: str):
    with ports.refusing() as port, made() as way:
        assert way.outcome(f"{scheme}://backend.example/", proxy=f"http://127.0.0.1:{port}").error == "ProxyError"


TUNNELS = {
    "nothing": [],
    "a reset": [Reset()],
    "garbage": [Send(b"220 mail.example ESMTP\r\n")],
    "half an answer": [Send(b"HTTP/1.1 200 Conn")],
    "a redirect": [Send(b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n"), Idle()],
    "a refusal with a body": [
        Send(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 9000\r\n\r\nno"),
        Idle(),
    ],
    "a head without end": [Send(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000), Idle()],
}


@WAYS
@pytest.mark.parametrize("answer", TUNNELS)
def test_no_tunnel(made, answer: str):
    with Scripted([Receive(), *TUNNELS[answer]]) as proxy, made() as way:
        error = way.outcome("https://backend.example/", 1.0, proxy=proxy.url).error
        assert error == "ProxyError" or (made is stock and error in ("ConnectionError", "ReadTimeout", "SSLError"))


def test_bytes_before_the_tunnel(way: Way):
    """What came in the clear is not taken for what came through TLS."""
    with Scripted([Receive(), Send(b"HTTP/1.1 200 OK\r\n\r\n" + GOOD), ReceiveEnd(), Signal("closed")]) as proxy:
        assert way.outcome("https://backend.example/", proxy=proxy.url).error == "ProxyError"
        proxy.wait("closed")


def test_ipv6(way: Way):
    with Scripted([Receive(), Send(b"HTTP/1.1 403 No\r\n\r\n")]) as proxy:
        assert way.outcome("https://[::1]:8443/x", proxy=proxy.url).error == "ProxyError"
        assert proxy.received[0][1].startswith(b"CONNECT [::1]:8443 HTTP/1.1\r\nHost: [::1]:8443\r\n")


@WAYS
def test_a_tls_proxy(made, authority: Authority, plain: ThreadBackend, secure: ThreadBackend):
    pair = authority.server()
    tls = ServerTls(pair.certificate, pair.key)
    with made(trusting(authority.certificate)) as way:
        with Proxy(plain.port) as proxy, TlsFront(proxy.port, tls) as front:
            assert way.outcome("http://backend.example/path", proxy=front.url).body == b"plain"
            assert proxy.requests()[0].target == "http://backend.example/path"
        with Proxy(secure.port) as proxy, TlsFront(proxy.port, tls) as front:
            for _ in range(2):
                assert way.outcome("https://backend.example/path", proxy=front.url).body == b"secure"
            assert [request.target for request in proxy.requests()] == ["backend.example:443"]


@WAYS
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_tls_proxy_that_nobody_trusts(made, authority: Authority, plain: ThreadBackend, scheme: str):
    pair = authority.server()
    with (
        made() as way,
        Proxy(plain.port) as proxy,
        TlsFront(proxy.port, ServerTls(pair.certificate, pair.key)) as front,
    ):
        assert way.outcome(f"{scheme}://backend.example/path", proxy=front.url).error == "ProxyError"
        assert proxy.requests() == []


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "http://", "ftp://127.0.0.1"])
def test_no_such_proxy(way: Way, proxy: str):
    with pytest.raises(exceptions.InvalidProxyURL):
        way.send(way.prepare("http://backend.example/"), proxy=proxy)

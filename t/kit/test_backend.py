"""The test backend does what it is told: seen with http.client and plain sockets, which know nothing of it."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit import ports
from kit.backend import Answer, Backend, Keyed, Series, ServerTls, ThreadBackend
from kit.certificates import Authority
from kit.proxy import Proxy

AnyBackend = Backend | ThreadBackend


@pytest.fixture(params=[Backend, ThreadBackend])
def backend(request: pytest.FixtureRequest) -> Iterator[AnyBackend]:
    with request.param() as started:
        yield started


def connect(backend: AnyBackend) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", backend.port, timeout=10)


def ask(connection: http.client.HTTPConnection, path: str, body: object = None) -> http.client.HTTPResponse:
    connection.request("POST", path, json.dumps(body))
    return connection.getresponse()


def test_answers_as_programmed_and_records_what_it_saw(backend: AnyBackend) -> None:
    backend.answer("/map", json={"result": "x"}, headers={"X-One": "1"}, status=203)
    connection = connect(backend)
    connection.request("POST", "/map?a=%20b", b'{"key": "k"}', {"X-Two": "2"})
    response = connection.getresponse()
    assert (response.status, response.headers["X-One"], json.load(response)) == (203, "1", {"result": "x"})
    (request,) = backend.requests()
    assert (request.method, request.path, request.query) == ("POST", "/map", {"a": " b"})
    assert (request.header("x-two"), request.json(), request.connection) == ("2", {"key": "k"}, 1)
    backend.forget()
    assert backend.requests() == [] and backend.count() == 0


def test_an_unprogrammed_path_is_404(backend: AnyBackend) -> None:
    assert ask(connect(backend), "/nowhere").status == 404


def test_keyed_series_and_filled_answers(backend: AnyBackend) -> None:
    backend.answer("/keyed", Keyed({"a": Answer(json=1)}, otherwise=Answer(json=2)))
    backend.answer("/series", Series((Answer(json=1), Answer(json=2))))
    backend.answer("/filled", json={"result": ["for {key}"]}, fill=True)
    connection = connect(backend)
    assert [json.load(ask(connection, "/keyed", {"key": key})) for key in "aba"] == [1, 2, 1]
    assert [json.load(ask(connection, "/series")) for _ in range(3)] == [1, 2, 2]
    assert json.load(ask(connection, "/filled", {"key": "ü"})) == {"result": ["for ü"]}
    assert backend.connections() == 1
    assert backend.count("/series") == 3


def test_framings_and_gzip(backend: AnyBackend) -> None:
    body = b"0123456789" * 1000
    backend.answer("/chunked", body=body, framing="chunked", interim=(100, 100))
    backend.answer("/close", body=body, framing="close")
    backend.answer("/gzip", body=body, gzip=True)
    connection = connect(backend)
    response = ask(connection, "/chunked")
    assert response.headers["Transfer-Encoding"] == "chunked" and response.read() == body
    response = ask(connection, "/gzip")
    assert response.headers["Content-Encoding"] == "gzip" and gzip.decompress(response.read()) == body
    assert ask(connection, "/close").read() == body


def test_ways_not_to_answer(backend: AnyBackend) -> None:
    backend.answer("/cut", body=b"0123456789", cut=5)
    backend.answer("/drop", drop=True)
    backend.answer("/reset", drop=True, then="reset")
    backend.answer("/garbage", raw=b"\0garbage\r\n", then="close")
    backend.answer("/silent", silent=True)
    with pytest.raises(http.client.IncompleteRead):
        ask(connect(backend), "/cut").read()
    with pytest.raises(http.client.RemoteDisconnected):
        ask(connect(backend), "/drop")
    with pytest.raises(ConnectionResetError):
        ask(connect(backend), "/reset")
    with pytest.raises(http.client.BadStatusLine):
        ask(connect(backend), "/garbage")
    connection = connect(backend)
    connection.timeout = 0.2
    with pytest.raises(TimeoutError):
        ask(connection, "/silent")
    connection.close()
    backend.wait_open_connections(0)


def test_kept_connections_close_when_told(backend: AnyBackend) -> None:
    backend.answer("/quietly", json=1, then="close")
    backend.answer("/aloud", json=1, then="announce")
    backend.answer("/kept", json=1)
    connection = connect(backend)
    assert ask(connection, "/aloud").headers["Connection"] == "close"
    connection.close()
    assert "Connection" not in ask(connection, "/quietly").headers
    connection.close()
    ask(connection, "/kept").read()
    backend.wait_open_connections(1)
    backend.close_idle()
    assert backend.open_connections() == 0 and connection.sock.recv(1) == b""


def test_trickle_and_trailing(backend: AnyBackend) -> None:
    backend.answer("/slow", body=b"ab", trickle=0.05, trickle_from="body")
    backend.answer("/more", body=b"ab", trailing=b"MORE")
    assert ask(connect(backend), "/slow").read() == b"ab"
    with socket.create_connection(("127.0.0.1", backend.port), 10) as raw:
        raw.sendall(b"GET /more HTTP/1.1\r\n\r\n")
        received = b""
        while not received.endswith(b"MORE"):
            data = raw.recv(1000)
            assert data
            received += data
    assert received.endswith(b"\r\n\r\nabMORE")


def test_held_answers_wait_for_their_release(backend: AnyBackend) -> None:
    backend.answer("/held", json=1, hold="gate")
    results = []
    asking = threading.Thread(target=lambda: results.append(ask(connect(backend), "/held").status))
    asking.start()
    backend.wait_requests(1, "/held")
    assert results == []
    backend.release("gate")
    asking.join(10)
    assert results == [200]
    with pytest.raises(TimeoutError):
        backend.wait_requests(2, timeout=0.05)


def test_functions_as_rules() -> None:
    with ThreadBackend() as backend:
        backend.answer("/f", lambda request: Answer(body=request.body[::-1]))
        connection = connect(backend)
        connection.request("POST", "/f", b"abc")
        assert connection.getresponse().read() == b"cba"


def test_stopping_leaves_no_process() -> None:
    backend = Backend()
    process = backend._process
    backend.stop()
    assert process.returncode is not None
    with pytest.raises(ConnectionRefusedError):
        connect(backend).connect()


def test_tls_with_client_certificates(tmp_path: Path) -> None:
    ours, other = Authority(tmp_path / "ours"), Authority(tmp_path / "other")
    pair = ours.server()
    client = ours.client("postmaster")
    with Backend(ServerTls(pair.certificate, pair.key, client_ca=ours.certificate)) as backend:
        backend.answer("/", json=1)
        context = ssl.create_default_context(cafile=ours.certificate)
        context.load_cert_chain(client.certificate, client.key)
        connection = http.client.HTTPSConnection("localhost", backend.port, timeout=10, context=context)
        assert ask(connection, "/").status == 200
        (seen,) = backend.requests()
        assert (seen.peer, seen.server_name) == ("postmaster", "localhost")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ask(_https(backend, ours), "/")
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(_https(backend, other), "/")
        assert backend.url("/x", "localhost") == f"https://localhost:{backend.port}/x"


def _https(backend: AnyBackend, authority: Authority) -> http.client.HTTPSConnection:
    context = ssl.create_default_context(cafile=authority.certificate)
    return http.client.HTTPSConnection("127.0.0.1", backend.port, timeout=10, context=context)


def test_a_plain_backend_refuses_tls_at_once(backend: AnyBackend, tmp_path: Path) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask(_https(backend, Authority(tmp_path)), "/")


def test_expired_and_misnamed_certificates_are_that(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    for pair, complaint in (
        (authority.server(expired=True), "expired"),
        (authority.server("elsewhere.example.test"), "IP address mismatch"),
    ):
        with Backend(ServerTls(pair.certificate, pair.key)) as backend:
            with pytest.raises(ssl.SSLCertVerificationError, match=complaint):
                ask(_https(backend, authority), "/")


def test_proxy_forwards_and_records(tmp_path: Path) -> None:
    with Backend() as backend, Proxy(backend.port) as proxy:
        backend.answer("/map", json={"result": 1})
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
        connection.request("POST", "http://api.example.test/map", b"{}")
        assert json.load(connection.getresponse()) == {"result": 1}
        tunnel = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
        tunnel.set_tunnel("api.example.test", 443)
        assert ask(tunnel, "/map").status == 200
        assert [(seen.method, seen.target) for seen in proxy.requests()] == [
            ("POST", "http://api.example.test/map"),
            ("CONNECT", "api.example.test:443"),
        ]
        assert backend.requests()[0].header("host") == "api.example.test"


def test_proxy_refuses() -> None:
    with Proxy(9, status=407) as proxy:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
        connection.request("GET", "http://api.example.test/map")
        assert connection.getresponse().status == 407


def test_ports() -> None:
    assert len({ports.free() for _ in range(20)}) == 20
    row = ports.free(4)
    assert ports.free() not in range(row, row + 4)
    other = subprocess.run(
        [sys.executable, "-c", "from kit import ports; print(ports.free())"],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(other.stdout) // ports.BLOCK != row // ports.BLOCK, "another process has blocks of its own"
    with ports.refusing() as port, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)
    with ports.unanswered() as port, pytest.raises(TimeoutError):
        socket.create_connection(("127.0.0.1", port), 0.2)

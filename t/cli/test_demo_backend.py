"""The demo API, asked directly: every answer that the demo promises, and what it makes of requests that are none."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from kit import ports

from pfxhttpd.cli import demo_backend

STRANGER = {"sender": "stranger@example.net", "recipient": "alice@example.com", "client_address": "192.0.2.1"}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with demo_backend.server(0) as api:
        thread = threading.Thread(target=api.serve_forever)
        thread.start()
        yield api.server_address[1]
        api.shutdown()
        thread.join()


@pytest.fixture
def connection(port: int) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    yield connection
    connection.close()


def ask(connection: http.client.HTTPConnection, path: str, question: Any) -> tuple[int, dict[str, Any], dict[str, str]]:
    body = question if isinstance(question, bytes) else json.dumps(question).encode()
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, json.loads(response.read()), dict(response.headers)


@pytest.mark.parametrize(
    "name, key, status, answer",
    [
        ("demo_map", "alice@example.com", 200, {"data": {"result": "example.com/alice/"}}),
        ("demo_map", "Alice@Example.com", 200, {"data": {"result": "example.com/alice/"}}),
        ("demo_map", "some one@example.com", 200, {"data": {"result": "example.com/some.one/"}}),
        ("demo_map", "nobody@example.com", 200, {"data": {"result": None}}),
        ("demo_domains", "example.org", 200, {"data": {"result": "the second demo domain"}}),
        ("demo_aliases", "team@example.com", 200, {"data": {"result": ["alice@example.com", "bob@example.org"]}}),
        ("demo_map", "wrong@example.com", 200, {"error": "this mailbox cannot be looked up"}),
        ("demo_map", "outage@example.com", 503, {"error": "the database is down"}),
        ("other", "alice@example.com", 404, {"error": "there is no map other"}),
    ],
)
def test_lookups(connection: http.client.HTTPConnection, name: str, key: str, status: int, answer: object) -> None:
    assert ask(connection, "/lookup", {"map": name, "key": key})[:2] == (status, answer)


def test_policies(connection: http.client.HTTPConnection) -> None:
    def action(**attributes: str) -> str:
        status, answer, _ = ask(connection, "/policy", attributes)
        assert status == 200
        return answer["policy"]["result"]

    assert action(sender="someone@example.org", recipient="alice@example.com") == "DUNNO"
    assert action(sender="") == "DUNNO"
    assert action(sender="Spammer@example.net").startswith("REJECT ")
    assert action(**STRANGER).startswith("DEFER_IF_PERMIT ")
    assert action(**STRANGER).startswith("DEFER_IF_PERMIT ")


def test_a_greylisted_attempt_may_come_again_later() -> None:
    greylist = demo_backend.Greylist(10)
    assert [greylist.must_wait(("a",), now) for now in (5, 14.9, 15, 100)] == [True, True, False, False]
    assert greylist.must_wait(("b",), 100)


@pytest.mark.parametrize(
    "user, password, status, headers",
    [
        ("alice@example.com", "wonderland", 200, {"Auth-User": "alice@example.com"}),
        ("ALICE@example.com", "wonderland", 200, {"Auth-User": "alice@example.com"}),
        ("alice@example.com", "Wonderland", 403, {"Auth-Status": "Invalid username or password"}),
        ("nobody@example.com", "", 403, {"Auth-Status": "Invalid username or password"}),
        ("bob@example.org", "builder", 403, {"Auth-Status": "Account is locked"}),
        ("outage@example.com", "wonderland", 503, {}),
        ("bob@example.org", "guess", 403, {"Auth-Status": "Invalid username or password"}),
    ],
)
def test_logins(
    connection: http.client.HTTPConnection, user: str, password: str, status: int, headers: dict[str, str]
) -> None:
    got, _, received = ask(connection, "/login", {"username": user, "password": password, "protocol": "smtp"})
    assert (got, {name: value for name, value in received.items() if name.startswith("Auth-")}) == (status, headers)


@pytest.mark.parametrize(
    "path, question, status",
    [
        ("/lookup", {"key": "alice@example.com"}, 400),
        ("/lookup", {"map": "demo_map", "key": ["a"]}, 400),
        ("/policy", {}, 400),
        ("/login", {"username": "alice@example.com"}, 400),
        ("/lookup", b"{", 400),
        ("/lookup", b"[]", 400),
        ("/lookup", b"", 400),
        ("/lookup", b"\xff", 400),
        ("/lookup", b"[" * 100_000, 400),
        ("/elsewhere", {}, 404),
    ],
)
def test_a_wrong_question_leaves_the_connection_open(
    connection: http.client.HTTPConnection, path: str, question: Any, status: int
) -> None:
    got, answer, _ = ask(connection, path, question)
    assert got == status and answer["error"]
    socket_used = connection.sock
    assert ask(connection, "/lookup", {"map": "demo_map", "key": "x"})[0] == 200
    assert connection.sock is socket_used is not None


@pytest.mark.parametrize(
    "request_bytes, status",
    [
        (b"GET /lookup HTTP/1.1\r\nHost: x\r\n\r\n", 501),
        (b"POST /lookup HTTP/1.1\r\nHost: x\r\n\r\n", 411),
        (b"POST /lookup HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 411),
        (b"POST /lookup HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"POST /lookup HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"POST /a b HTTP/1.1\r\n\r\n", 400),
    ],
)
def test_what_cannot_be_read_is_answered_and_closed(port: int, request_bytes: bytes, status: int) -> None:
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(request_bytes)
        answer = b""
        while data := connection.recv(65536):
            answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status) and b"Connection: close" in head
    assert json.loads(body)["error"]


def alone(*arguments: str, **more: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-W", "error", demo_backend.__file__, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **more,
    )


def test_it_runs_alone_until_interrupted() -> None:
    with alone(str(ports.free())) as process:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=10) == (b"", b"")
        assert process.returncode == 0


def test_as_a_child_it_leaves_when_its_input_ends() -> None:
    number = ports.free()
    with alone(str(number), "--child", stdin=subprocess.PIPE) as process:
        assert process.stdin and process.stdout and process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        connection = http.client.HTTPConnection("127.0.0.1", number, timeout=10)
        assert ask(connection, "/policy", {"sender": ""})[0] == 200, "an interrupt is its parent's affair"
        connection.close()
        process.stdin.close()
        assert process.wait(10) == 0


def test_a_taken_port_is_one_clear_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        with alone(str(number)) as process:
            out, error = process.communicate(timeout=10)
    assert (process.returncode, out) == (69, b"")
    assert error.startswith(b"cannot listen on 127.0.0.1:%d: " % number) and error.count(b"\n") == 1


@pytest.mark.parametrize("arguments", [[], ["x"], ["1", "2"], ["--child"]])
def test_a_wrong_command_line(arguments: list[str]) -> None:
    with alone(*arguments) as process:
        assert process.communicate(timeout=10) == (b"", b"usage: demo_backend.py PORT\n")
    assert process.returncode == 64

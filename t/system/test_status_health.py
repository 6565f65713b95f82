"""What `status` says is wrong, its exit code, and the counts since the server's start."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from typing import Any

import pytest
from kit import ports
from kit.answer import Answer, Keyed
from kit.clients import SocketMap
from kit.configuration import configuration, listener, socket_map
from kit.control import reload, serving, status, wait_status
from kit.daemon import Daemon, clean_environment, command
from kit.waiting import until

FOUND = Answer(json={"result": "x"})


class Shop:
    def __init__(self, serve: Any, backend: Any, answer: Any = FOUND, entry: Any = None, **server: Any) -> None:
        backend.answer("/map", answer)
        self.port = ports.free()
        self.config = configuration(
            listener("socket_map", "users", self.port),
            socket_maps={"users": socket_map(backend.url("/map"), **(entry or {}))},
            **{"workers": 2, "level": "info", **server},
        )
        self.daemon: Daemon = serve(self.config)

    def ask(self, key: str = "k", times: int = 1) -> str:
        with SocketMap(("127.0.0.1", self.port)) as client:
            return [client.ask("users", key) for _ in range(times)][-1]

    def entry(self) -> dict[str, Any]:
        found: dict[str, Any] = status(self.daemon)["entries"][0]
        return found

    def problems(self) -> list[str]:
        done = self.daemon.run("status", "--json")
        shown: list[str] = json.loads(done.stdout)["problems"]
        assert done.returncode == (1 if shown else 0), done.stderr
        return shown


def test_all_is_well(serve, backend):
    shop = Shop(serve, backend, Keyed({"none": Answer(json={})}, FOUND))
    shop.ask(times=3)
    shop.ask("none")
    done = shop.daemon.run("status")
    assert done.returncode == 0 and done.stdout.startswith("all is well\n")
    assert "\x1b" not in done.stdout
    entry = shop.entry()
    assert (entry["requests"], entry["found"], entry["not_found"], entry["failed"]) == (4, 3, 1, 0)
    assert 0 < entry["p50"] <= entry["p95"] <= entry["p99"] < 10
    assert f"socket_map users: 4 requests, {entry['rate']:g} a second" in done.stdout or "4 requests" in done.stdout


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (
            Answer(status=503),
            "socket_map users: 2 of 2 requests in the last minute failed; last error .* status code 503",
        ),
        (
            Answer(status=401),
            "socket_map users: 2 of 2 requests in the last minute got an unexpected status code; last error .* 401 .the backend demands credentials, and none are configured",
        ),
        (Answer(json={"result": "x"}, delay=0.9), "socket_map users: 2 of 2 requests .* three quarters of the timeout"),
    ],
    ids=["outage", "credentials", "slow"],
)
def test_a_backend_that_is_not_healthy_stands_first(answer, problem, serve, backend):
    shop = Shop(serve, backend, answer, {"timeout": "1100ms"})
    shop.ask(times=2)
    [found] = shop.problems()
    assert re.search(problem, found), found
    text = shop.daemon.run("status")
    assert re.search(problem, text.stdout.splitlines()[0])


def test_an_open_breaker_is_a_problem_with_its_reason(serve, backend):
    shop = Shop(serve, backend, Answer(status=503), circuit_breaker={"failures": 2, "cooldown": "1h"})
    shop.ask(times=3)
    assert any("the circuit breaker has been open for" in line and "503" in line for line in shop.problems())
    entry = shop.entry()
    assert (entry["failed"], entry["not_sent"], entry["requests"]) == (2, 1, 3)


def test_counts_survive_the_death_of_a_worker_and_a_reload(serve, backend):
    shop = Shop(serve, backend, workers=1)
    shop.ask(times=3)
    [pid] = shop.daemon.workers()
    os.kill(pid, signal.SIGKILL)
    wait_status(shop.daemon, lambda seen: seen["deaths"] and serving(1)(seen), "the death and a new worker")
    shop.ask(times=2)
    [problem] = shop.problems()
    assert problem.startswith("1 process died and was replaced in the last hour, the last one ")
    assert problem.endswith("worker 1/1 global, killed by SIGKILL")
    reload(shop.daemon, shop.config)
    shop.ask()
    wait_status(shop.daemon, lambda seen: seen["entries"][0]["found"] == 6, "all requests to be counted")
    seen = status(shop.daemon)
    assert seen["requests"] == 6 and seen["failures"] == 0


def test_the_limit_of_connections_is_a_problem(serve, backend):
    shop = Shop(serve, backend, max_connections=1)
    with SocketMap(("127.0.0.1", shop.port)) as client:
        assert client.ask("users", "k") == "OK x"
        assert shop.problems() == [
            "all 1 connections that the server may hold are in use, no further connection is accepted"
        ]


def test_a_cache_that_does_not_run_is_a_problem(serve, backend):
    shop = Shop(serve, backend, response_cache={"enabled": True})
    cache = shop.daemon.process_named("cache")
    os.kill(cache, signal.SIGSTOP)
    seen = wait_status(shop.daemon, lambda seen: seen["problems"], "the cache to be missed", timeout=30)
    assert any("the cache process" in line or "cache, killed" in line for line in seen["problems"])
    with contextlib.suppress(ProcessLookupError):
        os.kill(cache, signal.SIGCONT)


@pytest.mark.parametrize("plain", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {}], ids=["NO_COLOR", "dumb", "color"])
def test_a_terminal_gets_colors_unless_it_does_not_want_them(plain, serve, backend):
    shop = Shop(serve, backend)
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in clean_environment().items() if name != "NO_COLOR"}
    with subprocess.Popen(
        command(["--config", str(shop.daemon.config_path), "status"]),
        env={**environment, "TERM": "xterm", **plain},
        stdout=theirs,
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                data = os.read(ours, 65536)
            except OSError:
                break
            shown += data
        assert process.wait(30) == 0
    os.close(ours)
    assert b"all is well" in shown
    assert (b"\x1b[" in shown) is (not plain)


def test_watch_shows_the_status_again(serve, backend):
    shop = Shop(serve, backend)
    with subprocess.Popen(
        command(["--config", str(shop.daemon.config_path), "status", "--watch"]),
        env=clean_environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        seen = 0
        while seen < 2:
            seen += process.stdout.readline() == "all is well\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def test_saturation_is_logged_as_an_error_with_a_line_when_it_ends(serve, backend):
    backend.forget()
    shop = Shop(serve, backend, Answer(json={"result": "x"}, hold="full"), workers=1)
    with SocketMap(("127.0.0.1", shop.port)) as one, SocketMap(("127.0.0.1", shop.port)) as other:
        one.send("users", "a")
        other.send("users", "b")
        line = shop.daemon.log.wait_for("All workers are busy and clients wait", 20)
        assert "level=ERROR" in line and "pool=global" in line and "waiting=1" in line
        backend.release("full")
        assert one.reply() == other.reply() == "OK x"
        shop.daemon.log.wait_for("Workers are free again.*pool=global", 20)
    until(lambda: shop.problems() == [], "all to be well")


def test_watch_on_a_terminal_fits_into_it_with_long_problems(serve, backend):
    """Nothing scrolls: a status takes the place of the one before."""
    shop = Shop(serve, backend, Answer(status=401), workers=8)
    shop.ask()
    ours, theirs = pty.openpty()
    rows, columns = 10, 40
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
    with subprocess.Popen(
        command(["--config", str(shop.daemon.config_path), "status", "--watch"]),
        env={**clean_environment(), "TERM": "xterm", "NO_COLOR": "1", "COLUMNS": "200", "LINES": "100"},
        stdout=theirs,
    ) as process:
        os.close(theirs)
        shown = b""
        while shown.count(b"\x1b[H\x1b[J") < 2:
            shown += os.read(ours, 65536)
        process.send_signal(signal.SIGINT)
        process.wait(30)
    os.close(ours)
    lines = shown.split(b"\x1b[H\x1b[J")[1].decode().split("\r\n")[:-1]
    assert "unexpected status code" in lines[0] and len(lines[0]) > columns
    assert len(lines) > 3 and sum(-(-len(line) // columns) for line in lines) < rows

"""The demo as a first user meets it: what it prints works when typed, `query` gets every answer, and nothing is left."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit import daemon, ports, proc
from kit.clients import SocketMap
from kit.daemon import Daemon


def started(port: int, environment: dict[str, str] | None = None) -> Daemon:
    return Daemon("", arguments=("demo", "--port", str(port)), environment=environment)


@pytest.fixture(scope="module")
def running() -> Iterator[Daemon]:
    with started(ports.free(4)) as process:
        yield process


def own_file(process: Daemon) -> Path:
    """The configuration that the demo names."""
    return Path(process.log.wait_for("^The configuration is ").removeprefix("The configuration is "))


QUERIES = [
    (["demo_map", "some one@example.com"], "OK example.com/some.one/", 0),
    (["demo_map", "nobody@example.com"], "NOTFOUND", 1),
    (["demo_map", "outage@example.com"], "TEMP backend answered with status code 503", 75),
    (["demo_map", "wrong@example.com"], "PERM this mailbox cannot be looked up", 69),
    (["demo_domains", "example.org"], "OK the second demo domain", 0),
    (["demo_aliases", "team@example.com"], "OK alice@example.com,bob@example.org", 0),
    (
        ["--policy", "demo_policy", "sender=spammer@example.net"],
        "action=REJECT Mail from this sender is not wanted",
        69,
    ),
    (["--policy", "demo_policy", "sender=someone@example.net"], "action=DUNNO", 1),
    (
        ["--policy", "demo_policy", "sender=stranger@example.net"],
        "action=DEFER_IF_PERMIT Greylisted, try again later",
        75,
    ),
]


@pytest.mark.parametrize("arguments, shown, code", QUERIES, ids=[each[0][-1] for each in QUERIES])
def test_query_gets_what_the_demo_promises(running: Daemon, arguments: list[str], shown: str, code: int) -> None:
    done = daemon.run("--config", str(own_file(running)), "query", *arguments)
    assert (done.stdout, done.stderr, done.returncode) == (shown + "\n", "", code)


@pytest.mark.parametrize(
    "password, shown, code",
    [
        ("wonderland", "OK user=alice@example.com\n", 0),
        ("mirror", "FAIL user=alice@example.com reason=Invalid username or password\n", 1),
    ],
)
def test_a_login_whose_password_comes_from_standard_input(
    running: Daemon, password: str, shown: str, code: int
) -> None:
    done = daemon.run(
        "--config", str(own_file(running)), "query", "--sasl", "demo_sasl", "alice@example.com", input=password + "\n"
    )
    assert (done.stdout, done.stderr, done.returncode) == (shown, "", code)


def test_a_login_while_the_api_is_down(running: Daemon) -> None:
    done = daemon.run(
        "--config", str(own_file(running)), "query", "--sasl", "demo_sasl", "outage@example.com", input="x\n"
    )
    assert (done.stdout, done.returncode) == ("", 75)
    assert re.fullmatch(r"pfxhttpd: inet:127\.0\.0\.1:\d+.*(closed|reset).*\n", done.stderr), done.stderr


def test_its_configuration_is_valid_and_the_server_obeys_the_other_commands(running: Daemon) -> None:
    for command in ("check", "status", "reload"):
        done = daemon.run("--config", str(own_file(running)), command)
        # Other tests have looked up what the API answers with 503, which status tells of with exit code 1.
        assert done.returncode == 0 or (command == "status" and done.returncode == 1), f"{command}: {done.stdout}"


def test_the_commands_it_prints_can_be_typed(running: Daemon) -> None:
    """All but the login, which asks for a password."""
    guide = running.log.text.partition("Ctrl-C")[0]
    typed = re.findall(r"^  (ask.*)$", guide, re.MULTILINE)
    assert len(typed) == 7 and typed[0].startswith("ask() {")
    script = "\n".join(line for line in typed if "--sasl" not in line)
    done = subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, timeout=60, env=daemon.clean_environment()
    )
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["OK", "NOTFOUND", "TEMP", "PERM", "action=REJECT"]
    assert done.stderr == ""


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_cleanly_with_a_client_connected(number: int) -> None:
    port = ports.free(4)
    with started(port) as process:
        directory = own_file(process).parent
        assert directory.is_dir()
        with SocketMap(("127.0.0.1", port)) as client:
            assert client.ask("demo_map", "alice@example.com") == "OK example.com/alice/"
            process.stop(number)
            assert client.rest() == b""
    assert not directory.exists()
    assert all(refuses(each) for each in range(port, port + 4))


def test_a_terminals_interrupt_reaches_every_process_at_once_and_none_complains() -> None:
    with started(ports.free(4)) as process:
        everybody = [str(pid) for pid in process.processes()]
        assert len(everybody) >= 4
        subprocess.run(["kill", "-INT", *everybody], check=False)  # those that were first may have ended the others
        assert process.wait() == 0
        assert not process.log.find("level=ERROR|Interrupt")


def test_nothing_outlives_it_when_it_is_killed() -> None:
    process = started(ports.free(4))
    directory = own_file(process).parent
    try:
        process.send_signal(signal.SIGKILL)
        process.wait()
        end = time.monotonic() + 10
        while (left := process.processes()) and time.monotonic() < end:
            time.sleep(0.02)
        assert [proc.command_line(pid) for pid in left] == []
    finally:
        process.destroy()
        subprocess.run(["rm", "-rf", str(directory)], check=True)


@pytest.mark.parametrize("offset", [0, 1, 2, 3])
def test_a_taken_port_is_told_and_nothing_is_left_running(offset: int) -> None:
    port = ports.free(4)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port + offset))
        taken.listen()
        done = daemon.run("demo", "--port", str(port))
    assert done.returncode == 69
    assert done.stderr == (
        f"pfxhttpd: cannot listen on 127.0.0.1:{port + offset}: Address already in use;"
        " --port BASE chooses four other ports, from BASE on\n"
    )
    assert "Ready" not in done.stdout and all(refuses(each) for each in range(port, port + 4))


@pytest.mark.parametrize("port", ["0", "65533", "x", "-1", "999999999999"])
def test_a_port_that_cannot_be(port: str) -> None:
    assert daemon.run("demo", f"--port={port}").returncode == 64


def test_what_a_shell_has_set_for_a_real_server_does_not_reach_into_it() -> None:
    port = ports.free(4)
    environment = {
        "PFXHTTP_SERVER_RUN_AS_USER": "nobody-of-this-name",
        "PFXHTTP_SERVER_TYPO": "x",
        "http_proxy": "http://127.0.0.1:9",
        "RUNTIME_DIRECTORY": "/nowhere",
    }
    with started(port, environment), SocketMap(("127.0.0.1", port)) as client:
        assert client.ask("demo_map", "alice@example.com") == "OK example.com/alice/"

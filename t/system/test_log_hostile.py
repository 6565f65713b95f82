"""Every message of the log with hostile input in every field that strangers fill, and a log that nobody can write to."""

from __future__ import annotations

import ast
import base64
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from kit import ports, proc
from kit.backend import Backend
from kit.clients import Policy, Sasl, SocketMap
from kit.configuration import configuration, listener, policy, socket_map
from kit.daemon import TREE, Daemon, clean_environment, run

HOSTILE = "a\nlevel=ERROR msg=forged\r\x1b[31m\x00\x7f\u2028\u202e\ud7ff\"' = " + "k" * 5000
KEY = HOSTILE.replace("\x00", "")
SECRETS = {
    "header": "bearer-of-the-api-7f3a",
    "basic": "basic-password-9c1d",
    "query": "query-api-key-51bb",
    "proxy": "proxy-password-33aa",
    "user": "users-password-e0e0",
    "custom": "custom-key-header-88",
}

DRIVEN = {
    "New connection established",
    "Connection closed",
    "Received request",
    "Response sent",
    "Malformed request",
    "Backend failed",
    "Lookup refused",
    "No valid action",
    "SASL line",
    "Authentication succeeded",
    "Authentication failed",
    "Authentication could not be decided",
    "Circuit breaker changed",
    "Reload failed, nothing has changed",
    "Configuration reloaded",
    "Listening",
    "Ready",
    "Status",
    "Stopping",
    "Stopped",
    "Pool resized",
    "A change takes effect after a restart only",
    "Process died",
    "Backend responded",
    "No such map",
    "Client speaks another protocol",
    "No answer has had the value field yet",
}
"""Messages that the test makes appear."""

OURS = {
    "Worker is stuck and is killed",
    "Cache failed",
    "Internal error",
    "Cannot reach syslog, logging to standard output",
    "Log lines were lost",
    "Process cannot be started",
    "Process is stuck and is killed",
    "All workers are busy and clients wait",
    "Workers are free again",
    "Connection limit reached",
    "Process replaced",
    "The server runs as root, because server.run_as_user is not set",
    "Cannot accept connections, trying again",
    "Traces cannot be sent",
    "Metrics cannot be sent",
    "Metrics refused",
}
"""Messages whose fields only the program itself fills, with addresses, names and numbers of the configuration at most."""


def messages() -> set[str]:
    """Every message that the source can log: first arguments of log calls that are literal."""
    found = set()
    for path in (TREE / "pfxhttpd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func, [ast.Constant(message), *_]):
                    if re.search(
                        r"(log|logger|self)\.(debug|info|error)$|report\.(failed|judged|unexpected)$|^(say|log)$",
                        ast.unparse(func),
                    ):
                        found.add(message)
    return found


def test_no_message_is_forgotten() -> None:
    """A new message has to be driven below, or be shown to hold nothing that a stranger wrote."""
    assert messages() <= DRIVEN | OURS
    assert messages() >= DRIVEN


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The whole log of a server at level debug to which strangers on both sides did their worst."""
    with Backend() as backend:
        backend.answer("/value", json={"result": HOSTILE[:900]})
        backend.answer("/error", json={"error": HOSTILE[:900] + " ".join(SECRETS.values())})
        backend.answer("/action", json={"action": "1\n" + HOSTILE[:900]})
        backend.answer("/broken", raw=("HTTP/1.1 200 " + SECRETS["header"] + "\r\n\r\nx\n" + SECRETS["query"]).encode())
        backend.answer("/login", status=200, headers={"Auth-User": "someone"})
        backend.answer("/refuse", status=403, headers={"Auth-Status": "no " + SECRETS["header"]})
        backend.answer("/down", status=500)
        backend.answer("/typo", json={HOSTILE[:100]: {HOSTILE[:50]: SECRETS["header"]}})
        port, checks, logins = ports.free(), ports.free(), [ports.free() for _ in range(3)]
        basic = {"http_auth_basic": f"api:{SECRETS['basic']}"}
        config = configuration(
            listener("socket_map", "value", port),
            listener("policy_service", "action", checks),
            *(listener("dovecot_sasl", name, at) for name, at in zip(("login", "refuse", "down"), logins)),
            socket_maps={
                "value": socket_map(
                    backend.url("/value"), custom_headers=[f"Authorization: Bearer {SECRETS['header']}"]
                ),
                "error": socket_map(
                    backend.url(f"/error?api_key={SECRETS['query']}"),
                    **basic,
                    custom_headers=[f"X-Api-Key: {SECRETS['custom']}"],
                ),
                "broken": socket_map(backend.url("/broken"), timeout="500ms"),
                "typo": socket_map(backend.url("/typo")),
                "down": socket_map(backend.url(f"/down?api_key={SECRETS['query']}")),
            },
            policy_services={"action": policy(backend.url("/action"))},
            dovecot_sasl={name: {"target": backend.url(f"/{name}")} for name in ("login", "refuse", "down")},
            circuit_breaker={"failures": 1, "cooldown": "5s"},
        )
        with Daemon(config) as daemon:
            drive(daemon, port, checks, logins)
            broken = yaml.safe_load(daemon.config_path.read_text())
            broken["server"]["logging"]["level"] = HOSTILE[:200]
            broken["socket_maps"]["error"]["http_auth_basic"] = SECRETS[
                "proxy"
            ]  # no colon: an error that must not quote it
            daemon.reload(broken)
            broken["server"]["logging"]["level"] = "debug"
            broken["server"]["runtime_directory"] = "/tmp/another"
            broken["socket_maps"]["error"]["http_auth_basic"] = basic["http_auth_basic"]
            daemon.reload(broken)
            mark = daemon.log.position
            os.kill(daemon.workers()[-1], signal.SIGKILL)  # the oldest may be leaving, after the reload
            daemon.log.wait_for("Process died", start=mark)
            for number, said in ((signal.SIGUSR1, "Status"), (signal.SIGTTIN, "Pool resized")):
                daemon.send_signal(number)
                daemon.log.wait_for(said, start=mark)
        yield daemon.log.text


def drive(daemon: Daemon, port: int, checks: int, logins: list[int]) -> None:
    with SocketMap(("127.0.0.1", port)) as client:
        client.ask("value", KEY)
        client.ask("value", f"password={SECRETS['user']} Bearer {SECRETS['header']}")
        client.ask("error", KEY)
        client.ask("broken", KEY)
        client.ask("down", KEY)
        client.ask("typo", KEY)
        client.ask(HOSTILE[:40].replace(" ", ""), "no such map")
        client.send_raw(b"5:value,")  # no space
        client.reply()
        client.send_raw(b"99999999:" + HOSTILE.encode())
        assert client.rest() == b""
    with SocketMap(("127.0.0.1", port)) as client:
        client.send_raw(b"sender=" + HOSTILE.encode() + b"\n\n")
        assert client.rest() == b""
    daemon.log.wait_for("No answer has had the value field yet")
    with Policy(("127.0.0.1", checks)) as client:
        client.ask({"sender": KEY.replace("\n", "\r"), "password": SECRETS["user"], "token": SECRETS["user"]})
    user = base64.b64encode(f"\0{KEY[:900]}\0{SECRETS['user']}".encode()).decode()
    for at in logins:
        mark = daemon.log.position
        with Sasl(("127.0.0.1", at)) as client:
            client.send_raw(b"NONSENSE\t\x01\x1b[31m\n")
            client.send_raw(f"AUTH\t1\tPLAIN\tservice=smtp\trip=\x1b[31m\tresp={user}\n".encode())
            daemon.log.wait_for("Authentication (succeeded|failed|could not)", start=mark)


def test_every_message_was_driven(log: str) -> None:
    missing = {message for message in DRIVEN if message not in log}
    assert not missing


def test_each_line_is_a_record(log: str) -> None:
    """No line was begun by a stranger, and none holds what a terminal would obey."""
    for line in log.splitlines():
        assert re.match(r"time=\S+ level=(DEBUG|INFO|ERROR) msg=", line), line[:200]
        assert len(line.encode()) < 4096
        assert all(character.isprintable() for character in line), ascii(line[:300])
    assert "msg=forged" not in re.sub(r'"(?:[^"\\]|\\.)*"', "", log)


@pytest.mark.parametrize("place", sorted(SECRETS))
def test_no_secret_is_in_it(log: str, place: str) -> None:
    secret = SECRETS[place]
    for form in (secret, base64.b64encode(f"api:{secret}".encode()).decode()):
        assert form not in log


# A log that cannot be written


@pytest.mark.parametrize("output", ["a reader that stops", "a full disk"])
def test_mail_goes_on_without_a_log(output: str, tmp_path: Path) -> None:
    with Backend(record=False) as backend:
        backend.answer("/map", json={"result": "x"})
        port = ports.free()
        file = tmp_path / "pfxhttp.yml"
        file.write_text(
            yaml.safe_dump(
                configuration(
                    listener("socket_map", "m", port),
                    socket_maps={"m": socket_map(backend.url("/map"))},
                    runtime_directory=str(tmp_path / "run"),
                )
            )
        )
        unread, written = os.pipe()
        if output == "a full disk":
            os.close(written)
            written = os.open("/dev/full", os.O_WRONLY)
        process = subprocess.Popen(
            [sys.executable, "-m", "pfxhttpd", "--config", str(file), "run"],
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=proc.die_with_parent,
        )
        os.close(written)
        try:
            with connected(port, process) as client:
                for number in range(600):  # at level debug far more than a pipe's 64 KiB
                    assert client.ask("m", "k" * 200 + str(number)) == "OK x"
            shown = run("--config", str(file), "status")
            assert shown.returncode == 1
            assert re.match(r"\d+ log lines were lost since the start, the last one \d\.\d s ago: ", shown.stdout)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()
            os.close(unread)


def connected(port: int, process: subprocess.Popen[bytes]) -> SocketMap:
    """A client, once the server listens: there is no log to tell."""
    while process.poll() is None:
        try:
            return SocketMap(("127.0.0.1", port))
        except ConnectionRefusedError:
            os.sched_yield()
    raise AssertionError(f"the server ended with {process.returncode}")

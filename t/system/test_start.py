"""Starts that must not succeed, and what earlier servers left: one clear line, an exit code, and nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import sys

import pytest
from kit import ports, proc
from kit.clients import SocketMap
from kit.configuration import configuration, listener, socket_map
from kit.control import status
from kit.daemon import Daemon

pytestmark = pytest.mark.executed

CANNOT, OF_THE_SYSTEM, CONFIGURATION = 69, 71, 78


def config(*listeners: dict, **server) -> dict:
    maps = {"map": socket_map("http://127.0.0.1:1/", timeout="1s")}
    return configuration(*listeners, socket_maps=maps, **{"workers": 1, "level": "info", **server})


def inet(port: int) -> dict:
    return listener("socket_map", "map", port)


def answers(port: int) -> bool:
    with SocketMap(("127.0.0.1", port)) as client:
        return client.ask("map", "k").startswith("TEMP ")


def refused(serve, settings: dict, *arguments: str) -> tuple[int, str]:
    """A start that fails: its exit code and the one line that it says. Nothing of it is left."""
    daemon: Daemon = serve(settings, ready=False, arguments=("run", *arguments))
    code = daemon.wait()
    daemon.log.wait_end()
    said = daemon.log.lines()
    assert len(said) == 1 and said[0].startswith("pfxhttpd: "), said
    assert not daemon.processes()
    assert not list(daemon.socket_files())
    daemon.destroy()
    return code, said[0]


@pytest.mark.parametrize("content", ["{mine}\n", "1\n", "99999999\n", "no number\n", ""])
def test_a_stale_pid_file_is_taken_over(serve, tmp_path, content):
    """Even if the number in it is by now that of a living process that is no server."""
    pidfile, port = tmp_path / "pid", ports.free()
    pidfile.write_text(content.format(mine=os.getpid()))
    daemon = serve(config(inet(port)), arguments=("run", "--pidfile", str(pidfile)))
    assert pidfile.read_text() == f"{daemon.pid}\n"
    assert answers(port)
    daemon.stop()
    assert not pidfile.exists()


def test_the_pid_file_of_a_server_that_was_killed_is_taken_over(serve, tmp_path):
    pidfile, port = tmp_path / "pid", ports.free()
    path = tmp_path / "maps.sock"
    settings = config(inet(port), listener("socket_map", "unix", address=str(path)))
    first = serve(settings, arguments=("run", "--pidfile", str(pidfile)))
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    first.log.wait_end()
    assert pidfile.exists() and path.exists()
    runtime = {**settings, "server": {**settings["server"], "runtime_directory": str(first.runtime_directory)}}
    second = serve(runtime, arguments=("run", "--pidfile", str(pidfile)))
    assert pidfile.read_text() == f"{second.pid}\n"
    assert answers(port)
    second.stop()
    assert not pidfile.exists() and not path.exists()
    first.destroy()


def test_a_second_server_on_the_same_pid_file_is_refused(serve, tmp_path):
    pidfile, port = tmp_path / "pid", ports.free()
    first = serve(config(inet(port)), arguments=("run", "--pidfile", str(pidfile)))
    code, said = refused(serve, config(inet(ports.free())), "--pidfile", str(pidfile))
    assert code == CANNOT and "already" in said and str(first.pid) in said
    assert pidfile.read_text() == f"{first.pid}\n"
    assert answers(port)


def test_a_second_server_in_the_same_runtime_directory_is_refused(serve):
    port = ports.free()
    first = serve(config(inet(port)))
    settings = config(inet(ports.free()), runtime_directory=str(first.runtime_directory))
    code, said = refused(serve, settings)
    assert code == CANNOT and "already" in said
    assert status(first)["pid"] == first.pid
    assert answers(port)


def test_a_second_server_with_the_very_same_configuration_is_refused(serve, tmp_path):
    """Whichever of its sockets it finds taken first."""
    port = ports.free()
    settings = config(inet(port), listener("socket_map", "unix", address=str(tmp_path / "maps.sock")))
    serve(settings)
    code, said = refused(serve, settings)
    assert code == CANNOT and str(port) in said
    assert answers(port)
    with SocketMap(str(tmp_path / "maps.sock")) as client:
        assert client.ask("map", "k").startswith("TEMP ")


def test_an_address_in_use_leaves_nothing_of_those_that_were_free(serve, tmp_path):
    pidfile, path = tmp_path / "pid", tmp_path / "first.sock"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        first, second = listener("socket_map", "first", address=str(path)), inet(port)
        code, said = refused(serve, config(first, second), "--pidfile", str(pidfile))
    assert code == CANNOT and str(port) in said and "in use" in said
    assert not path.exists() and not pidfile.exists()


def test_a_unix_socket_that_a_living_server_answers_on_is_left_alone(serve, tmp_path):
    path = tmp_path / "taken.sock"
    with socket.create_server(str(path), family=socket.AF_UNIX):
        code, said = refused(serve, config(listener("socket_map", "map", address=str(path))))
        assert code == CANNOT and "answers" in said
        assert path.exists()


def test_a_pid_file_that_cannot_be_written_is_refused(serve, tmp_path):
    code, said = refused(serve, config(inet(ports.free())), "--pidfile", str(tmp_path / "missing" / "pid"))
    assert code == CANNOT and "missing/pid" in said


@pytest.mark.parametrize("content", [None, "no PEM"], ids=["missing", "no PEM"])
@pytest.mark.parametrize("key", ["root_ca", "cert"])
def test_a_tls_file_that_cannot_be_used_is_an_error_of_the_configuration(serve, tmp_path, key, content):
    file = tmp_path / "file.pem"
    if content:
        file.write_text(content)
    tls = {"enabled": True, key: str(file), **({"key": str(file)} if key == "cert" else {})}
    code, said = refused(serve, config(inet(ports.free()), tls=tls))
    assert code == CONFIGURATION and f"server.tls.{key}: {file}: " in said


def test_signals_that_were_blocked_at_the_start_are_heard(serve):
    """Whoever started it had blocked some; the server hears them all the same."""
    port = ports.free()
    blocked = {signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        daemon = serve(config(inet(port)))
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
    os.kill(daemon.workers()[0], signal.SIGKILL)
    daemon.log.wait_for("Process died")
    assert answers(port)
    daemon.send_signal(signal.SIGHUP)
    daemon.log.wait_for("Configuration reloaded")
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait() == 0
    daemon.stop()
    assert not proc.is_running(daemon.pid)


def test_a_start_for_which_there_are_no_descriptors_is_refused(serve, tmp_path):
    """The limit is met when some of the children are there already: they go, too."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nulimit -n 40\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    pidfile, port = tmp_path / "pid", ports.free()
    settings = config(inet(port), workers=60)
    daemon = serve(settings, ready=False, python=str(python), arguments=("run", "--pidfile", str(pidfile)))
    assert daemon.wait() == OF_THE_SYSTEM
    daemon.log.wait_end()
    said = [line for line in daemon.log.lines() if line.startswith("pfxhttpd: ")]
    assert len(said) == 1 and "Too many open files" in said[0]
    assert not daemon.log.find("Ready") and not daemon.processes()
    assert not daemon.socket_files() and not pidfile.exists()
    daemon.check_log()
    daemon.destroy()

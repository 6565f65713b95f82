"""A server can be seen and stopped whatever its configuration file says, and only by those who may."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest
from kit import ports
from kit.child import in_child
from kit.configuration import configuration, listener, socket_map
from kit.daemon import Daemon, clean_environment, command
from kit.needs import needs
from kit.places import NOBODY

from pfxhttpd.cli import CommandError, control
from pfxhttpd.cli.parser import parser


def settings(**server: Any) -> dict[str, Any]:
    return configuration(
        listener("socket_map", "users", ports.free()),
        socket_maps={"users": socket_map("http://127.0.0.1:9/")},
        workers=1,
        **server,
    )


@pytest.mark.parametrize("text", ["server: [\n", "servre: {}\n", ""], ids=["syntax", "unknown key", "empty"])
def test_a_broken_file_stops_neither_status_nor_stop(text: str, serve: Any) -> None:
    daemon: Daemon = serve(settings())
    daemon.write(text)
    shown = daemon.run("status")
    assert f"pid {daemon.pid}" in shown.stdout, shown.stderr
    refused = daemon.run("reload")
    assert refused.returncode == 78 and "nothing has changed" in refused.stderr
    assert daemon.run("stop").returncode == 0
    assert daemon.wait() == 0


def test_the_server_is_found_after_a_change_of_its_runtime_directory(serve: Any) -> None:
    daemon: Daemon = serve(settings())
    (daemon.directory / "elsewhere").mkdir()
    daemon.write(settings(runtime_directory=str(daemon.directory / "elsewhere")))
    assert f"pid {daemon.pid}" in daemon.run("status").stdout
    assert daemon.run("stop").returncode == 0
    assert daemon.wait() == 0


def test_the_server_is_found_when_its_file_is_gone(serve: Any) -> None:
    daemon: Daemon = serve(settings())
    daemon.config_path.unlink()
    assert f"pid {daemon.pid}" in daemon.run("status").stdout


def test_a_server_is_found_by_its_pid_file(serve: Any, tmp_path: Any) -> None:
    pidfile = tmp_path / "pid"
    daemon: Daemon = serve(settings(), arguments=("run", "--pidfile", str(pidfile)))
    daemon.write("")
    stopped = subprocess.run(
        command(["--config", "/dev/null", "stop", "--control", str(pidfile)]), env=clean_environment(), timeout=30
    )
    assert stopped.returncode == 0
    assert daemon.wait() == 0
    again = subprocess.run(
        command(["stop", "--control", str(pidfile)]), env=clean_environment(), capture_output=True, text=True
    )
    assert again.returncode == 69 and "No such file or directory" in again.stderr


def test_another_user_is_told_that_the_permission_is_missing(serve: Any) -> None:
    needs("root")
    daemon: Daemon = serve(settings())
    daemon.runtime_directory.chmod(0o755)

    def stop_as_nobody() -> tuple[int, str]:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        options = parser().parse_args(["--config", str(daemon.config_path), "stop"])
        try:
            return control.stop(options, {}), ""
        except CommandError as error:
            return error.exit_code, str(error)

    code, text = in_child(stop_as_nobody)
    assert code == os.EX_NOPERM, text
    assert f"permission denied for {daemon.runtime_directory}/control.sock" in text
    assert daemon.run("status").returncode == 0

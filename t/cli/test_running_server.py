"""Which server a command asks: the one of its configuration file, whatever has become of the file, and no other."""

from __future__ import annotations

import argparse
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pfxhttpd.__main__ import parser, run
from pfxhttpd.cli import CommandError, UsageError, running_server
from pfxhttpd.io import control

TEXT = """\
server:
  runtime_directory: {directory}
  listen: [{{kind: socket_map, name: demo, port: 23450}}]
socket_maps:
  demo: {{target: "http://127.0.0.1/", value_field: v}}
"""


@contextmanager
def server(directory: Path, configuration: Path) -> Iterator[list[str]]:
    """A control socket that replies to every request; the commands it was sent."""
    commands: list[str] = []
    directory.mkdir(exist_ok=True)
    listener = control.bind(str(directory))
    listener.setblocking(True)

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as lines:
                request = json.loads(lines.readline())
                commands.append(request["command"])
                status = {"configuration": str(configuration)}
                connection.sendall(control.encode({"ok": True, "status": status, "generation": 2}))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield commands
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        listener.close()
        control.remove(str(directory))


def ask(
    file: Path, request: Mapping[str, Any], environ: Mapping[str, str] | None = None, named: Path | None = None
) -> dict[str, Any]:
    options = argparse.Namespace(config=str(file), format=None, control=str(named) if named else None)
    return running_server.ask(options, environ or {}, request, 10)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "pfxhttp.yml"
    file.write_text(TEXT.format(directory=tmp_path / "run"))
    return file


def test_the_runtime_directory_in_the_file_is_used(file: Path, tmp_path: Path) -> None:
    with server(tmp_path / "run", file) as commands:
        assert ask(file, {"command": "reload"})["generation"] == 2
        assert commands == ["status", "reload"]
        assert ask(file, running_server.STATUS)["status"] == {"configuration": str(file)}
        assert commands == ["status", "reload", "status"], "the status is not asked for twice"


def test_a_valid_file_under_another_name_reaches_the_server_too(file: Path, tmp_path: Path) -> None:
    with server(tmp_path / "run", tmp_path / "another.yml") as commands:
        ask(file, {"command": "stop"})
        assert commands[-1] == "stop"


@pytest.mark.parametrize("mistake", ["  nmae: x\n", "  logging: [\n"], ids=["unknown key", "syntax"])
def test_the_server_of_a_file_that_was_broken_since_is_found(mistake: str, file: Path, tmp_path: Path) -> None:
    file.write_text(file.read_text().replace("server:\n", "server:\n" + mistake))
    with server(tmp_path / "run", file) as commands:
        ask(file, {"command": "stop"}, {"PFXHTTP_SERVER_RUNTIME_DIRECTORY": str(tmp_path / "run")})
        assert commands[-1] == "stop"


@pytest.mark.parametrize("mistake", ["  nmae: x\n", "  logging: [\n"], ids=["unknown key", "syntax"])
def test_a_broken_file_stops_no_other_server(mistake: str, file: Path, tmp_path: Path) -> None:
    file.write_text(file.read_text().replace("server:\n", "server:\n" + mistake))
    with server(tmp_path / "run", tmp_path / "another.yml") as commands:
        with pytest.raises(CommandError) as refused:
            ask(file, {"command": "stop"}, {"PFXHTTP_SERVER_RUNTIME_DIRECTORY": str(tmp_path / "run")})
        assert refused.value.exit_code == 78
        assert f"{file}:" in str(refused.value) and f"--control {tmp_path / 'run'}" in str(refused.value)
        assert "stop" not in commands


def test_no_server(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = parser().parse_args(["--config", str(file), "status"])
    assert run(options, {}) == 69
    path = tmp_path / "run" / control.SOCKET
    assert capsys.readouterr().err == f"pfxhttpd: no server answers on {path}: No such file or directory\n"
    file.write_text("")
    assert run(options, {"PFXHTTP_SERVER_RUNTIME_DIRECTORY": str(tmp_path / "run")}) == 69
    shown = capsys.readouterr().err
    assert shown.startswith(f"pfxhttpd: no server answers on {path}: ")
    assert shown.endswith(f"\n{file}:1:1: the file is empty\n")


@pytest.mark.parametrize("name", ["", control.SOCKET])
def test_control_names_a_server_whatever_the_file_says(name: str, tmp_path: Path) -> None:
    with server(tmp_path / "run", tmp_path / "another.yml") as commands:
        ask(tmp_path / "missing.yml", {"command": "stop"}, named=tmp_path / "run" / name)
        assert commands[-1] == "stop"


def test_control_does_not_take_another_pid_file(tmp_path: Path) -> None:
    (tmp_path / "pid").write_text("init\n")
    with pytest.raises(UsageError, match="expected a runtime directory, a control socket or a pid file"):
        ask(tmp_path / "missing.yml", {"command": "stop"}, named=tmp_path / "pid")


@pytest.mark.parametrize("place", ["before", "after"])
def test_the_configuration_may_be_named_before_the_command_and_after_it(place: str, file: Path) -> None:
    named = ["--config", str(file), "--format", "yaml"]
    options = parser().parse_args([*named, "status"] if place == "before" else ["status", *named])
    assert (options.config, options.format) == (str(file), "yaml")

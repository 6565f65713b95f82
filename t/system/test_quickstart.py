"""contrib/quickstart: from a checkout to an answered lookup, and no trace of it in the checkout or among the processes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit import daemon, ports, proc
from kit.clients import SocketMap
from kit.logs import Log

NEEDED = (
    "contrib/quickstart",
    "contrib/completion",
    "man",
    "pfxhttpd",
    "setup.py",
    "setup.cfg",
    "README.md",
    "LICENSE",
)
PATIENCE = 120.0
"""Seconds until the first answer, on a fresh machine."""


def environment(**more: str) -> dict[str, str]:
    """As a user's: the package is not on Python's path, and compiled code is written where Python writes it by itself."""
    found = daemon.clean_environment({"PYTHON": sys.executable, **more})
    for name in ("PYTHONPATH", "PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE"):
        found.pop(name, None)
    return found


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the quickstart takes from the checkout, so that nobody edits it meanwhile."""
    directory = tmp_path_factory.mktemp("checkout")
    for name in NEEDED:
        source, target = daemon.TREE / name, directory / name
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return directory


@pytest.fixture(scope="module")
def script(checkout: Path) -> Path:
    return checkout / "contrib/quickstart"


def run(script: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [script, *arguments],
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        stdin=subprocess.DEVNULL,
        preexec_fn=proc.die_with_parent,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quickstart") / "a place"


@pytest.fixture(scope="module")
def shown(checkout: Path, script: Path, place: Path) -> subprocess.CompletedProcess[str]:
    """The first run ever, which makes the environment."""
    before = time.monotonic()
    files = sorted(checkout.rglob("*"))
    done = run(script, "--once", "--port", str(ports.free(4)), str(place))
    assert time.monotonic() - before < PATIENCE
    assert sorted(checkout.rglob("*")) == files, "it left something in the checkout"
    return done


def test_it_shows_a_lookup_a_policy_check_and_what_to_put_in_main_cf(shown: subprocess.CompletedProcess[str]) -> None:
    assert shown.returncode == 0, shown.stdout + shown.stderr
    lines = shown.stdout.splitlines()
    asked = [number for number, line in enumerate(lines) if line.startswith("$ ")]
    assert len(asked) == 2
    assert lines[asked[0]].endswith("demo_map some\\ one@example.com")
    assert lines[asked[0] + 1] == "OK example.com/some.one/"
    assert "--policy demo_policy sender=spammer@example.net" in lines[asked[1]]
    assert lines[asked[1] + 1] == "action=REJECT Mail from this sender is not wanted"
    assert "In Postfix's main.cf:" in lines
    assert any(line.lstrip().startswith("virtual_mailbox_maps = socketmap:inet:127.0.0.1:") for line in lines)


def test_the_environment_stays_and_holds_the_program(shown: subprocess.CompletedProcess[str], place: Path) -> None:
    for name in ("pfxhttpd", "pfxhttp"):
        done = subprocess.run([place / "bin" / name, "--version"], capture_output=True, text=True, env=environment())
        assert (done.returncode, done.stdout.split()[0]) == (0, "pfxhttpd"), done.stderr


class Running:
    """A quickstart that keeps running, in a session of its own as a terminal's would be."""

    def __init__(self, script: Path, place: Path) -> None:
        self.port = ports.free(4)
        self.process = subprocess.Popen(
            [script, "--port", str(self.port), str(place)],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=proc.die_with_parent,
        )
        assert self.process.stdout
        self.log = Log(self.process.stdout)

    def destroy(self) -> None:
        for pid in proc.session_members(self.process.pid):
            os.kill(pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def running(shown: subprocess.CompletedProcess[str], script: Path, place: Path) -> Iterator[Running]:
    started = Running(script, place)
    yield started
    started.destroy()


@pytest.mark.parametrize(
    "number, everybody",
    [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, False)],
    ids=["ctrl-c", "int", "term"],
)
def test_it_runs_until_it_is_told_to_stop(running: Running, number: int, everybody: bool) -> None:
    running.log.wait_for("^Ctrl-C stops everything", PATIENCE)
    with SocketMap(("127.0.0.1", running.port)) as client:
        assert client.ask("demo_map", "some one@example.com") == "OK example.com/some.one/"
        running.log.wait_for("New connection established")
        if everybody:
            os.killpg(running.process.pid, number)
        else:
            running.process.send_signal(number)
        assert running.process.wait(30) == 0
    assert proc.session_members(running.process.pid) == []
    assert not running.log.find("Traceback|KeyboardInterrupt|level=ERROR")


def test_a_taken_port_is_told(shown: subprocess.CompletedProcess[str], script: Path, place: Path) -> None:
    port = ports.free(4)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port + 2))
        taken.listen()
        done = run(script, "--once", "--port", str(port), str(place))
    assert done.returncode == 69
    assert (
        f"127.0.0.1:{port + 2}" in done.stderr and "--port" in done.stderr and "the demo did not start" in done.stderr
    )


@pytest.fixture
def stubs(tmp_path: Path) -> Path:
    """A directory for PATH, with a Python that cannot make environments until the file `cured` is there."""
    stub(
        tmp_path / "python",
        f"""\
        case "$*" in *ensurepip*) test -e {tmp_path}/cured || exit 1 ;; esac
        case "$*" in '-m venv'*) echo 'venv was called' >&2; exit 1 ;; esac
        exec {sys.executable} "$@"
    """,
    )
    stub(
        tmp_path / "apt-get",
        f"""\
        echo "$*" >>{tmp_path}/asked
        case "$*" in *install*) test -e {tmp_path}/broken && {{ echo 'E: no such package'; exit 100; }}
            touch {tmp_path}/cured ;; esac
    """,
    )
    return tmp_path


def stub(path: Path, text: str) -> None:
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)


def with_stubs(script: Path, stubs: Path) -> subprocess.CompletedProcess[str]:
    return run(script, "--once", str(stubs / "new"), PYTHON=str(stubs / "python"), PATH=f"{stubs}:{os.environ['PATH']}")


def test_changed_sources_are_installed_again(
    shown: subprocess.CompletedProcess[str], script: Path, place: Path
) -> None:
    again = run(script, "--once", "--port", str(ports.free(4)), str(place))
    assert (again.returncode, "Installing" in again.stdout) == (0, False)
    (place / "stamp").write_text("other")
    again = run(script, "--once", "--port", str(ports.free(4)), str(place))
    assert (again.returncode, "Installing" in again.stdout) == (0, True)


def test_without_venv_a_user_is_told_what_to_type(script: Path, stubs: Path) -> None:
    stub(stubs / "id", "echo 1000")
    done = with_stubs(script, stubs)
    assert done.returncode == 69 and done.stderr.count("\n") == 1
    assert done.stderr.endswith("as root: apt-get install python3-venv\n")
    assert not (stubs / "asked").exists()


def test_without_venv_root_gets_it_installed(script: Path, stubs: Path) -> None:
    stub(stubs / "id", "echo 0")
    done = with_stubs(script, stubs)
    assert (stubs / "asked").read_text().splitlines() == ["-q update", "-q -y install python3-venv"]
    assert "venv was called" in done.stderr, "it went on to make the environment"


def test_when_it_cannot_be_installed_the_reason_is_shown(script: Path, stubs: Path) -> None:
    stub(stubs / "id", "echo 0")
    (stubs / "broken").touch()
    done = with_stubs(script, stubs)
    assert done.returncode == 69
    assert "E: no such package\nquickstart: apt-get cannot install python3-venv\n" in done.stderr


def test_an_old_python_is_refused(script: Path, tmp_path: Path) -> None:
    stub(tmp_path / "python", "test \"$1\" = --version && echo 'Python 3.9.2' && exit 0\nexit 1")
    done = run(script, "--once", str(tmp_path / "new"), PYTHON=str(tmp_path / "python"))
    assert done.returncode == 69 and "Python 3.9.2 is too old" in done.stderr


def test_a_directory_that_is_no_environment_is_left_alone(script: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    done = run(script, "--once", str(tmp_path))
    assert done.returncode == 64 and "is no virtual environment" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize("arguments", [["--twice"], ["--port"], ["--port", "x"], ["--port", "123456"]])
def test_a_wrong_command_line(script: Path, arguments: list[str]) -> None:
    done = run(script, *arguments)
    assert done.returncode == 64 and done.stderr.startswith("quickstart: ")


def test_help(script: Path) -> None:
    done = run(script, "--help")
    assert done.returncode == 0 and done.stdout.startswith("quickstart [--once]") and "#" not in done.stdout

"""The daemon harness notices what it must: tried on a stand-in that misbehaves in each way there is."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kit import ports, proc
from kit.configuration import configuration, listener, socket_map
from kit.daemon import EXECUTE, Daemon
from kit.forked_process import ForkedProcess
from kit.logs import Log

STAND_IN = """\
import os, signal, socket, sys, time
sins = sys.argv[sys.argv.index("run") + 1:]
if "mute" in sins:
    sys.exit(78)
if "socket" in sins:
    socket.socket(socket.AF_UNIX).bind("left.sock")
child = os.fork()
if child == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(60)
def leave(*_):
    if "orphan" not in sins:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if "traceback" in sins:
        print("Traceback (most recent call last):", flush=True)
    os._exit(3 if "status" in sins else 0)
signal.signal(signal.SIGTERM, leave)
print('level=INFO msg="Ready" pools=1', flush=True)
while True:
    time.sleep(60)
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> str:
    """A "python" whose `-m pfxhttpd … run SINS` is the stand-in."""
    script = tmp_path / "stand-in.py"
    script.write_text(STAND_IN)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {script} "$@"\n')
    python.chmod(0o755)
    return str(python)


def test_a_good_one_passes(stand_in: str) -> None:
    with Daemon({"server": {}}, python=stand_in) as daemon:
        assert len(daemon.children()) == 1 and len(daemon.processes()) == 2
        assert f"runtime_directory: {daemon.runtime_directory}" in daemon.config_path.read_text()
        assert daemon.log.find("Ready")
    assert not proc.is_running(daemon.pid)
    assert not daemon.directory.exists()


@pytest.mark.parametrize(
    "sin, complaint",
    [
        ("status", "exit status 3"),
        ("orphan", "left running"),
        ("traceback", "a traceback in the log"),
        ("socket", "socket files left"),
    ],
)
def test_sins_are_noticed_and_cleaned_up(stand_in: str, sin: str, complaint: str) -> None:
    daemon = Daemon({"server": {}}, python=stand_in, arguments=("run", sin))
    members = daemon.processes()
    with pytest.raises(AssertionError, match=complaint):
        daemon.stop()
    assert not [pid for pid in members if proc.is_running(pid)]
    assert not daemon.directory.exists()


def test_one_that_never_serves_is_reported_at_once(stand_in: str) -> None:
    with pytest.raises(TimeoutError, match="the log ended"):
        Daemon({"server": {}}, python=stand_in, arguments=("run", "mute"))


def test_a_failing_test_still_cleans_up(stand_in: str) -> None:
    with pytest.raises(ZeroDivisionError):
        with Daemon({"server": {}}, python=stand_in, arguments=("run", "orphan")) as daemon:
            members = daemon.processes()
            raise ZeroDivisionError
    assert not [pid for pid in members if proc.is_running(pid)]


def test_signals_and_statuses_are_visible(stand_in: str) -> None:
    daemon = Daemon({"server": {}}, python=stand_in)
    daemon.send_signal(signal.SIGKILL)
    assert daemon.wait() == -signal.SIGKILL
    daemon.destroy()


def inherited(pid: int, directory: Path) -> dict[str, object]:
    """What a process has from the one that started it."""
    process = Path(f"/proc/{pid}")
    descriptors = {int(name): os.readlink(process / "fd" / name) for name in os.listdir(process / "fd")}
    return {
        "descriptors": {number: re.sub(r"\d+", "", target) for number, target in descriptors.items()},
        "one output": descriptors[1] == descriptors[2],
        "signals, privileges": re.findall(r"^(?:Sig[BIC]|Cap|NoNew).*", (process / "status").read_text(), re.M),
        "limits": [line for line in (process / "limits").read_text().splitlines() if "pending signals" not in line],
        "session, group": (os.getsid(pid) == pid, os.getpgid(pid) == pid),
        "directory": os.readlink(process / "cwd") == str(directory),
    }


def test_a_forked_server_is_like_an_executed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(EXECUTE, raising=False)
    maps = {"map": socket_map("http://127.0.0.1:9/")}
    verbose = {"PFXHTTP_SERVER_LOGGING_LEVEL": "info"}
    seen: dict[type, object] = {}
    for _ in range(2):
        first, second = (
            configuration(listener("socket_map", "maps", ports.free()), socket_maps=maps, level="error") for _ in "12"
        )
        # Without the environment, neither would log that it is ready. The second one is started when the fork server has
        # descriptors of the first.
        with Daemon(first, environment=verbose), Daemon(second, environment=verbose) as daemon:
            with pytest.raises(subprocess.TimeoutExpired):
                daemon.wait(0)
            seen[type(daemon.process)] = [inherited(pid, daemon.directory) for pid in (daemon.pid, *daemon.workers())]
        refused = Daemon("{}", ready=False)
        assert refused.wait() == os.EX_CONFIG and refused.log.wait_for("server: is missing")
        refused.destroy()
        monkeypatch.setenv(EXECUTE, "yes")
    assert seen[ForkedProcess] == seen[subprocess.Popen]


def test_log_waits_from_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\ntwo\nbad \xff\n")
    log = Log(path.open("rb"))
    log.wait_end()
    assert log.wait_for("^t") == "two"
    assert log.lines(2) == ["bad \\xff"]
    with pytest.raises(TimeoutError, match="the log ended without"):
        log.wait_for("one", start=1)

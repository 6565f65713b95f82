"""The daemon harness notices what it must: tried on a stand-in that misbehaves in each way there is."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from kit import proc
from kit.daemon import Daemon
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


def test_log_waits_from_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\ntwo\nbad \xff\n")
    log = Log(path.open("rb"))
    log.wait_end()
    assert log.wait_for("^t") == "two"
    assert log.lines(2) == ["bad \\xff"]
    with pytest.raises(TimeoutError, match="the log ended without"):
        log.wait_for("one", start=1)

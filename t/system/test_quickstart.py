"""contrib/quickstart: from a checkout to two answers, and away again without a trace but its environment."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit import leash, ports
from kit.daemon import TREE, clean_environment
from kit.logs import Log

QUICKSTART = TREE / "contrib" / "quickstart"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quickstart") / "venv"


class Quickstart:
    """The script in a session of its own, as a terminal's foreground job is."""

    def __init__(self, *arguments: str) -> None:
        environment = {name: value for name, value in clean_environment().items() if name != "PYTHONPATH"}
        self.process = subprocess.Popen(
            [str(QUICKSTART), *arguments],
            env={**environment, "PYTHON": sys.executable},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=leash.die_with_parent,
        )
        assert self.process.stdout
        self.log = Log(self.process.stdout)

    def interrupt(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)

    def __enter__(self) -> Quickstart:
        return self

    def __exit__(self, *_: object) -> None:
        while leash.session_members(self.process.pid):
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.poll()
        self.process.wait()


@pytest.fixture(scope="module")
def once(place: Path) -> Iterator[Quickstart]:
    with Quickstart("--once", "--port", str(ports.free(4)), str(place)) as script:
        script.process.wait(240)
        script.log.wait_end()
        yield script


def test_it_installs_and_shows_both_answers(once: Quickstart, place: Path):
    assert once.process.returncode == 0, once.log.text
    assert "Traceback" not in once.log.text
    assert once.log.find("some\\\\? one@example.com")
    assert once.log.find("REJECT"), "the policy's action"
    assert once.log.find("virtual_mailbox_maps = socketmap:inet:127.0.0.1:"), "what to put in main.cf"
    assert not leash.session_members(once.process.pid)
    for name in ("pfxhttpd", "pfxhttp"):
        version = subprocess.run([place / "bin" / name, "--version"], capture_output=True, text=True, cwd="/")
        assert version.returncode == 0 and re.match(r"pfxhttpd \d", version.stdout)


def test_control_c_stops_it_cleanly(once: Quickstart, place: Path):
    with Quickstart("--port", str(ports.free(4)), str(place)) as script:
        script.log.wait_for("Ctrl-C stops everything", 120)
        script.interrupt()
        assert script.process.wait(20) == 0, script.log.text
        script.log.wait_end()
        assert "Traceback" not in script.log.text
        assert not leash.session_members(script.process.pid)

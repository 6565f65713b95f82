"""The completions for bash and zsh, typed into the real shells."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from pathlib import Path

import pytest
from kit import daemon, proc
from kit.needs import needs

DIRECTORY = daemon.TREE / "contrib/completion"

SETUP = {
    "bash": ("bash --norc --noprofile -i", f". {DIRECTORY}/pfxhttpd.bash"),
    "zsh": ("zsh -f -i", f"fpath=({DIRECTORY} $fpath); autoload -U compinit; compinit -u -D"),
}
"""How each shell is started without the user's settings, and how it gets the completion."""


class Shell:
    """An interactive shell on a terminal of its own, in which `pfxhttpd` prints its arguments between angle brackets."""

    def __init__(self, name: str, directory: Path) -> None:
        command, setup = SETUP[name]
        self._terminal, terminal = pty.openpty()
        environment = {"PATH": os.environ["PATH"], "TERM": "dumb", "PS1": "$ ", "HOME": str(directory)}
        self._process = subprocess.Popen(
            command.split(),
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            cwd=directory,
            env=environment,
            start_new_session=True,
            preexec_fn=proc.die_with_parent,
        )
        os.close(terminal)
        self.type(f"{setup}; pfxhttpd() {{ printf '<%s>' \"$@\"; echo; }}; echo re''ady\r")
        self.wait_for("ready")

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)

    def type(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def wait_for(self, pattern: str) -> str:
        """The first match of the pattern in what the terminal shows from now on."""
        shown = ""
        deadline = time.monotonic() + 10
        while not (found := re.search(pattern, shown)):
            ready, _, _ = select.select([self._terminal], [], [], deadline - time.monotonic())
            assert ready, f"no {pattern!r} in {shown!r}"
            shown += os.read(self._terminal, 65536).decode(errors="replace")
        return found[0]


@pytest.fixture(scope="module", params=sorted(SETUP))
def shell(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    needs(request.param)
    directory = tmp_path_factory.mktemp(request.param)
    (directory / "a file.yml").touch()
    with Shell(request.param, directory) as started:
        yield started


@pytest.mark.parametrize(
    "typed, completed",
    [
        ("che", "<check>"),
        ("check --mig", "<check><--migrate>"),
        ("cache pu", "<cache><purge>"),
        ("--format t", "<--format><toml>"),
        ("--format=t", "<--format=toml>"),
        ("query --mechanism O", "<query><--mechanism><OAUTHBEARER>"),
        ("--config a", "<--config><a file.yml>"),
        ("--config=a", "<--config=a file.yml>"),
        ("--config check sta", "<--config><check><status>"),
        ("--config=check sta", "<--config=check><status>"),
        ("status --control a", "<status><--control><a file.yml>"),
    ],
)
def test_what_the_tabulator_completes(shell: Shell, typed: str, completed: str) -> None:
    shell.type(f"pfxhttpd {typed}\t\r")
    assert shell.wait_for(r"<\S.*>(?=\r)") == completed

"""Standard streams that are closed at the start, and those that a daemon lets go of."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kit import ports, proc
from kit.clients import SocketMap
from kit.configuration import configuration, listener, socket_map
from kit.daemon import clean_environment, command, run
from kit.needs import needs
from kit.places import reachable
from kit.waiting import until

pytestmark = pytest.mark.executed

CLOSED = {"input": "<&-", "output": ">&-", "error": "2>&-", "all": "<&- >&- 2>&-"}


class Installed:
    """A configuration file and a pid file in a directory that every user can enter."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.port = directory, ports.free()
        self.pidfile, self.log = directory / "pid", directory / "log"

    def configure(self, **server: Any) -> None:
        config = configuration(
            listener("socket_map", "map", self.port),
            socket_maps={"map": socket_map("http://127.0.0.1:1/")},
            runtime_directory=str(self.directory / "run"),
            **server,
        )
        (self.directory / "pfxhttp.yml").write_text(yaml.safe_dump(config))

    def start(self, redirections: str, *arguments: str, **more: Any) -> subprocess.Popen[str]:
        """`pfxhttpd ARGUMENTS...` with these redirections of the shell."""
        line = command(["--config", str(self.directory / "pfxhttp.yml"), *arguments])
        return subprocess.Popen(
            ["/bin/sh", "-c", f'exec "$0" "$@" {redirections}', *line],
            env=clean_environment(),
            text=True,
            preexec_fn=proc.die_with_parent,
            **more,
        )

    def client(self) -> SocketMap | None:
        try:
            return SocketMap(("127.0.0.1", self.port))
        except ConnectionRefusedError:
            return None

    def stop(self) -> int:
        return run("--config", str(self.directory / "pfxhttp.yml"), "stop").returncode


@pytest.fixture
def installed() -> Iterator[Installed]:
    with reachable() as directory:
        made = Installed(directory)
        yield made
        if made.pidfile.exists():
            made.stop()


@pytest.mark.parametrize("background", [[], ["--daemon"]], ids=["foreground", "daemon"])
@pytest.mark.parametrize("redirections", CLOSED.values(), ids=CLOSED)
def test_no_file_gets_the_descriptor_of_a_closed_stream(
    redirections: str, background: list[str], installed: Installed
) -> None:
    installed.configure()
    with open(installed.log, "w", encoding="utf-8") as log:
        started = installed.start(
            redirections, "run", "--pidfile", str(installed.pidfile), *background, stdout=log, stderr=log
        )
    with until(installed.client, "a server that listens", 30) as client:
        assert client.ask("map", "k").startswith("TEMP ")  # and this is logged
    pid = int(installed.pidfile.read_text())
    assert installed.pidfile.read_text() == f"{pid}\n"
    for process in (pid, *proc.running_children(pid)):
        opened = {os.readlink(f"/proc/{process}/fd/{number}") for number in range(3)}
        assert opened <= {"/dev/null", str(installed.log)}
    assert installed.stop() == 0
    assert started.wait(30) == 0
    assert not installed.pidfile.exists()


@pytest.mark.parametrize("redirections", CLOSED.values(), ids=CLOSED)
def test_other_commands_run_without_the_streams(redirections: str, installed: Installed) -> None:
    installed.configure()
    assert installed.start(redirections, "check").wait(30) == 0
    assert installed.start(redirections, "query", "map", "k").wait(30) == os.EX_TEMPFAIL


@pytest.mark.parametrize("inside", [False, True], ids=["outside", "in a chroot"])
def test_a_daemon_lets_go_of_standard_error(inside: bool, installed: Installed) -> None:
    """Every process of it: whoever reads its standard error meets the end of file when the server is ready."""
    jail = installed.directory / "jail"
    if inside:
        needs("root")
        (jail / "etc").mkdir(parents=True)
        for name in ("resolv.conf", "hosts", "nsswitch.conf"):
            (jail / "etc" / name).write_text("")
    installed.configure(response_cache={"enabled": True}, **({"chroot": str(jail)} if inside else {}))
    started = installed.start(
        ">/dev/null", "run", "--daemon", "--pidfile", str(installed.pidfile), stderr=subprocess.PIPE
    )
    _, said = started.communicate(timeout=30)
    assert (started.returncode, said) == (0, "")
    pid = int(installed.pidfile.read_text())
    children = proc.running_children(pid)
    assert len(children) == 4
    for process in (pid, *children):
        assert os.readlink(f"/proc/{process}/fd/2").removeprefix(str(jail)) == "/dev/null"
    assert installed.stop() == 0


def test_a_daemon_that_cannot_start_says_why(installed: Installed) -> None:
    installed.configure(chroot="/no/such/directory")
    started = installed.start(">/dev/null", "run", "--daemon", stderr=subprocess.PIPE)
    _, said = started.communicate(timeout=30)
    assert started.returncode == os.EX_CONFIG
    assert said == "pfxhttpd: chroot /no/such/directory: there is no such directory\n"


def test_a_log_that_is_copied_and_truncated_goes_on_at_its_beginning(installed: Installed) -> None:
    """As logrotate's copytruncate does it, for a standard output that was redirected with >>."""
    installed.configure()
    started = installed.start(f">>{installed.log}", "run", "--daemon", "--pidfile", str(installed.pidfile))
    assert started.wait(30) == 0
    assert "Ready" in installed.log.read_text()
    os.truncate(installed.log, 0)
    with SocketMap(("127.0.0.1", installed.port)) as client:
        assert client.ask("map", "k").startswith("TEMP ")
    assert installed.stop() == 0
    lines = installed.log.read_text().splitlines()
    assert lines and all(line.startswith("time=") for line in lines)
    assert any("Backend failed" in line for line in lines) and "Stopped" in lines[-1]

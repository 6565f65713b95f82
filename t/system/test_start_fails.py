"""A start that fails at any step, with and without a chroot and another user: one line, and nothing is left behind."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from kit import ports, proc
from kit.configuration import configuration, listener, socket_map
from kit.daemon import clean_environment, command
from kit.needs import needs
from kit.places import NOBODY, reachable

MODES = {
    "root": {},
    "user": {"run_as_user": "nobody"},
    "chroot": {"chroot": "jail"},
    "user and chroot": {"run_as_user": "nobody", "chroot": "jail"},
}
ANY, CHROOT, USER = tuple(MODES), ("chroot", "user and chroot"), ("user", "user and chroot")


class Installed:
    """A configuration, a chroot, a directory for sockets, and a runtime directory that does not exist yet."""

    def __init__(self, directory: Path, mode: str) -> None:
        self.directory, self.mode = directory, mode
        self.jail, self.runtime = directory / "jail", directory / "state" / "run"
        (self.jail / "etc").mkdir(parents=True)
        for name in ("resolv.conf", "hosts", "nsswitch.conf"):
            (self.jail / "etc" / name).write_text("")
        (directory / "sockets").mkdir()
        self.port = ports.free()

    @property
    def cache(self) -> Path:
        """The cache's directory."""
        return self.jail / "run/pfxhttp/cache" if self.mode in CHROOT else self.runtime / "cache"

    def make(self, path: Path) -> None:
        """The directory and those above it, as earlier runs of the server have left them."""
        path.mkdir(parents=True)
        if self.mode in USER:
            for each in (self.runtime, self.cache.parent, self.cache):
                if each.exists():
                    shutil.chown(each, NOBODY, NOBODY)

    def files(self) -> set[Path]:
        return set(self.directory.rglob("*"))

    def start(self, wrapper: list[str], **server: Any) -> subprocess.Popen[str]:
        server = {**MODES[self.mode], "runtime_directory": str(self.runtime), **server}
        if "chroot" in server:
            server["chroot"] = str(self.jail)
        config = configuration(
            listener("socket_map", "path", address=str(self.directory / "sockets" / "first")),
            listener("socket_map", "port", self.port),
            socket_maps={"map": socket_map("http://127.0.0.1:1/")},
            response_cache={"enabled": True},
            level="error",
            **server,
        )
        (self.directory / "pfxhttp.yml").write_text(yaml.safe_dump(config))
        arguments = ["--config", str(self.directory / "pfxhttp.yml"), "run", "--pidfile", str(self.directory / "pid")]
        return subprocess.Popen(
            [*wrapper, *command(arguments)],
            env=clean_environment(),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=proc.die_with_parent,
        )


@pytest.fixture
def directory() -> Iterator[Path]:
    needs("root")
    with reachable() as made:
        (made / "pfxhttp.yml").touch()
        yield made


def without(*capabilities: str) -> list[str]:
    """What starts a command as root without these capabilities."""
    needs("setpriv")
    dropped = ",".join(f"-{name}" for name in capabilities)
    return ["setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}"]


@dataclass(frozen=True)
class Fault:
    """What is wrong: what is there before the start, how the program is started, its exit code and a part of its line."""

    code: int
    said: str
    wrapper: list[str] = field(default_factory=list)
    prepare: Callable[[Installed], object] = lambda installed: None
    modes: tuple[str, ...] = ANY


def take_port(installed: Installed) -> socket.socket:
    return socket.create_server(("127.0.0.1", installed.port))


def put_file_for_control_socket(installed: Installed) -> None:
    installed.make(installed.runtime)
    (installed.runtime / "control.sock").touch()


def put_file_for_cache(installed: Installed) -> None:
    installed.make(installed.cache.parent)
    installed.cache.touch()


def put_directory_for_cache_socket(installed: Installed) -> None:
    installed.make(installed.cache)
    (installed.cache / "cache.sock").mkdir()


def hide_hosts(installed: Installed) -> None:
    (installed.jail / "etc" / "hosts").chmod(0o600)


FAULTS = {
    "pid file": Fault(69, "pid file", prepare=lambda installed: (installed.directory / "pid").mkdir()),
    "listener": Fault(69, "Address already in use", prepare=take_port),
    "control socket": Fault(69, "control socket", prepare=put_file_for_control_socket),
    "chroot": Fault(77, "chroot", without("sys_chroot"), modes=CHROOT),
    "cache directory": Fault(69, "cache directory", prepare=put_file_for_cache),
    "groups": Fault(77, "Operation not permitted", without("setgid"), modes=("user", *CHROOT)),
    "user": Fault(77, "Operation not permitted", without("setuid"), modes=USER),
    "file in the chroot": Fault(77, "etc/hosts", prepare=hide_hosts, modes=("user and chroot",)),
    "first fork": Fault(71, "cannot be started", ["prlimit", "--nproc=1"], modes=USER),
    "cache process": Fault(70, "cache did not come up", prepare=put_directory_for_cache_socket),
}
CASES = [(fault, mode) for fault in FAULTS for mode in FAULTS[fault].modes]


@pytest.mark.parametrize(("fault", "mode"), CASES, ids=[f"{fault}, {mode}" for fault, mode in CASES])
def test_nothing_is_left_behind(fault: str, mode: str, directory: Path) -> None:
    wrong, installed = FAULTS[fault], Installed(directory, mode)
    held = wrong.prepare(installed)
    before = installed.files()
    process = installed.start(wrong.wrapper)
    _, output = process.communicate(timeout=20)  # shutdown_timeout is longer, and there is nobody to wait for
    if isinstance(held, socket.socket):
        held.close()
    (line,) = output.splitlines()
    assert line.startswith("pfxhttpd: ") and wrong.said in line
    assert process.returncode == wrong.code
    assert installed.files() == before
    assert not proc.session_members(process.pid)


@pytest.mark.parametrize("mode", ["root", "user and chroot"])
@pytest.mark.parametrize("limit", [16, 33, 34, 50])
def test_nothing_is_left_behind_when_descriptors_run_out(limit: int, mode: str, directory: Path) -> None:
    """There are too few of them from the start, or they are used up when some of the workers are there already."""
    installed = Installed(directory, mode)
    before = installed.files()
    process = installed.start(["prlimit", f"--nofile={limit}"], workers=60)
    _, output = process.communicate(timeout=60)
    (line,) = output.splitlines()
    assert line.startswith("pfxhttpd: ") and ("Too many open files" in line or "(RLIMIT_NOFILE) is" in line)
    assert process.returncode == os.EX_OSERR
    assert installed.files() == before
    assert not proc.session_members(process.pid)

"""What starts the server at boot: systemd's units, socket activation, the SysV script through a whole life."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from kit import ports, proc
from kit.backend import Backend
from kit.clients import Policy, SocketMap
from kit.configuration import configuration, listener, policy, socket_map
from kit.daemon import TREE, clean_environment
from kit.logs import Log
from kit.needs import needs

UNITS = TREE / "init" / "systemd"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """`pfxhttpd` as installed: one executable."""
    path = tmp_path / "pfxhttpd"
    path.write_text(f'#!/bin/sh\nPYTHONPATH={TREE} exec {sys.executable} -m pfxhttpd "$@"\n')
    path.chmod(0o755)
    return path


# systemd


@pytest.fixture
def units(tmp_path: Path, program: Path) -> Path:
    """The units as installed, with an ExecStart that exists."""
    directory = tmp_path / "units"
    directory.mkdir()
    for unit in [*UNITS.glob("*.service"), *UNITS.glob("*.socket")]:
        text = unit.read_text().replace("/usr/local/sbin/pfxhttpd", str(program))
        # What is installed elsewhere is not this test's business: manual pages and other services.
        (directory / unit.name).write_text(re.sub(r"^(Documentation|Before|After|Wants)=.*\n", "", text, flags=re.M))
    return directory


@pytest.mark.parametrize("unit", ["pfxhttpd.service", "pfxhttpd.socket", "pfxhttpd@policy.socket"])
def test_systemd_accepts_the_units(units: Path, unit: str) -> None:
    needs("systemd-analyze")
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(units / unit)], capture_output=True, text=True)
    about_ours = [line for line in done.stderr.splitlines() if "pfxhttpd" in line]
    assert not about_ours
    assert done.returncode == 0, done.stderr


def test_the_service_is_well_confined(units: Path) -> None:
    needs("systemd-analyze")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(units / "pfxhttpd.service")],
        capture_output=True,
        text=True,
    )
    level = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert level, done.stdout + done.stderr
    assert float(level[1]) <= 2.5


ORIGINAL = """
    PrivateTmp=true ProtectHome=true NoNewPrivileges=true ProtectKernelModules=true MemoryDenyWriteExecute=true
    ProtectControlGroups=true ProtectKernelLogs=true ProtectClock=true RestrictSUIDSGID=true ProtectProc=invisible
"""


def test_the_service_is_confined_as_the_original_is() -> None:
    lines = (UNITS / "pfxhttpd.service").read_text().splitlines()
    assert set(ORIGINAL.split()) <= set(lines)
    assert "ProtectSystem=strict" in lines  # the original: full, and /etc read-only, which strict implies


@pytest.fixture
def api() -> Iterator[Backend]:
    with Backend() as backend:
        backend.answer("/map", json={"result": "mapped"})
        backend.answer("/policy", json={"action": "DUNNO"})
        yield backend


def test_two_sockets_from_systemd(api: Backend, tmp_path: Path) -> None:
    """Named sockets reach their listeners whatever their order; a reload that would change one is refused."""
    needs("systemd-socket-activate")
    port, path = ports.free(), str(tmp_path / "policy.sock")
    config = configuration(
        {"kind": "socket_map", "name": "m", "type": "tcp", "systemd_socket_name": "maps"},
        {"kind": "policy_service", "name": "p", "type": "unix", "systemd_socket_name": "checks"},
        socket_maps={"m": socket_map(api.url("/map"))},
        policy_services={"p": policy(api.url("/policy"))},
        runtime_directory=str(tmp_path / "run"),
    )
    file = tmp_path / "pfxhttp.yml"
    file.write_text(yaml.safe_dump(config))
    process = subprocess.Popen(
        [
            "systemd-socket-activate",
            "--listen",
            path,
            "--listen",
            f"127.0.0.1:{port}",
            "--fdname",
            "checks:maps",
            "--setenv",
            f"PYTHONPATH={TREE}",
            sys.executable,
            "-m",
            "pfxhttpd",
            "--config",
            str(file),
            "run",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=clean_environment(),
        preexec_fn=proc.die_with_parent,
    )
    log = Log(process.stdout)
    try:
        log.wait_for("Listening on 127.0.0.1")
        with SocketMap(("127.0.0.1", port)) as client:  # the first connection is what starts the service
            assert client.ask("m", "x") == "OK mapped"
            with Policy(path) as other:
                assert other.ask({"sender": "a@example.com"}) == "DUNNO"
            config["server"]["listen"].append(
                {"kind": "socket_map", "name": "m", "type": "tcp", "systemd_socket_name": "more"}
            )
            file.write_text(yaml.safe_dump(config))
            os.kill(process.pid, signal.SIGHUP)
            assert "systemd:more" in log.wait_for("Reload failed")
            assert client.ask("m", "x") == "OK mapped"
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(20) == 0
        assert os.path.exists(path), "the socket is systemd's, not ours to remove"
    finally:
        process.kill()
        process.wait()


def test_a_name_that_systemd_did_not_pass(tmp_path: Path) -> None:
    needs("systemd-socket-activate")
    config = configuration(
        {"kind": "socket_map", "name": "m", "type": "tcp", "systemd_socket_name": "maps"},
        socket_maps={"m": socket_map("http://127.0.0.1:9/")},
        runtime_directory=str(tmp_path / "run"),
    )
    file = tmp_path / "pfxhttp.yml"
    file.write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [sys.executable, "-m", "pfxhttpd", "--config", str(file), "run"],
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=30,
    )
    assert done.returncode == os.EX_UNAVAILABLE
    assert done.stderr == "pfxhttpd: systemd:maps: systemd passed 0 sockets of that name, not one\n"


# SysV


class SysV:
    """The script as installed, for a server of the test's own."""

    def __init__(self, directory: Path, program: Path, config: dict) -> None:
        self.config, self.pidfile = directory / "pfxhttp.yml", directory / "pid" / "pfxhttpd.pid"
        self.config.write_text(yaml.safe_dump(config))
        defaults = directory / "defaults"
        defaults.write_text(
            f"PFXHTTPD_CONFIG={self.config}\nPFXHTTPD_PROGRAM={program}\nPFXHTTPD_PIDFILE={self.pidfile}\n"
        )
        text = (TREE / "init" / "sysv" / "pfxhttpd").read_text()
        self.script = directory / "init"
        self.script.write_text(text.replace("/etc/default/pfxhttpd", str(defaults)))

    def __call__(self, action: str) -> int:
        return subprocess.run(
            ["sh", str(self.script), action],
            env=clean_environment(),
            timeout=90,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ).returncode

    @property
    def pid(self) -> int:
        return int(self.pidfile.read_text())


@pytest.fixture
def sysv(api: Backend, tmp_path: Path, program: Path) -> Iterator[SysV]:
    needs("root", "start-stop-daemon")
    assert os.path.exists("/lib/lsb/init-functions"), "the package sysvinit-utils or lsb-base is missing"
    port = ports.free()
    script = SysV(
        tmp_path,
        program,
        configuration(
            listener("socket_map", "m", port),
            socket_maps={"m": socket_map(api.url("/map"))},
            runtime_directory=str(tmp_path / "run"),
            logging={"level": "none"},
        ),
    )
    script.port = port
    yield script
    script("stop")


def answers(script: SysV) -> bool:
    with SocketMap(("127.0.0.1", script.port)) as client:
        return client.ask("m", "x") == "OK mapped"


def test_a_whole_life(sysv: SysV) -> None:
    assert sysv("status") == 3
    assert sysv("start") == 0
    first = sysv.pid
    assert answers(sysv), "the script returned before the service was ready"
    assert sysv("status") == 0
    assert sysv("start") == 0 and sysv.pid == first
    assert sysv("reload") == 0 and sysv("force-reload") == 0 and sysv.pid == first
    assert sysv("restart") == 0 and sysv.pid != first
    assert answers(sysv)
    second = sysv.pid
    assert sysv("stop") == 0
    assert not proc.is_running(second) and not sysv.pidfile.exists()
    assert sysv("stop") == 0
    assert sysv("status") == 3
    assert sysv("reload") == 7


def test_a_broken_configuration_costs_nothing(sysv: SysV) -> None:
    assert sysv("start") == 0
    pid, good = sysv.pid, sysv.config.read_text()
    sysv.config.write_text("server: [")
    assert sysv("reload") == 1
    assert sysv("restart") == 6
    assert sysv.pid == pid and answers(sysv)
    assert sysv("stop") == 0
    assert sysv("start") == 1
    assert sysv("status") == 3
    sysv.config.write_text(good)
    assert sysv("start") == 0


def test_a_pid_file_that_was_left(sysv: SysV) -> None:
    """After kill -9 of the master; by then its pid may be some other program's, which must not be touched."""
    assert sysv("start") == 0
    os.kill(sysv.pid, signal.SIGKILL)
    stranger = subprocess.Popen(["sleep", "1000"])
    try:
        sysv.pidfile.write_text(f"{stranger.pid}\n")
        assert sysv("status") == 1
        assert sysv("start") == 0
        assert answers(sysv)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_the_lsb_header_is_complete() -> None:
    text = (TREE / "init" / "sysv" / "pfxhttpd").read_text()
    header = text[text.index("### BEGIN INIT INFO") : text.index("### END INIT INFO")]
    for key in ("Provides", "Required-Start", "Required-Stop", "Default-Start", "Default-Stop", "Short-Description"):
        assert f"# {key}:" in header
    assert shutil.which("sh")


# What the unit forbids, as the kernel enforces it

PR_SET_MDWE, REFUSE_EXEC_GAIN = 65, 1


def test_it_serves_with_nothing_writable_and_no_new_code(api: Backend, tmp_path: Path) -> None:
    """ProtectSystem=strict and MemoryDenyWriteExecute, without a systemd: a mount namespace that is read-only but for
    the runtime directory, and prctl(2) PR_SET_MDWE."""
    needs("root", "unshare")
    runtime, port = tmp_path / "run", ports.free()
    runtime.mkdir()
    config = configuration(
        listener("socket_map", "m", port),
        socket_maps={"m": socket_map(api.url("/map"))},
        runtime_directory=str(runtime),
        response_cache={"enabled": True},
    )
    file = tmp_path / "pfxhttp.yml"
    file.write_text(yaml.safe_dump(config))
    confine = (
        "import ctypes, os, sys\n"
        f"assert ctypes.CDLL(None).prctl({PR_SET_MDWE}, {REFUSE_EXEC_GAIN}, 0, 0, 0) == 0, 'no PR_SET_MDWE here'\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    mounts = (
        f"mount --bind / / && mount --bind {runtime} {runtime} && mount -o remount,ro,bind / && "
        f"! touch {tmp_path}/written 2>/dev/null && "
        'exec "$0" -c "$1" "$0" -m pfxhttpd --config "$2" run'
    )
    process = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", mounts, sys.executable, confine, str(file)],
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=proc.die_with_parent,
    )
    log = Log(process.stdout)
    try:
        log.wait_for("Ready", 20)
        with SocketMap(("127.0.0.1", port)) as client:
            assert client.ask("m", "x") == "OK mapped"
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(20) == 0
        assert "level=ERROR" not in log.text
    finally:
        process.kill()
        process.wait()

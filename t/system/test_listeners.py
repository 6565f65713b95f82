"""Listeners: which addresses they are on, what their socket files look like, and what a taken place gets."""

from __future__ import annotations

import contextlib
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kit import ports
from kit.backend import Backend
from kit.clients import SocketMap
from kit.configuration import configuration, listener, socket_map
from kit.daemon import Daemon
from kit.needs import needs

CANNOT_BIND, NOT_PERMITTED, CONFIGURATION = 69, 77, 78
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1
NOBODY = 65534


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short enough for a Unix socket's path, and reachable by other users."""
    path = Path(tempfile.mkdtemp(prefix="sockets-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def config(backend: Backend, *listeners: dict[str, Any]) -> dict[str, Any]:
    backend.answer("/map", json={"result": "x"})
    return configuration(*listeners, socket_maps={"map": socket_map(backend.url("/map"))})


def tcp(port: int, address: str, kind: str = "tcp") -> dict[str, Any]:
    return {"kind": "socket_map", "name": "map", "type": kind, "address": address, "port": port}


def unix(path: Path, **more: str) -> dict[str, Any]:
    return listener("socket_map", "map", address=str(path), **more)


def answers(address: tuple[str, int] | str) -> bool:
    """Whether a map answers there; False when nobody listens."""
    try:
        with SocketMap(address) as client:
            return client.ask("map", "k") == "OK x"
    except ConnectionRefusedError:
        return False


def refused(config: dict[str, Any], **more: Any) -> tuple[int, str]:
    """Exit status and log of a daemon that cannot start; it must leave nothing behind and say so without a traceback."""
    daemon = Daemon(config, ready=False, **more)
    try:
        status = daemon.wait()
        daemon.log.wait_end()
        daemon.check_log()
        assert not daemon.processes() and not daemon.socket_files()
        return status, daemon.log.text
    finally:
        daemon.destroy()


@pytest.mark.parametrize(
    "address, kind, ipv4, ipv6",
    [
        ("[::]", "tcp", True, True),
        ("::", "tcp", True, True),
        ("", "tcp", True, True),
        ("0.0.0.0", "tcp", True, False),
        ("127.0.0.1", "tcp", True, False),
        ("localhost", "tcp", True, False),
        ("[::1]", "tcp", False, True),
        ("[::]", "tcp6", False, True),
        ("", "tcp6", False, True),
        ("::1", "tcp6", False, True),
    ],
)
def test_tcp(backend: Backend, address: str, kind: str, ipv4: bool, ipv6: bool):
    needs("ipv6")
    port = ports.free()
    with Daemon(config(backend, tcp(port, address, kind))):
        assert answers(("127.0.0.1", port)) == ipv4
        assert answers(("::1", port)) == ipv6


def test_several_listeners_of_all_kinds(backend: Backend, directory: Path):
    needs("ipv6")
    port, other = ports.free(), ports.free()
    with Daemon(config(backend, tcp(port, "127.0.0.1"), tcp(other, "::1", "tcp6"), unix(directory / "map"))) as daemon:
        assert len(daemon.log.find('msg="?Listening')) == 3
        assert answers(("127.0.0.1", port)) and answers(("::1", other)) and answers(str(directory / "map"))


@pytest.mark.parametrize("mode", ["0600", "0660", "0666", "0777"])
def test_unix_mode(backend: Backend, directory: Path, mode: str):
    path = directory / "map"
    with Daemon(config(backend, unix(path, mode=mode))):
        assert stat.S_IMODE(path.stat().st_mode) == int(mode, 8)
        assert answers(str(path))
    assert not path.exists()


def test_unix_owner_decides_who_may_connect(backend: Backend, directory: Path):
    needs("root")
    mine, theirs = directory / "mine", directory / "theirs"
    probe = "import os, socket, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534); socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    listeners = (unix(mine, mode="0660"), unix(theirs, mode="0660", user=str(NOBODY), group=str(NOBODY)))
    with Daemon(config(backend, *listeners)):
        assert (theirs.stat().st_uid, theirs.stat().st_gid) == (NOBODY, NOBODY)
        outcomes = [
            subprocess.run([sys.executable, "-c", probe, str(path)], capture_output=True, text=True)
            for path in (mine, theirs)
        ]
    assert "PermissionError" in outcomes[0].stderr
    assert outcomes[1].returncode == 0, outcomes[1].stderr


def test_a_stale_socket_file_is_replaced(backend: Backend, directory: Path):
    path = directory / "map"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with Daemon(config(backend, unix(path))):
        assert answers(str(path))
    assert not path.exists()


def test_after_a_kill_the_next_one_starts(backend: Backend, directory: Path):
    path, port = directory / "map", ports.free()
    first = Daemon(config(backend, unix(path), tcp(port, "127.0.0.1")))
    assert answers(str(path))
    first.destroy()
    assert path.exists()
    with Daemon(config(backend, unix(path), tcp(port, "127.0.0.1"))):
        assert answers(str(path)) and answers(("127.0.0.1", port))


def test_a_live_socket_is_an_error_and_stays(backend: Backend, directory: Path):
    path = directory / "map"
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(path))
        alive.listen()
        inode = path.stat().st_ino
        status, log = refused(config(backend, unix(path)))
        assert status == CANNOT_BIND and str(path) in log
        assert path.stat().st_ino == inode


def test_two_servers_on_one_socket(backend: Backend, directory: Path):
    path = directory / "map"
    with Daemon(config(backend, unix(path))):
        assert refused(config(backend, unix(path)))[0] == CANNOT_BIND
        assert answers(str(path))


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir], ids=["file", "directory"])
def test_something_else_at_the_path_is_an_error_and_stays(backend: Backend, directory: Path, make: Any):
    path = directory / "map"
    make(path)
    assert refused(config(backend, unix(path)))[0] == CANNOT_BIND
    assert path.exists()


def test_a_port_in_use(backend: Backend, directory: Path):
    path = directory / "map"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, log = refused(config(backend, unix(path), tcp(port, "127.0.0.1")))
    assert status == CANNOT_BIND
    (line,) = log.splitlines()
    assert str(port) in line
    assert not path.exists(), "what was bound before is given back"


def test_an_address_that_is_not_ours(backend: Backend):
    assert refused(config(backend, tcp(ports.free(), "192.0.2.1")))[0] == CANNOT_BIND
    assert refused(config(backend, tcp(ports.free(), "no such host")))[0] in (CANNOT_BIND, CONFIGURATION)


def test_no_directory_for_the_socket(backend: Backend, directory: Path):
    status, log = refused(config(backend, unix(directory / "missing" / "map")))
    assert status == CANNOT_BIND and "missing" in log


def test_a_path_that_is_too_long(backend: Backend, directory: Path):
    status, log = refused(config(backend, unix(directory / ("x" * 120))))
    assert status in (CANNOT_BIND, CONFIGURATION) and "107 bytes" in log


def test_not_permitted(backend: Backend, directory: Path, tmp_path: Path):
    """Root without CAP_DAC_OVERRIDE is an ordinary user to the directory's mode."""
    needs("root")
    wrapper = tmp_path / "python"
    wrapper.write_text(
        f"#!{sys.executable}\n"
        "import ctypes, os, sys\n"
        f"ctypes.CDLL(None).prctl({PR_CAPBSET_DROP}, {CAP_DAC_OVERRIDE}, 0, 0, 0)\n"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
    )
    wrapper.chmod(0o755)
    directory.chmod(0o555)
    status, log = refused(config(backend, unix(directory / "map")), python=str(wrapper))
    assert status == NOT_PERMITTED and str(directory) in log


def test_two_listeners_on_one_address(backend: Backend):
    port = ports.free()
    assert refused(config(backend, tcp(port, "127.0.0.1"), tcp(port, "127.0.0.1")))[0] == CONFIGURATION


SYSTEMD = """\
#!{python}
import os, socket, sys
tcp = socket.create_server(("127.0.0.1", {port}))
unix = socket.socket(socket.AF_UNIX)
unix.bind("{path}")
unix.listen()
kept = [os.dup(each.fileno()) for each in (unix, tcp)]
for number, descriptor in enumerate(kept, 3):
    os.dup2(descriptor, number, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2", LISTEN_FDNAMES="maps.socket:other")
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.fixture
def systemd(directory: Path, tmp_path: Path) -> tuple[str, Path, int]:
    """A "python" that starts its program as systemd would with a Unix and a TCP socket; and where those are."""
    path, port = directory / "passed", ports.free()
    wrapper = tmp_path / "python"
    wrapper.write_text(SYSTEMD.format(python=sys.executable, port=port, path=path))
    wrapper.chmod(0o755)
    return str(wrapper), path, port


def test_sockets_from_systemd(backend: Backend, systemd: tuple[str, Path, int]):
    python, path, port = systemd
    listeners = (
        {"kind": "socket_map", "name": "map", "type": "unix", "systemd_socket_name": "maps.socket"},
        {"kind": "socket_map", "name": "map", "type": "tcp", "systemd_socket_name": "other"},
    )
    with Daemon(config(backend, *listeners), python=python):
        assert answers(str(path)) and answers(("127.0.0.1", port))
    assert path.exists(), "the file is systemd's"


def test_a_socket_that_systemd_did_not_pass(backend: Backend, systemd: tuple[str, Path, int]):
    missing = {"kind": "socket_map", "name": "map", "type": "tcp", "systemd_socket_name": "absent"}
    for more in ({"python": systemd[0]}, {}):
        status, log = refused(config(backend, missing), **more)
        assert status == CANNOT_BIND and "absent" in log
        with contextlib.suppress(FileNotFoundError):
            systemd[1].unlink()

"""The runtime directory on the real daemon: links that the service user has put there, and runs as root and as that user."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kit import ports
from kit.configuration import configuration, listener, socket_map
from kit.daemon import Daemon, clean_environment, command
from kit.needs import needs
from kit.places import NOBODY, reachable
from kit.waiting import until

pytestmark = pytest.mark.executed


@pytest.fixture(autouse=True)
def _root() -> None:
    needs("root")


@pytest.fixture
def place() -> Iterator[Path]:
    with reachable() as directory:
        yield directory


def config(runtime: Path, **server: Any) -> dict[str, Any]:
    return configuration(
        listener("socket_map", "m", ports.free()),
        socket_maps={"m": socket_map("http://127.0.0.1:1/")},
        response_cache={"enabled": True},
        runtime_directory=str(runtime),
        **server,
    )


def owner(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, stat.S_IMODE(status.st_mode)


def test_a_link_in_it_gives_no_directory_away(place: Path) -> None:
    """Whoever has taken a worker over waits for the next start by root."""
    (place / "precious").mkdir(mode=0o755)
    (place / "run").mkdir(mode=0o700)
    (place / "run" / "cache").symlink_to(place / "precious")
    shutil.chown(place / "run", "nobody", "nogroup")
    daemon = Daemon(config(place / "run", run_as_user="nobody"), ready=False)
    try:
        assert daemon.wait() == os.EX_UNAVAILABLE
        daemon.log.wait_end()
        (line,) = daemon.log.lines()
        assert line.startswith(f"pfxhttpd: cache directory {place / 'run' / 'cache'}: "), line
    finally:
        daemon.destroy()
    assert owner(place / "precious") == (0, 0o755) and not list((place / "precious").iterdir())
    assert os.listdir(place / "run") == ["cache"]


@pytest.fixture
def jail(place: Path) -> Path:
    root = place / "private" / "jail"
    (root / "etc").mkdir(parents=True)
    for name in ("resolv.conf", "hosts", "nsswitch.conf"):
        (root / "etc" / name).write_text("")
    root.chmod(0o755)
    (place / "private").chmod(0o700)  # nobody but root gets to it from outside
    return root


def test_a_link_in_the_jail_leads_neither_out_nor_anywhere_in_it(place: Path, jail: Path) -> None:
    (place / "precious").mkdir(mode=0o755)
    (jail / "precious").mkdir(mode=0o755)
    (jail / "run").mkdir(mode=0o755)
    shutil.chown(jail / "run", "nobody", "nogroup")
    for target in (place / "precious", Path("/precious")):
        (jail / "run" / "pfxhttp").symlink_to(target)
        daemon = Daemon(config(place / "run", run_as_user="nobody", chroot=str(jail)), ready=False)
        assert daemon.wait() != 0
        daemon.log.wait_end()
        (line,) = daemon.log.lines()
        assert line.startswith("pfxhttpd: cache directory /run/pfxhttp/cache: "), line
        daemon.destroy()
        (jail / "run" / "pfxhttp").unlink()
    for directory in (place / "precious", jail / "precious"):
        assert owner(directory) == (0, 0o755) and not list(directory.iterdir())
    with Daemon(config(place / "run", run_as_user="nobody", chroot=str(jail))):
        assert owner(jail / "run" / "pfxhttp" / "cache") == (NOBODY, 0o700)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_as_root_leaves_it_usable_for_the_service_user(how: signal.Signals, place: Path) -> None:
    runtime = place / "run"
    first = Daemon(config(runtime))
    os.kill(first.pid, how)
    first.wait()
    until(lambda: not first.processes(), "the first server's end")
    first.destroy()
    assert owner(runtime) == owner(runtime / "cache") == (0, 0o700)
    with Daemon(config(runtime, run_as_user="nobody")) as second:
        assert owner(runtime) == owner(runtime / "cache") == (NOBODY, 0o700)
        assert second.run("status").returncode == 0
    assert os.listdir(runtime) == ["cache"] and os.listdir(runtime / "cache") == []
    third = Daemon(config(runtime), ready=False)  # and root again: refused, with the remedy
    assert third.wait() != 0
    third.log.wait_end()
    (line,) = third.log.lines()
    assert line.endswith(f"runtime directory {runtime}: it belongs to user {NOBODY}; remove it, or give it to user 0")
    third.destroy()


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_unix_socket_has_the_same_mode_at_the_start_and_after_a_reload(umask: int, place: Path) -> None:
    def with_sockets(*names: str) -> dict[str, Any]:
        sockets = [listener("socket_map", "m", address=str(place / name)) for name in names]
        return config(place / "run", listen=sockets)

    before = os.umask(umask)
    try:
        daemon = Daemon(with_sockets("first"))
    finally:
        os.umask(before)
    with daemon:
        daemon.write(with_sockets("first", "second"))
        assert daemon.run("reload").returncode == 0
        assert [owner(place / name)[1] for name in ("first", "second")] == [0o660, 0o660]


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/null", path)], ids=["FIFO", "link"])
def test_a_pid_file_that_is_none_is_one_line(make: Any, place: Path) -> None:
    make(place / "pid")
    daemon = Daemon(config(place / "run"), arguments=("run", "--pidfile", str(place / "pid")), ready=False)
    try:
        assert daemon.wait() == os.EX_UNAVAILABLE
        daemon.log.wait_end()
        (line,) = daemon.log.lines()
        assert line.startswith(f"pfxhttpd: pid file {place / 'pid'}: ")
    finally:
        daemon.destroy()


@pytest.mark.parametrize("count", ["9" * 5000, "99999999", "-1", "x", "1\u0663"], ids=ascii)
def test_an_absurd_number_of_passed_sockets_is_one_line(count: str) -> None:
    """LISTEN_PID has to be the server's own number, which a shell knows that becomes the server."""
    shell = ["/bin/sh", "-c", 'LISTEN_PID=$$ exec "$0" "$@"', *command(["run"])]
    done = subprocess.run(
        shell, env=clean_environment({"LISTEN_FDS": count}), capture_output=True, text=True, timeout=30
    )
    assert done.returncode == os.EX_UNAVAILABLE
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("pfxhttpd: LISTEN_FDS="), done.stderr

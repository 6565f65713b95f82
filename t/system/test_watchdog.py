"""The watchdog of systemd (sd_watchdog_enabled(3)) with an interval of one second."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit import ports
from kit.configuration import configuration, listener, socket_map
from kit.control import reload
from kit.daemon import Daemon

pytestmark = pytest.mark.executed

INTERVAL = 1.0
"""Seconds, WatchdogSec of systemd.service(5)."""


class ServiceManager:
    """The receiving end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))

    def receive(self, timeout: float) -> list[str]:
        """The lines of the next message. Raises TimeoutError."""
        self._socket.settimeout(timeout)
        return self._socket.recv(4096).decode().splitlines()

    def pending(self) -> None:
        """Discard what has been received so far."""
        self._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while self._socket.recv(4096):
                pass

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    made = ServiceManager(tmp_path / "notify")
    yield made
    made.close()


@pytest.fixture
def watched(manager: ServiceManager) -> Iterator[Daemon]:
    config = configuration(
        listener("socket_map", "map", ports.free()),
        socket_maps={"map": socket_map("http://127.0.0.1:1/")},
        response_cache={"enabled": True},
        level="info",
    )
    environment = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": str(int(INTERVAL * 1_000_000))}
    with Daemon(config, environment=environment) as daemon:
        yield daemon


def test_a_server_with_an_interval_of_a_second_lives(manager: ServiceManager, watched: Daemon) -> None:
    """systemd would kill it if no message came within the interval; it is to come in half of that."""
    manager.pending()
    pings, longest, before = 0, 0.0, time.monotonic()
    while pings < 8:
        pings += "WATCHDOG=1" in manager.receive(INTERVAL)
        now = time.monotonic()
        longest, before = max(longest, now - before), now
        if pings == 4:
            reload(watched)
    print(f"longest time without a message: {longest:.3f} s")


def test_only_the_master_holds_the_notification_socket(manager: ServiceManager, watched: Daemon) -> None:
    def connected(pid: int) -> list[str]:
        """The sockets of a process that are connected to the service manager's: those of type datagram."""
        found = []
        for name in os.listdir(f"/proc/{pid}/fd"):
            inode = os.readlink(f"/proc/{pid}/fd/{name}").removeprefix("socket:[").removesuffix("]")
            if inode in datagram_sockets:
                found.append(inode)
        return found

    table = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    datagram_sockets = {fields[6] for fields in table if fields[4] == "0002"}
    children = watched.children()
    assert len(children) == 4, children
    assert len(connected(watched.pid)) == 1
    assert {title: connected(pid) for pid, title in children.items()} == {title: [] for title in children.values()}

"""systemd is notified of every state, from inside a chroot too, and never delays the server; what it passes is checked."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from kit.child import in_child
from kit.deadline import deadline
from kit.needs import needs

from pfxhttpd.config.settings import SOCKET_MAP, Listener
from pfxhttpd.io import SetupError, listen, systemd
from pfxhttpd.io.systemd import Notifier


@pytest.fixture(autouse=True)
def nothing_waits() -> Iterator[None]:
    with deadline(20):
        yield


class Manager:
    """The service manager's end."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(5)
        self.environ = {
            "NOTIFY_SOCKET": address,
            "WATCHDOG_USEC": "30000000",
            "WATCHDOG_PID": str(os.getpid()),
            "OTHER": "x",
        }

    def receive(self) -> list[str]:
        text = self.socket.recv(65536).decode()
        assert text.endswith("\n")
        return text.splitlines()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "notify") if request.param == "path" else f"@pfxhttpd-test-{os.getpid()}")
    with closing(made.socket):
        yield made


def test_states_arrive_as_sd_notify_words_them(manager: Manager) -> None:
    tell = Notifier(manager.environ)
    assert tell.ready() and manager.receive() == ["READY=1"]
    assert tell.ready("8 workers") and manager.receive() == ["READY=1", "STATUS=8 workers"]
    assert tell.ready(main_pid=77) and manager.receive() == ["READY=1", "MAINPID=77"]
    assert tell.status("8 workers, 3 busy") and manager.receive() == ["STATUS=8 workers, 3 busy"]
    assert tell.watchdog() and manager.receive() == ["WATCHDOG=1"]
    assert tell.stopping("bye") and manager.receive() == ["STOPPING=1", "STATUS=bye"]
    tell.close()


def test_a_reload_tells_when_it_began(manager: Manager) -> None:
    tell = Notifier(manager.environ)
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert tell.reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    first, second = manager.receive()
    assert first == "RELOADING=1" and before <= int(second.removeprefix("MONOTONIC_USEC=")) <= after
    tell.close()


def test_a_status_is_one_line(manager: Manager) -> None:
    tell = Notifier(manager.environ)
    tell.status("a\nREADY=1\x1b[2J\u2028" + "x" * 10000)
    (line,) = manager.receive()
    assert line.startswith("STATUS=a READY=1 [2J x") and len(line) < 300
    tell.status("\ud800")
    assert len(manager.receive()) == 1
    tell.close()


def test_children_do_not_inherit_the_variables(manager: Manager) -> None:
    with closing(Notifier(manager.environ)) as tell:
        assert manager.environ == {"OTHER": "x"}
        assert not any(os.get_inheritable(descriptor) for descriptor in tell.descriptors())


def test_the_watchdogs_interval_is_in_seconds(manager: Manager) -> None:
    with closing(Notifier(manager.environ)) as tell:
        assert tell.watchdog_interval == 30.0


@pytest.mark.parametrize(
    ("given", "interval"),
    [
        ({"WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_PID": ""}, 30.0),
        ({"WATCHDOG_USEC": ""}, 0.0),
        ({"WATCHDOG_USEC": "x"}, 0.0),
        ({"WATCHDOG_USEC": "2500000"}, 2.5),
        ({"NOTIFY_SOCKET": ""}, 0.0),
    ],
)
def test_when_there_is_a_watchdog(given: dict[str, str], interval: float, manager: Manager) -> None:
    with closing(Notifier(manager.environ | given)) as tell:
        assert tell.watchdog_interval == interval


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"NOTIFY_SOCKET": ""},
        {"NOTIFY_SOCKET": "relative"},
        {"NOTIFY_SOCKET": "/no/such/socket"},
        {"NOTIFY_SOCKET": "@nobody-is-there"},
        {"NOTIFY_SOCKET": "vsock:2:9999"},
        {"NOTIFY_SOCKET": "/" + "x" * 200},
    ],
)
def test_without_a_manager_nothing_happens(environ: dict[str, str]) -> None:
    tell = Notifier(environ)
    assert not any([tell.ready(), tell.reloading(), tell.stopping(), tell.status("x"), tell.watchdog()])
    assert tell.descriptors() == () and tell.watchdog_interval == 0.0 and environ == {}
    tell.close()


def test_a_manager_that_is_gone_does_no_harm(manager: Manager) -> None:
    tell = Notifier(manager.environ)
    manager.socket.close()
    assert not tell.ready() and not tell.watchdog()
    tell.close()
    assert not tell.ready()


def test_a_manager_that_does_not_read_costs_no_time_and_no_state(manager: Manager) -> None:
    tell = Notifier(manager.environ)
    while tell.watchdog():
        pass
    assert not tell.reloading() and not tell.ready("done")
    while True:  # makes room, and finds nothing but what was sent
        try:
            manager.socket.setblocking(False)
            assert manager.receive() == ["WATCHDOG=1"]
        except BlockingIOError:
            break
    assert tell.watchdog() and manager.receive() == ["READY=1", "STATUS=done", "WATCHDOG=1"]
    assert tell.watchdog() and manager.receive() == ["WATCHDOG=1"]
    tell.close()


def test_it_works_from_inside_a_jail(manager: Manager, tmp_path: Path) -> None:
    needs("root")
    jail = tmp_path / "jail"
    jail.mkdir()
    tell = Notifier(manager.environ)

    def work() -> list[bool]:
        os.chroot(jail)
        os.chdir("/")
        os.setresuid(65534, 65534, 65534)
        return [tell.ready("inside"), tell.reloading(), tell.stopping()]

    assert in_child(work) == [True, True, True]
    assert manager.receive() == ["READY=1", "STATUS=inside"]
    assert manager.receive()[0] == "RELOADING=1" and manager.receive() == ["STOPPING=1"]
    tell.close()


# -- sockets that systemd passes ----------------------------------------------------------------------------------


@pytest.fixture
def opened() -> Iterator[list[socket.socket]]:
    made: list[socket.socket] = []
    yield made
    for each in made:
        each.close()


def tcp(address: str) -> Listener:
    return Listener(SOCKET_MAP, "demo", "tcp", address, 0)


def unix(path: Path) -> Listener:
    return Listener(SOCKET_MAP, "demo", "unix", str(path))


def passed(given: dict[int, socket.socket], environ: dict[str, str], pid: int | None = None) -> object:
    """What `passed_sockets` makes of sockets at certain descriptors, in a child: names, families, flags; or its refusal."""

    def work() -> object:
        copies = {number: os.dup(sock.fileno()) for number, sock in given.items()}
        for number in range(3, 8):
            with suppress(OSError):
                if number not in copies.values():
                    os.close(number)
        for number, copy in copies.items():
            os.dup2(copy, number, inheritable=True)
        own = {name: value.replace("PID", str(os.getpid())) for name, value in environ.items()}
        try:
            found = systemd.passed_sockets(own, pid or os.getpid())
        except SetupError as failure:
            return str(failure)
        return {
            name: [(sock.fileno(), sock.family.name, sock.getblocking(), sock.get_inheritable()) for sock in sockets]
            for name, sockets in found.items()
        }, own

    return in_child(work)


@pytest.fixture
def two(tmp_path: Path, opened: list[socket.socket]) -> list[socket.socket]:
    opened += [listen.bind(tcp("127.0.0.1"), 10), listen.bind(unix(tmp_path / "s"), 10)]
    high = []
    for sock in opened:  # above the numbers that the child uses
        high.append(socket.socket(fileno=fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, 50)))
    opened += high
    return high


def test_sockets_from_systemd_come_by_name(two: list[socket.socket]) -> None:
    environ = {"LISTEN_PID": "PID", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "maps:policy:maps", "OTHER": "x"}
    assert passed({3: two[0], 4: two[1], 5: two[0]}, environ) == (
        {
            "maps": [(3, "AF_INET", False, False), (5, "AF_INET", False, False)],
            "policy": [(4, "AF_UNIX", False, False)],
        },
        {"OTHER": "x"},
    )


def test_sockets_without_names_are_unknown(two: list[socket.socket]) -> None:
    assert passed({3: two[0]}, {"LISTEN_PID": "PID", "LISTEN_FDS": "1"}) == (
        {"unknown": [(3, "AF_INET", False, False)]},
        {},
    )


@pytest.mark.parametrize(
    "environ", [{}, {"LISTEN_FDS": "1"}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {"LISTEN_PID": "PID"}]
)
def test_sockets_of_another_process_are_not_ours(environ: dict[str, str], two: list[socket.socket]) -> None:
    assert passed({3: two[0]}, environ) == ({}, {})


@pytest.mark.parametrize(
    ("environ", "part"),
    [
        ({"LISTEN_FDS": "x"}, "no count"),
        ({"LISTEN_FDS": "-1"}, "no count"),
        ({"LISTEN_FDS": "0"}, "no count"),
        ({"LISTEN_FDS": "4096"}, "no count"),
        ({"LISTEN_FDS": "9" * 5000}, "no count"),
        ({"LISTEN_FDS": "\u0663"}, "no count"),
        ({"LISTEN_FDS": "2", "LISTEN_FDNAMES": "a"}, "does not fit"),
        ({"LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}, "'b' as descriptor 4, which is no socket"),
    ],
)
def test_what_systemd_would_never_pass(environ: dict[str, str], part: str, two: list[socket.socket]) -> None:
    assert part in str(passed({3: two[0]}, {"LISTEN_PID": "PID"} | environ))


def test_a_sock_must_fit_its_listener(tmp_path: Path, opened: list[socket.socket]) -> None:
    needs("ipv6")
    four, six = listen.bind(tcp("127.0.0.1"), 1), listen.bind(tcp("::1"), 1)
    local = listen.bind(unix(tmp_path / "s"), 1)
    idle, datagram = socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened += [four, six, local, idle, datagram]

    def verdict(type: str, sock: socket.socket) -> str:
        try:
            systemd.check_fit(Listener(SOCKET_MAP, "demo", type, systemd_socket_name="maps"), sock)
        except SetupError as failure:
            return str(failure)
        return "systemd:maps fits"

    assert [verdict("tcp", four), verdict("tcp", six), verdict("tcp6", six), verdict("unix", local)] == [
        "systemd:maps fits"
    ] * 4
    assert verdict("tcp6", four).startswith("systemd:maps ")
    assert "AF_INET, which does not fit type tcp6" in verdict("tcp6", four)
    assert "AF_UNIX, which does not fit type tcp" in verdict("tcp", local)
    assert "AF_INET6, which does not fit type unix" in verdict("unix", six)
    assert "Accept=no" in verdict("tcp", idle)
    assert "ListenStream=" in verdict("tcp", datagram)

"""Lines reach the stream or syslog whole, and nothing that happens to either ever waits or raises."""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import pty
import resource
import select
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kit import logfmt
from kit.child import in_child
from kit.deadline import deadline
from kit.needs import needs
from kit.proc import die_with_parent

from pfxhttpd.config.settings import Logging
from pfxhttpd.io.log import FACILITIES, Logger

PLAIN = Logging(level="debug", use_systemd=True)
HALF = "x" * 486


def write_quarter(log: Logger, number: int = 0) -> None:
    """Logs a line of which four fill the smallest pipe, with no room for a shorter one."""
    log.info("Line", number=number % 10, filler=HALF, more=HALF)


@pytest.fixture(autouse=True)
def nothing_waits() -> Iterator[None]:
    with deadline(20):
        yield


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe of the smallest size, reading and writing end."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    yield reading, writing
    for descriptor in (reading, writing):
        try:
            os.close(descriptor)
        except OSError:
            pass


def read_lines(descriptor: int) -> list[dict[str, str]]:
    """The lines that can be read at once."""
    received = b""
    while select.select([descriptor], [], [], 0)[0]:
        piece = os.read(descriptor, 65536)
        if not piece:
            break
        received += piece
    return parsed(received)


def parsed(received: bytes) -> list[dict[str, str]]:
    assert received.endswith(b"\n") or not received
    return [logfmt.parse(line) for line in received.decode().split("\n")[:-1]]


def messages(lines: list[dict[str, str]]) -> list[str]:
    return [line["msg"] for line in lines]


@pytest.mark.parametrize(
    ("level", "enabled"),
    [("debug", {"debug", "info", "error"}), ("info", {"info", "error"}), ("error", {"error"}), ("none", set())],
)
def test_levels_below_the_configured_one_are_none(level: str, enabled: set[str], pipe: tuple[int, int]) -> None:
    log = Logger.open(Logging(level=level), stream_fd=pipe[1])
    assert {name for name in ("debug", "info", "error") if getattr(log, name)} == enabled


def test_a_line_as_the_original_writes_it(pipe: tuple[int, int]) -> None:
    log = Logger.open(PLAIN, stream_fd=pipe[1])
    log.info("New connection established", session="a1b2c3d4e5f67890", client="127.0.0.1:12345")
    assert os.read(pipe[0], 4096) == (
        b'level=INFO msg="New connection established" session=a1b2c3d4e5f67890 client=127.0.0.1:12345\n'
    )


def test_json_has_the_same_names(pipe: tuple[int, int]) -> None:
    log = Logger.open(Logging(json=True), stream_fd=pipe[1])
    log.error("Backend failure", entry="demo", reason="connection refused")
    record = json.loads(os.read(pipe[0], 4096))
    assert list(record) == ["time", "level", "msg", "entry", "reason"] and record["level"] == "ERROR"


@pytest.mark.parametrize(
    ("zone", "shown"),
    [
        ("UTC0", "2026-01-02T03:04:05.678+00:00"),
        ("CET-1", "2026-01-02T04:04:05.678+01:00"),
        ("NST3:30", "2026-01-01T23:34:05.678-03:30"),
    ],
)
def test_the_time_is_local_with_its_offset(
    zone: str, shown: str, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        log = Logger.open(Logging(), stream_fd=pipe[1], clock=lambda: 1767323045.6789)
        log.info("a")
        log.info("b")
    finally:
        monkeypatch.undo()
        time.tzset()
    assert [line["time"] for line in read_lines(pipe[0])] == [shown, shown]


def test_the_time_goes_on(pipe: tuple[int, int]) -> None:
    moments = iter([1.9994, 1.9999, 2.0, 61.25])
    log = Logger.open(Logging(), stream_fd=pipe[1], clock=lambda: next(moments))
    for _ in range(4):
        log.info("m")
    assert [line["time"][17:23] for line in read_lines(pipe[0])] == ["01.999", "01.999", "02.000", "01.250"]


def test_no_secret_reaches_the_stream(pipe: tuple[int, int]) -> None:
    log = Logger.open(PLAIN, stream_fd=pipe[1], secrets=["hunter2hunter2"])
    log.error("Refused hunter2hunter2", url="https://u:hunter2@h/", password="hunter2", error="Bearer hunter2")
    assert b"hunter2" not in os.read(pipe[0], 4096)


def test_a_reader_that_does_not_read_costs_lines_and_no_time(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    log = Logger.open(PLAIN, stream_fd=writing)
    for number in range(10):
        write_quarter(log, number)  # would wait forever if any of them waited
    assert [line["number"] for line in read_lines(reading)] == ["0", "1", "2", "3"]
    log.info("After")
    log.info("And on")
    lines = read_lines(reading)
    assert messages(lines) == ["Log lines were lost", "After", "And on"]
    assert lines[0]["count"] == "6" and lines[0]["level"] == "ERROR"


def test_a_loss_is_reported_only_once_it_can_be(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    log = Logger.open(PLAIN, stream_fd=writing)
    for _ in range(3):
        for _ in range(5):
            write_quarter(log)
    read_lines(reading)
    log.info("After")
    assert [(line["msg"], line.get("count")) for line in read_lines(reading)] == [
        ("Log lines were lost", "11"),
        ("After", None),
    ]


def test_the_streams_owner_keeps_its_flags(pipe: tuple[int, int]) -> None:
    before = fcntl.fcntl(pipe[1], fcntl.F_GETFL)
    log = Logger.open(PLAIN, stream_fd=pipe[1])
    log.info("Line")
    assert fcntl.fcntl(pipe[1], fcntl.F_GETFL) == before and not before & os.O_NONBLOCK


def test_the_logger_outlives_the_descriptor_it_was_given(pipe: tuple[int, int]) -> None:
    log = Logger.open(PLAIN, stream_fd=pipe[1])
    os.close(pipe[1])
    log.info("Line")
    assert messages(read_lines(pipe[0])) == ["Line"]


def test_nothing_is_inherited_by_programs(pipe: tuple[int, int]) -> None:
    log = Logger.open(PLAIN, stream_fd=pipe[1])
    assert log.descriptors() and not any(os.get_inheritable(descriptor) for descriptor in log.descriptors())


def test_a_pipe_of_another_user_is_written_without_waiting_too() -> None:
    needs("root")

    def work() -> tuple[int, list[str]]:
        reading, writing = os.pipe()
        os.setresuid(65534, 65534, 65534)
        with pytest.raises(PermissionError):
            os.open(f"/proc/self/fd/{writing}", os.O_WRONLY)
        log = Logger.open(PLAIN, stream_fd=writing)
        for _ in range(100):
            write_quarter(log)
        before = len(read_lines(reading))
        log.info("After")
        return before, messages(read_lines(reading))

    before, after = in_child(work)
    assert 10 < before < 100 and after == ["Log lines were lost", "After"]


@pytest.mark.parametrize("nowait", [True, False], ids=["RWF_NOWAIT", "a kernel without it"])
def test_no_write_to_a_pipe_of_another_user_blocks_however_many_write(nowait: bool) -> None:
    """Again and again the reader takes one page and stops, and eight processes compete for it: all of them go on.

    A process may be interrupted between a look at the pipe and its write; here it always is, for two milliseconds.
    """
    needs("root")
    writers, rounds = 8, 20

    class SlowPoll:
        def __init__(self) -> None:
            self.fast = poll()
            self.register = self.fast.register

        def poll(self, timeout: float) -> list[tuple[int, int]]:
            found = self.fast.poll(timeout)
            time.sleep(0.002)
            return found

    def refused(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    poll = select.poll

    def work() -> int:
        select.poll = SlowPoll  # type: ignore[misc,assignment]
        reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
        os.setresuid(65534, 65534, 65534)
        if not nowait:
            os.pwritev = refused  # type: ignore[assignment]
        log = Logger.open(PLAIN, stream_fd=writing)
        counts = memoryview(mmap.mmap(-1, 8 * writers)).cast("q")
        for number in range(writers):
            if os.fork() == 0:
                die_with_parent()
                while True:
                    log.info("Line", a="x" * 1000, b="x" * 1000, c="x" * 1000, d="x" * 900)
                    counts[number] += 1
        taken = 0
        for _ in range(rounds):
            before = list(counts)
            while any(count < earlier + 2 for count, earlier in zip(counts, before)):
                select.select([], [], [], 0.0005)
            if select.select([reading], [], [], 0)[0]:
                taken += len(parsed(os.read(reading, 4096)))
        return taken

    assert in_child(work, timeout=60) >= rounds // 2


def test_a_closed_stream_swallows_lines() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)
    log = Logger.open(PLAIN, stream_fd=writing)
    log.info("Line")
    assert log.descriptors() == ()


def test_a_reader_that_is_gone_does_no_harm(pipe: tuple[int, int]) -> None:
    log = Logger.open(PLAIN, stream_fd=pipe[1])
    os.close(pipe[0])
    log.info("Line")
    log.info("Line")


def test_a_full_disk_does_no_harm() -> None:
    with open("/dev/full", "wb") as full:
        log = Logger.open(PLAIN, stream_fd=full.fileno())
        log.info("Line")
        log.error("Line")


def test_a_file_is_continued_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with open(path, "wb", buffering=0) as file:
        file.write(b'msg="first"\n')
        log = Logger.open(PLAIN, stream_fd=file.fileno())
        log.info("second")
        file.write(b'msg="third"\n')
    assert messages(parsed(path.read_bytes())) == ["first", "second", "third"]


def test_a_line_that_was_torn_does_not_spoil_the_next(tmp_path: Path) -> None:
    def work() -> None:
        with open(tmp_path / "log", "wb") as file:
            log = Logger.open(PLAIN, stream_fd=file.fileno())
            resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))
            log.info("Torn", filler=HALF, more=HALF)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            log.info("After")
            log.info("And on")

    in_child(work)
    torn, *whole = (tmp_path / "log").read_bytes().splitlines(keepends=True)
    assert len(torn) == 501
    assert messages(parsed(b"".join(whole))) == ["Log lines were lost", "After", "And on"]


def test_a_line_that_another_process_tore_does_not_spoil_the_next(tmp_path: Path) -> None:
    """On a full disk the beginning of a line is written; the next line may be another process's."""
    with open(tmp_path / "log", "wb") as file:
        log = Logger.open(PLAIN, stream_fd=file.fileno())

        def tear() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))
            log.info("Torn", filler=HALF, more=HALF)

        in_child(tear)
        log.info("After")
        in_child(lambda: log.info("And on"))
    torn, *whole = (tmp_path / "log").read_bytes().splitlines(keepends=True)
    assert len(torn) == 501
    assert messages(parsed(b"".join(whole))) == ["After", "And on"]


def test_a_stream_socket_like_that_of_systemd_journald() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        log = Logger.open(PLAIN, stream_fd=ours.fileno())
        for number in range(2000):
            write_quarter(log, number)
        arrived = read_lines(theirs.fileno())
        assert [line["number"] for line in arrived] == [str(number % 10) for number in range(len(arrived))]
        assert 0 < len(arrived) < 2000
        log.info("After")
        report, after = read_lines(theirs.fileno())
        assert int(report["count"]) == 2000 - len(arrived) and after["msg"] == "After"
        assert ours.getblocking()


def test_a_terminal_that_is_stopped() -> None:
    master, slave = pty.openpty()
    try:
        log = Logger.open(PLAIN, stream_fd=slave)
        for _ in range(200):
            write_quarter(log)
        assert b'level=INFO msg="Line"' in os.read(master, 65536)
    finally:
        os.close(master)
        os.close(slave)


def test_lines_of_many_processes_stay_whole() -> None:
    """Four writers, a reader that lags: every line reads back, and those that are missing have been counted."""
    writers, each = 4, 400
    reading, writing = os.pipe()
    log = Logger.open(PLAIN, stream_fd=writing)
    done, telling_done = os.pipe()
    leave, telling_leave = os.pipe()
    for writer in range(writers):
        if os.fork() == 0:
            for number in range(each):
                filler = "\u00e9" * (number % 450)
                log.info("Line", writer=writer, number=number, filler=filler, more=filler, again=filler)
            os.write(telling_done, b".")
            os.read(leave, 1)
            log.info("End", writer=writer)
            os._exit(0)
    received = b""
    finished = 0
    while finished < writers:
        ready = select.select([reading, done], [], [], 20)[0]
        assert ready
        if reading in ready:
            received += os.read(reading, 1000)
        elif done in ready:
            finished += len(os.read(done, writers))
    for _ in range(writers):  # one after the other, with an empty pipe: each can tell what it lost
        os.write(telling_leave, b".")
        os.wait()
        received += os.read(reading, 65536)
    for descriptor in (reading, writing, done, telling_done, leave, telling_leave):
        os.close(descriptor)
    log.close()
    lines = parsed(received)
    lost = sum(int(line["count"]) for line in lines if line["msg"] == "Log lines were lost")
    assert lost == log.lost_lines.count and 0 < log.lost_lines.last_at <= time.monotonic()
    assert messages(lines).count("Line") + lost == writers * each and messages(lines).count("End") == writers
    for writer in range(writers):
        numbers = [int(line["number"]) for line in lines if line.get("writer") == str(writer) and "number" in line]
        assert numbers == sorted(set(numbers))


def test_a_child_does_not_report_its_parents_loss(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    log = Logger.open(PLAIN, stream_fd=writing)
    for _ in range(5):
        write_quarter(log)
    read_lines(reading)
    in_child(lambda: log.info("Child"))
    log.info("Parent")
    assert messages(read_lines(reading)) == ["Child", "Log lines were lost", "Parent"]


def test_new_settings_use_what_is_open(pipe: tuple[int, int]) -> None:
    first = Logger.open(PLAIN, stream_fd=pipe[1])
    second = first.with_settings(Logging(level="error", json=True, use_systemd=True), secrets=["hunter2"])
    assert second.info is None and second.descriptors() == first.descriptors()
    second.error("A hunter2")
    first.debug("B")
    assert os.read(pipe[0], 4096) == b'{"level":"ERROR","msg":"A <redacted>"}\nlevel=DEBUG msg="B"\n'


class Syslogd:
    """A datagram socket at a path."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(5)

    def receive(self) -> str:
        return self.socket.recv(65536).decode()


@pytest.mark.parametrize(
    ("facility", "priorities"), [("mail", (23, 22, 19)), ("daemon", (31, 30, 27)), ("LOCAL3", (159, 158, 155))]
)
def test_syslog_gets_facility_severity_and_process(
    facility: str, priorities: tuple[int, ...], tmp_path: Path, pipe: tuple[int, int]
) -> None:
    daemon = Syslogd(tmp_path / "log")
    with closing(daemon.socket):
        log = Logger.open(Logging(level="debug", syslog=facility), pipe[1], syslog_path=str(tmp_path / "log"))
        log.debug("One", key="a b")
        log.info("Two")
        log.error("Three")
        tag = f"pfxhttpd[{os.getpid()}]:"
        assert [daemon.receive() for _ in range(3)] == [
            f'<{priorities[0]}>{tag} level=DEBUG msg="One" key="a b"',
            f'<{priorities[1]}>{tag} level=INFO msg="Two"',
            f'<{priorities[2]}>{tag} level=ERROR msg="Three"',
        ]
        assert read_lines(pipe[0]) == []
        log.close()


def test_every_facility_is_the_one_of_syslog_3() -> None:
    import syslog

    assert {name: getattr(syslog, f"LOG_{name.upper()}") >> 3 for name in FACILITIES if name != "ftp"} == {
        name: number for name, number in FACILITIES.items() if name != "ftp"
    }


def test_a_long_line_reaches_syslog(tmp_path: Path) -> None:
    daemon = Syslogd(tmp_path / "log")
    with closing(daemon.socket):
        log = Logger.open(Logging(syslog="mail"), syslog_path=str(tmp_path / "log"))
        log.info("Long", **{f"v{number}": "y" * 5000 for number in range(8)})
        line = daemon.receive()
        assert 3000 < len(line) < 4200 and line.endswith("left_out=5")
        log.close()


def test_syslog_that_restarts_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    first = Syslogd(path)
    log = Logger.open(Logging(syslog="mail"), syslog_path=str(path))
    first.socket.close()
    log.info("Lost")
    path.unlink()
    log.info("Lost")
    second = Syslogd(path)
    with closing(second.socket):
        log.info("Found")
        assert 'msg="Log lines were lost" count=2' in second.receive()
        assert 'msg="Found"' in second.receive()
    log.close()


def test_syslog_that_does_not_read_costs_lines_and_no_time(tmp_path: Path) -> None:
    daemon = Syslogd(tmp_path / "log")
    with closing(daemon.socket):
        log = Logger.open(Logging(syslog="mail"), syslog_path=str(tmp_path / "log"))
        for _ in range(5000):
            log.info("Line")
        received = 0
        while select.select([daemon.socket], [], [], 0)[0]:
            daemon.receive()
            received += 1
        log.info("After")
        assert f'msg="Log lines were lost" count={5000 - received}' in daemon.receive()
        assert 'msg="After"' in daemon.receive()
        log.close()


def test_without_syslog_the_stream_is_used_and_told(tmp_path: Path, pipe: tuple[int, int]) -> None:
    log = Logger.open(Logging(syslog="mail"), pipe[1], syslog_path=str(tmp_path / "none"))
    log.info("Line")
    told, line = read_lines(pipe[0])
    assert told["msg"].startswith("Cannot reach syslog") and told["error"].endswith(os.strerror(errno.ENOENT))
    assert line["msg"] == "Line" and "time" in line


def test_syslog_works_in_a_jail_and_after_a_reload_there(tmp_path: Path) -> None:
    needs("root")
    jail = tmp_path / "jail"
    jail.mkdir()
    path = tmp_path / "log"
    daemon = Syslogd(path)
    with closing(daemon.socket):
        log = Logger.open(Logging(syslog="mail"), syslog_path=str(path))

        def work() -> None:
            os.chroot(jail)
            os.chdir("/")
            os.setresuid(65534, 65534, 65534)
            log.info("Inside")
            after = log.with_settings(Logging(syslog="daemon", level="debug"))
            after.debug("Reloaded")
            daemon.socket.close()

        in_child(work)
        assert daemon.receive().startswith("<22>") and daemon.receive().startswith("<31>")
        log.close()


def test_in_a_jail_a_syslog_that_restarted_is_given_up_and_the_loss_counted(tmp_path: Path) -> None:
    needs("root")
    jail = tmp_path / "jail"
    jail.mkdir()
    path = tmp_path / "log"
    daemon = Syslogd(path)
    log = Logger.open(Logging(syslog="mail"), syslog_path=str(path))

    def work() -> str:
        os.chroot(jail)
        os.chdir("/")
        daemon.socket.close()
        log.info("Lost")
        log.info("Lost")
        (Path("/") / path.relative_to("/")).parent.mkdir(parents=True)
        inner = Syslogd(path)
        log.info("Found")
        return inner.receive()

    daemon.socket.close()
    assert 'msg="Log lines were lost" count=2' in in_child(work)
    log.close()

"""Sockets are bound as written, given up only when they are ours, and refused with one clear line."""

from __future__ import annotations

import grp
import os
import select
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kit.child import in_child
from kit.needs import needs

from pfxhttpd.config.settings import SOCKET_MAP, Listener
from pfxhttpd.io import SetupError, directory, listen

NOBODY = 65534


def tcp(address: str, port: int = 0, type: str = "tcp") -> Listener:
    return Listener(SOCKET_MAP, "demo", type, address, port)


def unix(path: Path | str, **given: object) -> Listener:
    return Listener(SOCKET_MAP, "demo", "unix", str(path), **given)  # type: ignore[arg-type]


def reach(door: socket.socket, host: str) -> tuple[socket.socket, str]:
    """Connects to the door's port; the accepted socket, and its label."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(5)
        client.connect((host, door.getsockname()[1]))
        assert select.select([door], [], [], 5)[0]
        accepted, address = door.accept()
        return accepted, listen.peer_name(accepted, address).replace(str(client.getsockname()[1]), "PORT")


@pytest.fixture
def doors() -> Iterator[list[socket.socket]]:
    opened: list[socket.socket] = []
    yield opened
    for door in opened:
        door.close()


@pytest.mark.parametrize("address", ["[::]", "::", ""])
def test_tcp_on_every_address_is_dual_stack(address: str, doors: list[socket.socket]) -> None:
    needs("ipv6")
    doors.append(listen.bind(tcp(address), 10))
    assert reach(doors[0], "127.0.0.1")[1] == "127.0.0.1:PORT"
    assert reach(doors[0], "::1")[1] == "[::1]:PORT"


def test_tcp6_is_ipv6_only(doors: list[socket.socket]) -> None:
    needs("ipv6")
    doors.append(listen.bind(tcp("[::]", type="tcp6"), 10))
    assert reach(doors[0], "::1")[1] == "[::1]:PORT"
    with pytest.raises(ConnectionRefusedError):
        reach(doors[0], "127.0.0.1")


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_tcp_on_an_ipv4_address_or_a_name(address: str, doors: list[socket.socket]) -> None:
    doors.append(listen.bind(tcp(address), 10))
    assert doors[0].family == socket.AF_INET
    assert reach(doors[0], "127.0.0.1")[1] == "127.0.0.1:PORT"


@pytest.mark.parametrize(("address", "type"), [("[::1]", "tcp"), ("::1", "tcp6")])
def test_one_ipv6_address(address: str, type: str, doors: list[socket.socket]) -> None:
    needs("ipv6")
    doors.append(listen.bind(tcp(address, type=type), 10))
    assert reach(doors[0], "::1")[1] == "[::1]:PORT"


def test_without_ipv6_every_address_means_every_ipv4_address(
    doors: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen.TcpListener, "bind", without_ipv6(listen.TcpListener.bind))
    doors.append(listen.bind(tcp("[::]"), 10))
    assert doors[0].getsockname()[0] == "0.0.0.0"
    with pytest.raises(SetupError):
        listen.bind(tcp("[::]", type="tcp6"), 10)


def without_ipv6(bind):  # type: ignore[no-untyped-def]
    def refuse(door: socket.socket, address: tuple) -> None:
        if door.family == socket.AF_INET6:
            raise OSError(99, "Cannot assign requested address")
        bind(door, address)

    return refuse


def test_a_listening_socket_does_not_wait_and_is_not_inherited(doors: list[socket.socket], tmp_path: Path) -> None:
    doors += [listen.bind(tcp("127.0.0.1"), 10), listen.bind(unix(tmp_path / "s"), 10)]
    for door in doors:
        assert not door.getblocking() and not door.get_inheritable()
        assert door.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        with pytest.raises(BlockingIOError):
            door.accept()


def test_accepted_connections_inherit_what_the_listener_set(doors: list[socket.socket]) -> None:
    doors.append(listen.bind(tcp("127.0.0.1"), 10))
    accepted, _ = reach(doors[0], "127.0.0.1")
    with accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_a_port_can_be_bound_again_at_once(doors: list[socket.socket]) -> None:
    first = listen.bind(tcp("127.0.0.1"), 10)
    address = first.getsockname()
    with socket.create_connection(address) as client:
        first.accept()[0].close()  # who closes first keeps the connection, in TIME_WAIT
        assert client.recv(1) == b""
    first.close()
    doors.append(listen.bind(tcp(*address), 10))


def test_of_a_names_addresses_tcp_takes_the_ipv4_one(
    doors: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [(socket.AF_INET6, 1, 6, "", ("::1", 0, 0, 0)), (socket.AF_INET, 1, 6, "", ("127.0.0.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments: found)
    doors.append(listen.bind(tcp("both.example"), 10))
    assert doors[0].getsockname()[0] == "127.0.0.1"


def refusal(listener: Listener) -> SetupError:
    with pytest.raises(SetupError) as caught:
        listen.bind(listener, 10)
    assert "\n" not in str(caught.value) and listener.endpoint in str(caught.value)
    return caught.value


def test_a_port_in_use(doors: list[socket.socket]) -> None:
    doors.append(listen.bind(tcp("127.0.0.1"), 10))
    failure = refusal(tcp("127.0.0.1", doors[0].getsockname()[1]))
    assert "in use" in str(failure) and "another process" in str(failure) and not failure.permission


@pytest.mark.parametrize(
    ("address", "hint"), [("0.0.0.0", True), ("[::]", True), ("localhost", True), ("127.0.0.2", False)]
)
def test_a_port_in_use_by_ourselves(address: str, hint: bool, doors: list[socket.socket]) -> None:
    """With the other address at the same port, too, so that the last one is refused for that."""
    doors += [listen.bind(tcp("127.0.0.1"), 10)]
    port = doors[0].getsockname()[1]
    other = socket.create_server(("127.0.0.2", port))
    doors.append(other)
    with pytest.raises(SetupError) as refused:
        listen.bind(tcp(address, port), 10, [doors[0]])
    text = f"this server itself listens on 127.0.0.1:{port}, which a reload cannot widen or narrow: restart it"
    assert (text in str(refused.value)) == hint and ("another process" in str(refused.value)) != hint


def test_a_port_that_is_not_ours_to_bind() -> None:
    needs("root")

    def work() -> tuple[str, bool]:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        failure = refusal(tcp("127.0.0.1", 25))
        return str(failure), failure.permission

    text, permission = in_child(work)
    assert text == (
        "cannot listen on tcp:127.0.0.1:25: Permission denied (ports below 1024 need root or CAP_NET_BIND_SERVICE)"
    )
    assert permission


@pytest.mark.parametrize(
    ("address", "type", "part"),
    [
        ("192.0.2.1", "tcp", "no such address"),
        ("two..dots", "tcp", "is not an address"),
        ("127.0.0.1", "tcp6", "is not an IPv6 address"),
        ("a" * 300, "tcp", "is not an address"),
    ],
)
def test_addresses_that_cannot_be(address: str, type: str, part: str) -> None:
    failure = refusal(tcp(address, 25999, type))
    assert part in str(failure) and not failure.permission


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o777, 0o000])
def test_a_unix_socket_gets_its_mode(mode: int, tmp_path: Path, doors: list[socket.socket]) -> None:
    before = os.umask(0o022)
    try:
        doors.append(listen.bind(unix(tmp_path / "s", mode=mode), 10))
        assert permissions(tmp_path / "s") == mode
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_without_a_mode_owner_and_group_may_connect_whatever_the_umask(
    umask: int, tmp_path: Path, doors: list[socket.socket]
) -> None:
    before = os.umask(umask)
    try:
        doors.append(listen.bind(unix(tmp_path / "s"), 10))
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert permissions(tmp_path / "s") == 0o660


@pytest.mark.parametrize(
    ("user", "group", "owner"),
    [("nobody", "", (NOBODY, 0)), ("", "1", (0, 1)), ("1", "nogroup", (1, None)), ("", "", (0, 0))],
)
def test_a_unix_socket_gets_its_owner(
    user: str, group: str, owner: tuple[int, int | None], tmp_path: Path, doors: list[socket.socket]
) -> None:
    needs("root")
    doors.append(listen.bind(unix(tmp_path / "s", mode=0o660, user=user, group=group), 10))
    status = (tmp_path / "s").stat()
    expected = owner[1] if owner[1] is not None else grp.getgrnam("nogroup").gr_gid
    assert (status.st_uid, status.st_gid) == (owner[0], expected)
    assert permissions(tmp_path / "s") == 0o660


def test_until_mode_and_owner_are_right_nobody_gets_in(
    tmp_path: Path, doors: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("root")
    seen = []

    def change_owner(file: int, owner: tuple[int, int]) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            seen.append((permissions(tmp_path / "s"), client.connect_ex(str(tmp_path / "s"))))

    monkeypatch.setattr(directory, "_change_owner", change_owner)
    doors.append(listen.bind(unix(tmp_path / "s", mode=0o600, user="nobody"), 10))
    assert seen == [(0o600, 111)]  # ECONNREFUSED even for root


@pytest.mark.parametrize("put", [os.symlink, os.link])
def test_the_directorys_owner_cannot_aim_the_new_owner_at_another_file(
    put: Callable[[Path, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("root")
    (tmp_path / "precious").write_text("x")

    def bind_and_swap(door: socket.socket, path: str) -> None:
        original(door, path)
        os.unlink(path)
        put(tmp_path / "precious", path)

    original = listen.UnixListener.bind
    monkeypatch.setattr(listen.UnixListener, "bind", bind_and_swap)
    assert "has replaced the socket" in str(refusal(unix(tmp_path / "s", mode=0o666, user="nobody")))
    status = (tmp_path / "precious").stat()
    assert status.st_uid == 0 and stat.S_IMODE(status.st_mode) != 0o666


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"user": "no-such-user"}, "there is no user no-such-user"),
        ({"group": "no-such-group"}, "there is no group no-such-group"),
        ({"user": "99999999999"}, "there is no user 99999999999"),
    ],
)
def test_owners_that_do_not_exist(given: dict[str, str], part: str, tmp_path: Path) -> None:
    assert part in str(refusal(unix(tmp_path / "s", **given)))
    assert not (tmp_path / "s").exists()


def test_an_owner_that_we_may_not_give_leaves_nothing_behind(tmp_path: Path) -> None:
    needs("root")
    directory = Path(tempfile.mkdtemp(dir="/tmp"))  # tmp_path lies in a directory that only root may enter
    try:
        directory.chmod(0o777)

        def work() -> tuple[str, bool, list[str]]:
            os.setresuid(NOBODY, NOBODY, NOBODY)
            failure = refusal(unix(directory / "s", user="root"))
            return str(failure), failure.permission, os.listdir(directory)

        text, permission, left = in_child(work)
    finally:
        shutil.rmtree(directory)
    assert "giving it to root:- needs root" in text and permission and left == []


def test_a_directory_that_is_not_ours() -> None:
    needs("root")

    def work() -> tuple[str, bool]:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        failure = refusal(unix("/etc/pfxhttpd-test.sock"))
        return str(failure), failure.permission

    text, permission = in_child(work)
    assert "no right to write in /etc" in text and permission


def test_a_directory_that_is_missing(tmp_path: Path) -> None:
    failure = refusal(unix(tmp_path / "none" / "s"))
    assert f"there is no directory {tmp_path / 'none'}" in str(failure) and not failure.permission


@pytest.mark.parametrize("path", ["", "/tmp/" + "x" * 103, "/tmp/\0x", "/tmp/" + "\u00e9" * 52])
def test_paths_that_no_socket_can_have(path: str) -> None:
    refusal(unix(path))


def test_the_longest_path(doors: list[socket.socket]) -> None:
    path = "/tmp/" + f"{os.getpid():x>102}"
    doors.append(listen.bind(unix(path), 10))
    try:
        assert len(path) == 107 and doors[0].getsockname() == path
    finally:
        os.unlink(path)


def test_a_stale_socket_file_is_replaced(tmp_path: Path, doors: list[socket.socket]) -> None:
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(tmp_path / "s"))
    doors.append(listen.bind(unix(tmp_path / "s"), 10))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))


@pytest.mark.parametrize("backlog", [0, 10])
def test_a_socket_that_something_answers_on_is_left_alone(
    backlog: int, tmp_path: Path, doors: list[socket.socket]
) -> None:
    doors.append(listen.bind(unix(tmp_path / "s"), backlog))
    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.connect(str(tmp_path / "s"))  # fills a backlog of 0
        inode = (tmp_path / "s").stat().st_ino
        assert "something answers there" in str(refusal(unix(tmp_path / "s")))
    assert (tmp_path / "s").stat().st_ino == inode


@pytest.mark.parametrize("kind", ["file", "directory", "link", "datagram", "pipe"])
def test_anything_else_at_the_path_is_left_alone(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as datagram:
        {
            "file": lambda: path.write_text("precious"),
            "directory": path.mkdir,
            "link": lambda: path.symlink_to(tmp_path / "elsewhere"),
            "datagram": lambda: datagram.bind(str(path)),
            "pipe": lambda: os.mkfifo(path),
        }[kind]()
        before = path.lstat()
        refusal(unix(path))
        assert path.lstat() == before


def test_retiring_removes_the_file_that_was_made(tmp_path: Path) -> None:
    door = listen.bind(unix(tmp_path / "s"), 10)
    assert listen.retire(door)
    assert not (tmp_path / "s").exists() and door.fileno() == -1


def test_retiring_leaves_the_file_of_another_server(tmp_path: Path) -> None:
    door = listen.bind(unix(tmp_path / "s"), 10)
    (tmp_path / "s").rename(tmp_path / "kept")  # so that the inode is not used again
    other = listen.bind(unix(tmp_path / "s"), 10)
    assert not listen.retire(door)
    assert (tmp_path / "s").exists()
    assert listen.retire(other)


def test_retiring_without_the_file_or_without_the_right_is_no_error(tmp_path: Path) -> None:
    door = listen.bind(unix(tmp_path / "s"), 10)
    (tmp_path / "s").unlink()
    assert not listen.retire(door)
    assert not listen.retire(listen.bind(tcp("127.0.0.1"), 10))


def test_labels() -> None:
    with socket.socket(socket.AF_INET) as client:
        assert listen.peer_name(client, ("192.0.2.1", 25)) == "192.0.2.1:25"
        assert listen.peer_name(client, ("2001:db8::1", 25, 0, 0)) == "[2001:db8::1]:25"
        assert listen.peer_name(client, ("::ffff:192.0.2.1", 25, 0, 0)) == "192.0.2.1:25"
        assert listen.peer_name(client, ("::ffff:1:2", 25, 0, 0)) == "[::ffff:1:2]:25"


def test_the_label_of_a_local_client_tells_its_process(tmp_path: Path) -> None:
    door = listen.bind(unix(tmp_path / "s"), 10)
    with closing(door), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
        accepted, address = door.accept()
        with accepted:
            assert listen.peer_name(accepted, address) == f"unix:pid={os.getpid()}"


def test_a_socket_of_systemds_gets_the_same_options(doors: list[socket.socket]) -> None:
    plain = socket.create_server(("127.0.0.1", 0))
    doors.append(plain)
    listen.set_tcp_options(plain)
    accepted, _ = reach(plain, "127.0.0.1")
    with accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

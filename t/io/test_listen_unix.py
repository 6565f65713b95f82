"""Unix listeners get their mode and owner before they listen, and replace a dead socket only."""

from __future__ import annotations

import grp
import os
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


def unix(path: Path | str, **given: object) -> Listener:
    return Listener(SOCKET_MAP, "demo", "unix", str(path), **given)  # type: ignore[arg-type]


@pytest.fixture
def opened() -> Iterator[list[socket.socket]]:
    """Sockets that are closed at the end of the test."""
    sockets: list[socket.socket] = []
    yield sockets
    for each in sockets:
        each.close()


def refusal(listener: Listener) -> SetupError:
    with pytest.raises(SetupError) as caught:
        listen.bind(listener, 10)
    assert "\n" not in str(caught.value) and listener.endpoint in str(caught.value)
    return caught.value


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o777, 0o000])
def test_a_unix_socket_gets_its_mode(mode: int, tmp_path: Path, opened: list[socket.socket]) -> None:
    before = os.umask(0o022)
    try:
        opened.append(listen.bind(unix(tmp_path / "s", mode=mode), 10))
        assert permissions(tmp_path / "s") == mode
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_without_a_mode_owner_and_group_may_connect_whatever_the_umask(
    umask: int, tmp_path: Path, opened: list[socket.socket]
) -> None:
    before = os.umask(umask)
    try:
        opened.append(listen.bind(unix(tmp_path / "s"), 10))
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert permissions(tmp_path / "s") == 0o660


@pytest.mark.parametrize(
    ("user", "group", "owner"),
    [("nobody", "", (NOBODY, 0)), ("", "1", (0, 1)), ("1", "nogroup", (1, None)), ("", "", (0, 0))],
)
def test_a_unix_socket_gets_its_owner(
    user: str, group: str, owner: tuple[int, int | None], tmp_path: Path, opened: list[socket.socket]
) -> None:
    needs("root")
    opened.append(listen.bind(unix(tmp_path / "s", mode=0o660, user=user, group=group), 10))
    status = (tmp_path / "s").stat()
    expected = owner[1] if owner[1] is not None else grp.getgrnam("nogroup").gr_gid
    assert (status.st_uid, status.st_gid) == (owner[0], expected)
    assert permissions(tmp_path / "s") == 0o660


def test_until_mode_and_owner_are_right_nobody_gets_in(
    tmp_path: Path, opened: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("root")
    seen = []

    def change_owner(file: int, owner: tuple[int, int]) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            seen.append((permissions(tmp_path / "s"), client.connect_ex(str(tmp_path / "s"))))

    monkeypatch.setattr(directory, "_change_owner", change_owner)
    opened.append(listen.bind(unix(tmp_path / "s", mode=0o600, user="nobody"), 10))
    assert seen == [(0o600, 111)]  # ECONNREFUSED even for root


@pytest.mark.parametrize("put", [os.symlink, os.link])
def test_the_directorys_owner_cannot_aim_the_new_owner_at_another_file(
    put: Callable[[Path, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("root")
    (tmp_path / "precious").write_text("x")

    def bind_and_swap(sock: socket.socket, path: str) -> None:
        original(sock, path)
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


OTHERS = 60001
"""A group that no process of the test is in."""


@pytest.mark.parametrize(
    "given, mode, refused",
    [
        ({"user": "root"}, 0o755, "giving it to root:- needs root"),
        (
            {"group": str(OTHERS)},
            0o755,
            f"giving it to -:{OTHERS} needs root, or for the group alone a directory of that",
        ),
        ({"group": str(OTHERS)}, 0o2755, ""),
        ({"user": str(NOBODY), "group": str(NOBODY)}, 0o755, ""),
    ],
)
def test_without_root_a_socket_is_given_to_the_group_of_a_setgid_directory_only(
    given: dict[str, str], mode: int, refused: str
) -> None:
    """What the start would refuse is refused by the check, too, and leaves nothing behind."""
    needs("root")
    directory = Path(tempfile.mkdtemp(dir="/tmp"))  # tmp_path lies in a directory that only root may enter
    try:
        os.chown(directory, NOBODY, OTHERS)
        directory.chmod(mode)
        listener = unix(directory / "s", **given)

        def work() -> tuple[list[str], int]:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            if not refused:
                listen.check(listener)
                with closing(listen.bind(listener, 10)):
                    return [], os.stat(directory / "s").st_gid
            with pytest.raises(SetupError) as checked:
                listen.check(listener)
            failures = (checked.value, refusal(listener))
            assert all(failure.permission for failure in failures) and os.listdir(directory) == []
            return [str(failure) for failure in failures], 0

        failures, group = in_child(work)
    finally:
        shutil.rmtree(directory)
    assert group == (0 if refused else int(given["group"]))
    assert len(set(failures)) == (1 if refused else 0) and all(refused in failure for failure in failures)


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


def test_the_longest_path(opened: list[socket.socket]) -> None:
    path = "/tmp/" + f"{os.getpid():x>102}"
    opened.append(listen.bind(unix(path), 10))
    try:
        assert len(path) == 107 and opened[0].getsockname() == path
    finally:
        os.unlink(path)


def test_a_stale_socket_file_is_replaced(tmp_path: Path, opened: list[socket.socket]) -> None:
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(tmp_path / "s"))
    opened.append(listen.bind(unix(tmp_path / "s"), 10))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))


@pytest.mark.parametrize("backlog", [0, 10])
def test_a_socket_that_something_answers_on_is_left_alone(
    backlog: int, tmp_path: Path, opened: list[socket.socket]
) -> None:
    opened.append(listen.bind(unix(tmp_path / "s"), backlog))
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

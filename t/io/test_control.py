"""The control socket: made where only its owner can be taken for the server, and asked nowhere else."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.child import in_child
from kit.needs import needs
from kit.places import NOBODY, reachable

from pfxhttpd.io import SetupError, control
from pfxhttpd.io.cache import directory as cache_directory
from pfxhttpd.io.control import ControlError

THEM = (NOBODY, NOBODY)


@pytest.fixture(autouse=True)
def _root() -> None:
    needs("root")


@pytest.fixture
def place() -> Iterator[Path]:
    with reachable() as directory:
        yield directory


def owner(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, stat.S_IMODE(status.st_mode)


def prepared(path: Path, owner: tuple[int, int] | None) -> socket.socket:
    """What a start does."""
    control.make_directory(str(path), owner)
    cache_directory.make(str(path / "cache"), owner)
    return control.bind(str(path), owner)


# -- where it is made -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [THEM, None])
def test_it_belongs_to_the_service_user(given: tuple[int, int] | None, place: Path) -> None:
    user = given[0] if given else 0
    with prepared(place / "run", given):
        assert owner(place / "run") == owner(place / "run" / "cache") == (user, 0o700)
        assert owner(place / "run" / "control.sock") == (user, 0o600)


def test_in_a_directory_of_roots_it_is_made_by_root(place: Path) -> None:
    (place / "run").mkdir(mode=0o755)
    with prepared(place / "run", THEM):
        assert owner(place / "run") == (0, 0o755)
        assert owner(place / "run" / "cache") == (NOBODY, 0o700)
        assert owner(place / "run" / "control.sock") == (NOBODY, 0o600)


def test_it_takes_no_file_that_the_service_user_has_put_there(place: Path) -> None:
    (place / "run").mkdir(mode=0o700)
    os.chown(place / "run", *THEM)
    (place / "run" / "control.sock").symlink_to(place / "precious")
    with pytest.raises(SetupError, match="there is another file at that path"):
        control.bind(str(place / "run"), THEM)
    (place / "run" / "control.sock").unlink()
    (place / "precious").write_text("")
    os.link(place / "precious", place / "run" / "control.sock")
    with pytest.raises(SetupError, match="there is another file at that path"):
        control.bind(str(place / "run"), THEM)
    assert owner(place / "precious")[0] == 0


def test_the_socket_of_a_dead_server_is_replaced_and_that_of_a_living_one_is_not(place: Path) -> None:
    with prepared(place / "run", None):
        with pytest.raises(SetupError, match="running already"):
            control.bind(str(place / "run"))
    control.bind(str(place / "run")).close()
    control.remove(str(place / "run"))
    assert not (place / "run" / "control.sock").exists()


# -- after a run as root --------------------------------------------------------------------------------------------


def test_what_a_run_as_root_has_left_serves_the_service_user(place: Path) -> None:
    """A server that was killed leaves both sockets."""
    prepared(place / "run", None).close()
    with socket.socket(socket.AF_UNIX) as cache:
        cache.bind(str(place / "run" / "cache" / "cache.sock"))
    assert owner(place / "run") == owner(place / "run" / "cache") == (0, 0o700)
    with prepared(place / "run", THEM):
        assert owner(place / "run") == owner(place / "run" / "cache") == (NOBODY, 0o700)
        assert owner(place / "run" / "control.sock") == (NOBODY, 0o600)
        assert os.listdir(place / "run" / "cache") == []


def test_a_server_that_still_runs_as_root_keeps_its_directory(place: Path) -> None:
    with prepared(place / "run", None), pytest.raises(SetupError, match="running already"):
        prepared(place / "run", THEM)
    assert owner(place / "run") == (0, 0o700)


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_a_directory_with_anything_else_in_it_stays_roots(mode: int, place: Path) -> None:
    prepared(place / "run", None).close()
    (place / "run" / "cache").rmdir()
    (place / "run" / "precious").write_text("")
    (place / "run").chmod(mode)
    if mode == 0o700:
        with pytest.raises(SetupError, match="user 65534 cannot use it"):
            prepared(place / "run", THEM)
    else:
        prepared(place / "run", THEM).close()
    assert owner(place / "run") == (0, mode) and owner(place / "run" / "precious")[0] == 0


# -- who is asked ---------------------------------------------------------------------------------------------------


class Impostor:
    """A process of another user's that listens as a server would, and what it was asked."""

    def __init__(self, path: Path, user: int) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path / "control.sock"))
        os.chmod(path / "control.sock", 0o666)

        def listen() -> None:
            os.setresuid(user, user, user)
            self.socket.listen(4)  # the moment whose user SO_PEERCRED tells, unix(7)

        in_child(listen)
        self.asked: list[bytes] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection:
                self.asked.append(connection.recv(4096))
                try:
                    connection.sendall(b'{"ok": true}\n')
                except OSError:
                    pass

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


@pytest.mark.parametrize(
    ("parent", "directory", "user", "refusal"),
    [
        (0o755, 0, 0, ""),
        (0o755, NOBODY, NOBODY, ""),
        (0o755, NOBODY, 0, ""),
        (0o755, NOBODY, 1, "a process of user 1 listens"),
        (0o1777, 0, 0, ""),
        (0o1777, NOBODY, NOBODY, "any user could have made"),
        (0o1777, NOBODY, 0, "any user could have made"),
        (0o777, NOBODY, NOBODY, "any user could have made"),
        (0o1777, 0, 1, "a process of user 1 listens"),
    ],
)
def test_only_a_server_of_root_or_of_the_directorys_rightful_owner_is_asked(
    parent: int, directory: int, user: int, refusal: str, place: Path
) -> None:
    (place / "up").mkdir()
    (place / "up" / "run").mkdir(mode=0o755)
    impostor = Impostor(place / "up" / "run", user)
    os.chown(place / "up" / "run", directory, directory)
    (place / "up").chmod(parent)
    try:
        if refusal:
            with pytest.raises(ControlError, match=refusal):
                control.ask(str(place / "up" / "run"), {"command": "status"}, 5)
            assert not [text for text in impostor.asked if text]
        else:
            assert control.ask(str(place / "up" / "run"), {"command": "status"}, 5) == {"ok": True}
    finally:
        impostor.close()


def test_a_link_of_another_users_is_not_followed(place: Path) -> None:
    (place / "up").mkdir()
    (place / "up").chmod(0o1777)
    prepared(place / "run", None).close()
    (place / "up" / "run").symlink_to(place / "run")
    os.chown(place / "up" / "run", *THEM, follow_symlinks=False)
    with pytest.raises(ControlError, match="Too many levels of symbolic links"):
        control.ask(str(place / "up" / "run"), {"command": "status"}, 5)

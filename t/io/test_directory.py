"""Root makes nothing, and gives nothing away, where a link of another user's leads it."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.child import in_child
from kit.needs import needs
from kit.places import NOBODY, reachable

from pfxhttpd.io import SetupError
from pfxhttpd.io.cache import directory as cache_directory
from pfxhttpd.io.directory import Directory, acting_as, make

THEM = (NOBODY, NOBODY)


@pytest.fixture(autouse=True)
def _root() -> None:
    needs("root")


@pytest.fixture
def place() -> Iterator[Path]:
    with reachable() as directory:
        yield directory


@pytest.fixture
def theirs(place: Path) -> Path:
    """A directory in which the service user can do what it likes."""
    directory = place / "theirs"
    directory.mkdir(mode=0o755)
    os.chown(directory, *THEM)
    return directory


def owner(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, stat.S_IMODE(status.st_mode)


def test_a_new_directory_belongs_to_the_service_user(place: Path) -> None:
    before = os.umask(0o077)
    try:
        make("directory", str(place / "a" / "b" / "run"), THEM)
    finally:
        os.umask(before)
    assert owner(place / "a" / "b" / "run") == (NOBODY, 0o700)
    assert owner(place / "a" / "b") == owner(place / "a") == (0, 0o755), "which that user can enter"


@pytest.mark.parametrize("make_it", [make, lambda _, *given: cache_directory.make(*given)], ids=["any", "cache"])
@pytest.mark.parametrize("present", [True, False], ids=["to a directory", "to nothing"])
def test_a_link_of_the_service_users_leads_nowhere(theirs: Path, place: Path, present: bool, make_it) -> None:
    """It was chmod 0700 and chown, for a directory of the link's choice."""
    precious = place / "precious"
    if present:
        precious.mkdir(mode=0o755)
    (theirs / "cache").symlink_to(precious)
    with pytest.raises(SetupError) as refused:
        make_it("directory", str(theirs / "cache"), THEM)
    assert str(theirs / "cache") in str(refused.value) and "\n" not in str(refused.value)
    assert not present or owner(precious) == (0, 0o755)
    assert present or not precious.exists()


def test_a_link_on_the_way_leads_nowhere(theirs: Path, place: Path) -> None:
    (place / "precious").mkdir(mode=0o755)
    (theirs / "way").symlink_to(place / "precious")
    with pytest.raises(SetupError):
        make("directory", str(theirs / "way" / "run"), THEM)
    assert list((place / "precious").iterdir()) == []


def test_a_link_of_roots_is_followed(theirs: Path, place: Path) -> None:
    (place / "var").mkdir()
    (place / "var" / "run").symlink_to("../theirs/../run")
    (place / "run").mkdir()
    make("directory", str(place / "var" / "run" / "pfxhttp"), THEM)
    assert owner(place / "run" / "pfxhttp") == (NOBODY, 0o700)
    (place / "round").symlink_to("round")
    with pytest.raises(OSError, match="Too many levels"):
        Directory(str(place / "round"))


def test_below_a_directory_of_the_service_users_it_is_made_by_that_user(theirs: Path) -> None:
    os.chown(theirs, NOBODY, 0)
    theirs.chmod(0o3755)  # what root makes here gets another group
    make("directory", str(theirs / "cache"), THEM)
    assert owner(theirs / "cache") == (NOBODY, 0o2700)


def test_below_it_the_missing_parents_are_that_users_as_well(theirs: Path) -> None:
    make("directory", str(theirs / "a" / "run"), THEM)
    assert owner(theirs / "a") == (NOBODY, 0o755) and owner(theirs / "a" / "run") == (NOBODY, 0o700)


def test_what_that_user_may_not_make_is_not_made(place: Path) -> None:
    (place / "others").mkdir()
    os.chown(place / "others", 1, 1)
    (place / "others").chmod(0o755)
    with pytest.raises(SetupError, match="Permission denied") as refused:
        make("directory", str(place / "others" / "run"), THEM)
    assert refused.value.permission and not (place / "others" / "run").exists()


@pytest.mark.parametrize(("given", "wanted"), [(THEM, NOBODY), (None, 0)])
def test_a_directory_of_a_third_user_is_refused(given: tuple[int, int] | None, wanted: int, place: Path) -> None:
    (place / "run").mkdir(mode=0o700)
    os.chown(place / "run", 1, 1)
    with pytest.raises(SetupError, match=f"belongs to user 1; remove it, or give it to user {wanted}"):
        make("directory", str(place / "run"), given)


def test_a_cache_directory_that_that_user_cannot_enter_is_one_line(place: Path) -> None:
    (place / "run").mkdir(mode=0o700)
    with pytest.raises(SetupError, match=r"user 65534 cannot use it \(Permission denied\)"):
        cache_directory.make(str(place / "run" / "cache"), THEM)


def test_a_directory_is_protected_where_only_root_can_replace_it(theirs: Path, place: Path) -> None:
    (theirs / "inner").mkdir()
    (place / "sticky").mkdir()
    (place / "sticky").chmod(0o1777)
    (place / "sticky" / "ours").mkdir()
    (place / "sticky" / "other").mkdir()
    os.chown(place / "sticky" / "other", *THEM)
    found = {}
    for name in ("", "theirs", "theirs/inner", "sticky", "sticky/ours", "sticky/other"):
        with Directory(str(place / name)) as opened:
            found[name] = (opened.protected, opened.exclusive)
    assert found == {
        "": (True, True),
        "theirs": (True, False),
        "theirs/inner": (False, False),
        "sticky": (True, False),
        "sticky/ours": (True, True),
        "sticky/other": (False, False),
    }


def test_a_socket_is_bound_in_the_directory_that_was_opened(theirs: Path, place: Path) -> None:
    """Whatever its path leads to by then."""
    (theirs / "run").mkdir()
    (place / "precious").mkdir()
    with Directory(str(theirs / "run")) as opened, socket.socket(socket.AF_UNIX) as sock:
        (theirs / "run").rename(theirs / "moved")
        (theirs / "run").symlink_to(place / "precious")
        before = os.getcwd()
        opened.bind(sock, "s")
        assert os.getcwd() == before
    assert list((place / "precious").iterdir()) == [] and (theirs / "moved" / "s").is_socket()


def test_acting_as_another_user_is_complete_and_ends(place: Path) -> None:
    def work() -> tuple[object, ...]:
        os.setgroups([0, 4])
        before = (os.getresuid(), os.getresgid(), os.getgroups())
        with acting_as(THEM):
            inside = (os.geteuid(), os.getegid(), os.getgroups(), os.getresuid()[0])
            with pytest.raises(PermissionError):
                (place / "x").mkdir()
        with pytest.raises(ZeroDivisionError), acting_as(THEM):
            raise ZeroDivisionError
        return inside, before == (os.getresuid(), os.getresgid(), os.getgroups())

    assert in_child(work) == ((NOBODY, NOBODY, [NOBODY], 0), True)

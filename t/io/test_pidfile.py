"""The pid file: one server each, and no file that is not one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from kit.child import in_child
from kit.deadline import deadline
from kit.needs import needs
from kit.places import NOBODY, reachable

from pfxhttpd.io import SetupError
from pfxhttpd.io.pidfile import PidFile


def refusal(path: Path | str) -> str:
    with deadline(10), pytest.raises(SetupError) as refused:
        PidFile.take(str(path))
    assert "\n" not in str(refused.value) and str(refused.value).startswith(f"pid file {path}: ")
    return str(refused.value)


def test_it_names_this_process_and_is_removed(tmp_path: Path) -> None:
    (tmp_path / "pid").write_text("999999 and more than a pid")
    taken = PidFile.take(str(tmp_path / "pid"))
    assert (tmp_path / "pid").read_text() == f"{os.getpid()}\n"
    taken.remove()
    assert os.listdir(tmp_path) == []


def test_a_second_server_is_refused(tmp_path: Path) -> None:
    taken = PidFile.take(str(tmp_path / "pid"))
    assert f"running already, pid {os.getpid()}" in in_child(lambda: refusal(tmp_path / "pid"))
    taken.remove()


def test_a_fifo_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pid")
    assert "not a regular file" in refusal(tmp_path / "pid")


@pytest.mark.parametrize("path", ["/dev/null", "/dev/full", "/dev/tty", "/tmp"])
def test_what_is_no_file_is_refused(path: str) -> None:
    refusal(path)


def test_a_link_is_refused_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    (tmp_path / "soft").symlink_to("precious")
    os.link(tmp_path / "precious", tmp_path / "hard")
    assert "symbolic link" in refusal(tmp_path / "soft")
    assert "2 links" in refusal(tmp_path / "hard")
    assert (tmp_path / "precious").read_text() == "x"


def test_a_link_of_another_users_on_the_way_is_refused() -> None:
    needs("root")
    with reachable() as place:
        (place / "theirs").mkdir()
        os.chown(place / "theirs", NOBODY, NOBODY)
        (place / "theirs" / "way").symlink_to(place)
        assert "symbolic link" in refusal(place / "theirs" / "way" / "pid")
        assert not (place / "pid").exists()


def test_another_servers_file_is_not_removed(tmp_path: Path) -> None:
    taken = PidFile.take(str(tmp_path / "pid"))
    (tmp_path / "pid").unlink()
    (tmp_path / "pid").write_text("1\n")
    taken.remove()
    assert (tmp_path / "pid").read_text() == "1\n"

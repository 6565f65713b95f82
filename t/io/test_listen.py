"""Listeners are closed together with their files, and clients have names in the log."""

from __future__ import annotations

import os
import socket
from contextlib import closing
from pathlib import Path

from pfxhttpd.config.settings import SOCKET_MAP, Listener
from pfxhttpd.io import listen


def tcp(address: str) -> Listener:
    return Listener(SOCKET_MAP, "demo", "tcp", address, 0)


def unix(path: Path | str, **given: object) -> Listener:
    return Listener(SOCKET_MAP, "demo", "unix", str(path), **given)  # type: ignore[arg-type]


def test_closing_removes_the_file_that_was_made(tmp_path: Path) -> None:
    sock = listen.bind(unix(tmp_path / "s"), 10)
    assert listen.retire(sock)
    assert not (tmp_path / "s").exists() and sock.fileno() == -1


def test_closing_leaves_the_file_of_another_server(tmp_path: Path) -> None:
    sock = listen.bind(unix(tmp_path / "s"), 10)
    (tmp_path / "s").rename(tmp_path / "kept")  # so that the inode is not used again
    other = listen.bind(unix(tmp_path / "s"), 10)
    assert not listen.retire(sock)
    assert (tmp_path / "s").exists()
    assert listen.retire(other)


def test_closing_without_the_file_or_without_the_right_is_no_error(tmp_path: Path) -> None:
    sock = listen.bind(unix(tmp_path / "s"), 10)
    (tmp_path / "s").unlink()
    assert not listen.retire(sock)
    assert not listen.retire(listen.bind(tcp("127.0.0.1"), 10))


def test_names_of_clients() -> None:
    with socket.socket(socket.AF_INET) as client:
        assert listen.peer_name(client, ("192.0.2.1", 25)) == "192.0.2.1:25"
        assert listen.peer_name(client, ("2001:db8::1", 25, 0, 0)) == "[2001:db8::1]:25"
        assert listen.peer_name(client, ("::ffff:192.0.2.1", 25, 0, 0)) == "192.0.2.1:25"
        assert listen.peer_name(client, ("::ffff:1:2", 25, 0, 0)) == "[::ffff:1:2]:25"


def test_the_name_of_a_local_client_is_its_process_id(tmp_path: Path) -> None:
    sock = listen.bind(unix(tmp_path / "s"), 10)
    with closing(sock), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
        accepted, address = sock.accept()
        with accepted:
            assert listen.peer_name(accepted, address) == f"unix:pid={os.getpid()}"

"""The server of the cache process: whom it serves, and where it listens."""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kit.cache_process import KEY, CacheProcess
from kit.needs import needs

from pfxhttpd.io import SetupError
from pfxhttpd.io.cache import directory as cache_directory
from pfxhttpd.io.cache import server
from pfxhttpd.io.cache.client import CALL_TIMEOUT, CacheClient
from pfxhttpd.io.cache.server import CacheServer

# The cache has 100 ms to answer, which is not enough where other tests keep the processors busy.
pytestmark = pytest.mark.alone

TOLERANCE = 0.3
"""Seconds that a busy test machine may add to any measured time."""
K, L = b"k" * 16, b"l" * 16
TTL, MOST = 60.0, 1000


def put(caller: CacheClient, key: bytes, value: str | None, name: str = "map") -> None:
    caller.put([(key, name, value, time.monotonic())], MOST)


def get(caller: CacheClient, key: bytes) -> str | None:
    return caller.get(key, TTL, [], MOST)


def took(call: Callable[[], object]) -> float:
    before = time.monotonic()
    call()
    return time.monotonic() - before


def until(found: Callable[[], bool], seconds: float = 10.0) -> None:
    """Returns as soon as it is so."""
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, "it never was so"
        select.select([], [], [], 0.002)


# -- unauthenticated clients --------------------------------------------------------------------------------------------


def unauthenticated(cache: CacheProcess) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Without a timeout, connect(2) waits while the backlog is full.
    connection.connect(cache_directory.socket_path(cache.directory))
    connection.settimeout(60.0)
    return connection


def read_all(connection: socket.socket) -> bytes:
    """Everything until the server disconnects. Raises TimeoutError if it does not."""
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    return received


@pytest.mark.usefixtures("unhurried")
def test_the_wrong_key_opens_nothing(cache: CacheProcess, caller: CacheClient) -> None:
    put(caller, K, "value")
    intruder = CacheClient(cache.directory, b"another" * 5)
    assert get(intruder, K) is None and intruder.purge(None, []) is None
    assert get(caller, K) == "value" and caller.losses == 0


@pytest.mark.usefixtures("unhurried")
def test_many_clients_that_do_not_authenticate_delay_no_other_and_are_disconnected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "AUTHENTICATION_TIMEOUT", 0.5)
    # Python's own interval: with another, hundreds of threads would do nothing but take turns.
    with CacheProcess(tmp_path / "cache", switch_interval=sys.getswitchinterval()) as cache:
        known = CacheClient(cache.directory, KEY)
        put(known, K, "value")
        alone = cache.threads()
        silent = [unauthenticated(cache) for _ in range(300)]
        newcomer = CacheClient(cache.directory, KEY)
        assert get(known, K) == get(newcomer, K) == "value"
        assert took(lambda: get(known, K)) < CALL_TIMEOUT + TOLERANCE
        assert all(b"#CHALLENGE#" in read_all(each) for each in silent), "each was challenged, then disconnected"
        until(lambda: cache.threads() <= alone + 1)
        read_all(unauthenticated(cache))
        assert get(known, K) == get(newcomer, K) == "value"
        assert known.losses == newcomer.losses == 0, "a client that has authenticated itself may stay silent"


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize(
    "sent",
    [b"\0" * 100, struct.pack("!i", 2**31 - 1), struct.pack("!i", -1) + b"\xff" * 8, b""],
    ids=["zeros", "a huge length", "a huger length", "the end"],
)
def test_what_they_send_ends_their_connection_and_no_other(
    cache: CacheProcess, caller: CacheClient, sent: bytes
) -> None:
    put(caller, K, "value")
    with unauthenticated(cache) as connection:
        connection.recv(4096)
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        read_all(connection)
    assert get(caller, K) == "value" and caller.losses == 0


# -- where it listens ---------------------------------------------------------------------------------------------------


def refusal(directory: Path) -> str:
    with pytest.raises(SetupError) as refused:
        CacheServer(str(directory), KEY, lambda *_: None)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_it_listens_only_in_a_directory_that_no_other_user_can_enter(tmp_path: Path) -> None:
    ours = tmp_path / "cache"
    cache_directory.make(str(ours))
    assert ours.stat().st_mode & 0o777 == 0o700
    for mode in (0o750, 0o707, 0o701):
        ours.chmod(mode)
        assert "ours alone" in refusal(ours)
    assert "No such file" in refusal(tmp_path / "absent")
    assert "too long" in refusal(long_directory(tmp_path))


def long_directory(tmp_path: Path) -> Path:
    found = tmp_path / ("x" * 100)
    cache_directory.make(str(found))
    return found


def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    needs("root")
    theirs = tmp_path / "cache"
    theirs.mkdir(mode=0o700)
    os.chown(theirs, 65534, 65534)
    assert "ours alone" in refusal(theirs)


@pytest.mark.usefixtures("unhurried")
def test_the_socket_of_a_process_that_died_is_replaced_and_the_last_one_removed(tmp_path: Path) -> None:
    cache = CacheProcess(tmp_path / "cache")
    for _ in range(2):
        cache.start()
        caller = CacheClient(cache.directory, KEY)
        put(caller, K, "value")
        assert get(caller, K) == "value"
        cache.kill()
    assert os.path.exists(cache_directory.socket_path(cache.directory))
    cache_directory.remove_socket(cache.directory)
    assert os.listdir(cache.directory) == []
    cache_directory.remove_socket(cache.directory)


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="Not a directory"):
        cache_directory.make(str(tmp_path / "file" / "cache"))

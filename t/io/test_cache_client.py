"""A call to the cache ends in time, whatever the cache process does, or another process that listens on its socket."""

from __future__ import annotations

import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kit.cache_process import KEY, CacheProcess
from kit.child import in_child

from pfxhttpd.io.cache import client
from pfxhttpd.io.cache import directory as cache_directory
from pfxhttpd.io.cache.client import CALL_TIMEOUT, PAUSES, PUT_TIMEOUT, CacheClient

# The cache has 100 ms to answer, which is not enough where other tests keep the processors busy.
pytestmark = pytest.mark.alone

TOLERANCE = 0.3
"""Seconds that a busy test machine may add to any measured time."""
K, L = b"k" * 16, b"l" * 16
TTL, MOST = 60.0, 1000


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAUSES", (0.0,))


def put(caller: CacheClient, key: bytes, value: str | None, name: str = "map") -> None:
    caller.put([(key, name, value, time.monotonic())], MOST)


def surely_put(caller: CacheClient, key: bytes, value: str) -> None:
    """The same in a test that is about time, for what is not."""
    with pytest.MonkeyPatch.context() as patch:
        for limit in ("CALL_TIMEOUT", "PUT_TIMEOUT"):
            patch.setattr(client, limit, 5.0)
        put(caller, key, value)


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


# -- what it is for -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unhurried")
def test_what_one_process_puts_another_gets(cache: CacheProcess, caller: CacheClient) -> None:
    put(caller, K, "ünï ☂ \U0001f4ee")
    assert in_child(lambda: get(CacheClient(cache.directory, KEY), K)) == "ünï ☂ \U0001f4ee"
    assert get(caller, L) is None
    put(caller, K, None)
    assert get(caller, K) is None
    assert caller.losses == 0
    assert cache.row.read() == {"entries": 0, "bytes": 0, "hits": 1, "misses": 2, "evictions": 0}


@pytest.mark.usefixtures("unhurried")
def test_what_is_handed_over_with_a_question_counts_for_its_answer(caller: CacheClient) -> None:
    put(caller, K, "old")
    assert caller.get(K, TTL, [(K, "map", "new", time.monotonic())], MOST) == "new"
    assert caller.get(K, TTL, [(K, "map", None, time.monotonic())], MOST) is None


@pytest.mark.usefixtures("unhurried")
def test_purging_tells_how_many(cache: CacheProcess, caller: CacheClient) -> None:
    for number in range(5):
        put(caller, bytes([number]) * 16, "value", "map" if number < 3 else "policy")
    assert caller.purge("map", [bytes([0]) * 16]) == 1
    assert caller.purge("map", []) == 2
    assert caller.purge("map", []) == 0
    assert caller.purge(None, []) == 2
    assert cache.row.read()["bytes"] == 0


@pytest.mark.usefixtures("unhurried")
def test_full_it_stays_within_its_bounds(cache: CacheProcess, caller: CacheClient) -> None:
    for number in range(300):
        caller.put([(number.to_bytes(16, "big"), "map", "x" * 100_000, time.monotonic())], 100)
    assert caller.losses == 0
    counts = cache.row.read()
    assert (counts["entries"], counts["evictions"]) == (100, 200)
    assert get(caller, (299).to_bytes(16, "big")) == "x" * 100_000
    assert get(caller, (199).to_bytes(16, "big")) is None


@pytest.mark.usefixtures("unhurried")
def test_many_at_once_do_not_get_into_each_others_way(cache: CacheProcess) -> None:
    """Each has a thread in the table's process; few keys and little room make them meet."""
    others, rounds = 6, 150

    def work(number: int) -> None:
        mine = CacheClient(cache.directory, KEY)
        for turn in range(rounds):
            keys = [(number * turn + each) % 40 for each in range(20)]
            items = [(bytes([key]) * 16, "map", "x" * key, time.monotonic()) for key in keys]
            if turn % 2:
                mine.put(items, 20)
            found = mine.get(bytes([keys[0]]) * 16, TTL, [] if turn % 2 else items, 20)
            assert found is None or found == "x" * keys[0]
            if turn % 3 == 0:
                mine.purge("map", [])
        assert mine.losses == 0, "a call failed"

    def all_work() -> None:
        failures = []

        def safely(number: int) -> None:
            try:
                work(number)
            except AssertionError as failure:
                failures.append(str(failure))

        threads = [threading.Thread(target=safely, args=(number,)) for number in range(others)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, failures

    in_child(all_work, timeout=60)
    last = CacheClient(cache.directory, KEY)
    last.purge(None, [])
    assert cache.row.read()["entries"] == cache.row.read()["bytes"] == 0


@pytest.mark.usefixtures("unhurried")
def test_a_defect_over_there_is_nothing_known_over_here(cache: CacheProcess, caller: CacheClient) -> None:
    put(caller, K, "value")
    assert caller.get(K, "no number", [], MOST) is None
    assert caller.losses > 0
    assert get(CacheClient(cache.directory, KEY), K) == "value"


def test_it_can_be_reached_ahead_of_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = CacheProcess(tmp_path / "cache")
    early = CacheClient(cache.directory, KEY)
    opening = threading.Thread(target=early.connect, args=(10.0,))
    opening.start()
    cache.start()
    opening.join()
    monkeypatch.setattr(CacheClient, "_connect", None)
    for limit in ("CALL_TIMEOUT", "PUT_TIMEOUT"):
        monkeypatch.setattr(client, limit, 5.0)
    put(early, K, "value")
    assert get(early, K) == "value" and early.losses == 0
    cache.kill()


@pytest.mark.parametrize("stopped", [True, False])
def test_reaching_it_ahead_of_need_ends_in_time_and_is_no_failure(cache: CacheProcess, stopped: bool) -> None:
    early = CacheClient(cache.directory, KEY)
    if stopped:
        cache.pause()
    else:
        cache.kill()
    assert 0.05 < took(lambda: early.connect(0.1)) < 0.1 + TOLERANCE
    if stopped:
        cache.signal(signal.SIGCONT)
    else:
        cache.start()
    surely_put(early, K, "value")
    assert get(CacheClient(cache.directory, KEY), K) == "value"


# -- when it is slow, stopped or gone -----------------------------------------------------------------------------------


def test_without_a_table_there_is_nothing_and_no_wait(tmp_path: Path) -> None:
    alone = CacheClient(str(tmp_path), KEY)
    assert took(lambda: put(alone, K, "value")) < TOLERANCE
    assert get(alone, K) is None
    assert alone.purge(None, []) is None
    assert alone.losses > 0


@pytest.mark.parametrize("connected", [True, False])
def test_a_stopped_table_costs_one_limit_a_call_and_soon_nothing_for_a_while(
    cache: CacheProcess, caller: CacheClient, connected: bool
) -> None:
    if connected:
        surely_put(caller, K, "value")
    cache.pause()
    first = took(lambda: get(caller, K))
    for _ in PAUSES[2:]:
        get(caller, K)
    rest = took(lambda: [get(caller, K) for _ in range(1000)])
    cache.signal(signal.SIGCONT)
    assert CALL_TIMEOUT * 0.9 < first < CALL_TIMEOUT + TOLERANCE, first
    assert rest < TOLERANCE, rest
    assert caller.losses > 0


def test_writes_to_a_stopped_table_are_not_awaited_for_long(cache: CacheProcess, caller: CacheClient) -> None:
    """They are stored when it goes on."""
    surely_put(caller, K, "value")
    cache.pause()
    assert took(lambda: put(caller, L, "other")) < PUT_TIMEOUT + TOLERANCE
    cache.signal(signal.SIGCONT)
    until(lambda: get(caller, L) == "other")


def test_a_late_reply_costs_neither_the_connection_nor_the_next_answer(
    cache: CacheProcess, caller: CacheClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine so busy that the cache is slow, though it works."""
    surely_put(caller, K, "value")
    monkeypatch.setattr(CacheClient, "_connect", None)  # another connection would be an error
    for _ in range(3):
        cache.pause()
        assert get(caller, K) is None
        cache.signal(signal.SIGCONT)
        until(lambda: get(caller, K) == "value")


def test_it_is_tried_again_after_the_pause(
    cache: CacheProcess, caller: CacheClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAUSES", (0.1,))
    surely_put(caller, K, "value")
    cache.pause()
    assert get(caller, K) is None
    cache.signal(signal.SIGCONT)
    until(lambda: get(caller, K) == "value")


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next_one(
    cache: CacheProcess, caller: CacheClient, no_pause: None
) -> None:
    surely_put(caller, K, "of K")
    surely_put(caller, L, "of L")
    cache.pause()
    assert get(caller, K) is None
    cache.signal(signal.SIGCONT)
    until(lambda: get(caller, L) is not None)
    assert [get(caller, L), get(caller, K)] == ["of L", "of K"]


@pytest.mark.usefixtures("unhurried")
def test_a_new_table_is_used_at_once_and_the_loss_is_told(cache: CacheProcess, caller: CacheClient) -> None:
    put(caller, K, "value")
    assert caller.losses == 0
    cache.kill()
    cache.start()
    assert get(caller, K) is None
    assert caller.losses == 1
    put(caller, K, "value")
    assert get(caller, K) == "value"
    assert caller.losses == 1


def test_what_is_put_during_a_pause_counts_as_lost(tmp_path: Path) -> None:
    alone = CacheClient(str(tmp_path), KEY)
    put(alone, K, "value")
    before = alone.losses
    put(alone, K, "value")
    assert alone.losses > before


class Impostor:
    """Something else that listens where the table should; `act` is done with each connection, in a thread."""

    def __init__(self, directory: Path, act: Callable[[socket.socket], None]) -> None:
        cache_directory.make(str(directory))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(cache_directory.socket_path(str(directory)))
        self._socket.listen(100)
        self._act = act
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with connection:
            try:
                self._act(connection)
            except OSError:
                pass

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _silently(connection: socket.socket) -> None:
    connection.recv(1)


def _byte_by_byte(connection: socket.socket) -> None:
    """Each byte comes within the time limit of one read."""
    for byte in struct.pack("!i", 28) + b"#CHALLENGE#" + b"x" * 17:
        if select.select([connection], [], [], 0.03)[0]:
            return
        connection.sendall(bytes([byte]))


def _by_saying(*words: bytes) -> Callable[[socket.socket], None]:
    def act(connection: socket.socket) -> None:
        for word in words:
            connection.sendall(word)
            connection.recv(4096)

    return act


def _message(text: bytes) -> bytes:
    return struct.pack("!i", len(text)) + text


STRANGE = {
    "silence": _silently,
    "a byte every 30 ms": _byte_by_byte,
    "the end": _by_saying(),
    "garbage": _by_saying(b"220 mx.example.test ESMTP\r\n"),
    "a length below zero": _by_saying(struct.pack("!i", -1)),
    "a length of a gigabyte": _by_saying(struct.pack("!i", 2**30)),
    "no challenge": _by_saying(_message(b"hello")),
    "a challenge that nothing satisfies": _by_saying(_message(b"#CHALLENGE#" + b"x" * 20), _message(b"#FAILURE#")),
    "a welcome without proof": _by_saying(
        _message(b"#CHALLENGE#" + b"x" * 20), _message(b"#WELCOME#"), _message(b"no")
    ),
}


@pytest.mark.parametrize("act", STRANGE.values(), ids=STRANGE)
def test_whatever_listens_there_instead_is_given_up_in_time(
    tmp_path: Path, act: Callable[[socket.socket], None]
) -> None:
    impostor = Impostor(tmp_path / "cache", act)
    caller = CacheClient(str(tmp_path / "cache"), KEY)
    spent = took(lambda: put(caller, K, "value"))
    assert get(caller, K) is None
    impostor.close()
    assert spent < CALL_TIMEOUT + TOLERANCE
    assert caller.losses > 0


def test_a_queue_of_connections_that_nobody_takes_is_given_up_in_time(tmp_path: Path) -> None:
    cache_directory.make(str(tmp_path / "cache"))
    path = cache_directory.socket_path(str(tmp_path / "cache"))
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as filler:
        listening.bind(path)
        listening.listen(0)
        filler.connect(path)
        caller = CacheClient(str(tmp_path / "cache"), KEY)
        assert took(lambda: put(caller, K, "value")) < CALL_TIMEOUT + TOLERANCE
        assert caller.losses > 0

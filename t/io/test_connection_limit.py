"""The quota of connections per origin, held over processes that come, wait and die."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest
from kit.scripted import Idle, Receive, ReceiveEnd, Scripted, Send, Signal, WaitFor
from kit.transports import ours

from pfxhttpd.io.connection_limit import ConnectionLimit, Permit, lock_file

HERE, THERE = ("http", "a.example", 80), ("http", "b.example", 80)
FORK = multiprocessing.get_context("fork")
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def file() -> Iterator[int]:
    opened = lock_file()
    yield opened
    os.close(opened)


def soon() -> float:
    return time.monotonic() + 0.05


def later() -> float:
    return time.monotonic() + 10


class Worker:
    """A process that takes and gives back places when told to."""

    def __init__(self, file: int, limit: int, workers: int = 99) -> None:
        self._mine, theirs = FORK.Pipe()
        self.process = FORK.Process(target=_work, args=(theirs, file, limit, workers), daemon=True)
        self.process.start()
        theirs.close()

    def begin(self, verb: str, *arguments: object) -> None:
        self._mine.send((verb, arguments))

    def end(self, timeout: float = 10.0) -> object:
        assert self._mine.poll(timeout), "no answer"
        return self._mine.recv()

    def do(self, verb: str, *arguments: object) -> object:
        self.begin(verb, *arguments)
        return self.end()

    def stop(self) -> None:
        self.process.kill()
        self.process.join()


def _work(talk: Connection, file: int, limit: int, workers: int) -> None:
    quota = ConnectionLimit(file, limit, workers)
    while True:
        verb, arguments = talk.recv()
        try:
            talk.send(getattr(quota, verb)(*arguments))
        except TimeoutError:
            talk.send("timed out")


@pytest.fixture
def team(file: int) -> Iterator[list[Worker]]:
    """Three workers that share two places per origin."""
    workers = [Worker(file, 2) for _ in range(3)]
    yield workers
    for worker in workers:
        worker.stop()


def test_no_more_than_the_limit(team: list[Worker]):
    one, two, three = team
    places = {one.do("acquire", HERE, later()), two.do("acquire", HERE, later())}
    assert len(places) == 2
    assert three.do("acquire", HERE, soon()) == "timed out"


def test_one_worker_may_hold_several(team: list[Worker]):
    one, two, _ = team
    assert len({one.do("acquire", HERE, later()) for _ in range(2)}) == 2
    assert one.do("acquire", HERE, soon()) == "timed out"
    assert two.do("acquire", HERE, soon()) == "timed out"


def test_each_origin_has_its_own(team: list[Worker]):
    for worker in team[:2]:
        worker.do("acquire", HERE, later())
    assert isinstance(team[2].do("acquire", THERE, soon()), Permit)
    assert isinstance(team[2].do("acquire", ("http", "a.example", 81), soon()), Permit)


def test_a_place_given_back_is_free(team: list[Worker]):
    one, two, three = team
    place = one.do("acquire", HERE, later())
    two.do("acquire", HERE, later())
    three.begin("acquire", HERE, later())
    while not one.do("is_contended", place):
        pass
    one.do("release", place)
    assert three.end() == place


def test_a_place_is_wanted_only_while_somebody_waits(team: list[Worker]):
    one, two, three = team
    place = one.do("acquire", HERE, later())
    two.do("acquire", HERE, later())
    assert one.do("is_contended", place) is False
    three.begin("acquire", HERE, time.monotonic() + 0.5)
    while not one.do("is_contended", place):
        pass
    assert three.end() == "timed out"
    assert one.do("is_contended", place) is False


def test_who_waits_is_not_overtaken(team: list[Worker]):
    """Two hold the places and want the next one at once; the third waits and gets its turn all the same."""
    for worker in team[:2]:
        worker.held = worker.do("acquire", HERE, later())
    team[2].begin("acquire", HERE, later())
    while not team[0].do("is_contended", team[0].held):
        pass
    team[0].do("release", team[0].held)
    assert team[0].do("acquire", HERE, soon()) == "timed out"
    assert isinstance(team[2].end(), Permit)


def test_the_dead_hold_nothing(team: list[Worker]):
    one, two, three = team
    place = one.do("acquire", HERE, later())
    two.do("acquire", HERE, later())
    os.kill(one.process.pid, signal.SIGKILL)
    assert three.do("acquire", HERE, later()) == place


def test_the_dead_do_not_wait(team: list[Worker]):
    one, two, three = team
    place = one.do("acquire", HERE, later())
    two.do("acquire", HERE, later())
    three.begin("acquire", HERE, later())
    while not one.do("is_contended", place):
        pass
    os.kill(three.process.pid, signal.SIGKILL)
    three.process.join()
    assert one.do("is_contended", place) is False


def test_everybody_gets_a_turn(file: int):
    """Eight workers and two places: each takes one, gives it back and wants the next, like workers under load."""
    counts = FORK.Array("i", 8)
    together = FORK.Value("i", 0)
    most = FORK.Value("i", 0)

    def work(number: int) -> None:
        quota = ConnectionLimit(file, 2, 8)
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            place = quota.acquire(HERE, end + 10)
            with together.get_lock():
                together.value += 1
                most.value = max(most.value, together.value)
            threading.Event().wait(0.003)
            with together.get_lock():
                together.value -= 1
            quota.release(place)
            counts[number] += 1

    workers = [FORK.Process(target=work, args=(number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert most.value == 2
    assert min(counts) * 6 >= max(counts) > 0, list(counts)


def test_nobody_asks_twice_where_there_is_enough(file: int):
    quota = ConnectionLimit(file, limit=3, workers=3)
    assert not quota.scarce and quota.linger == float("inf")
    assert quota.is_contended(quota.acquire(HERE, later())) is False


# -- and the transport ----------------------------------------------------------------------------------------------


def test_the_transport_gives_back_what_it_closes(file: int):
    rival = Worker(file, 1)
    with (
        ours(limiter=ConnectionLimit(file, 1, 2)) as way,
        Scripted([Receive(), Send(GOOD), ReceiveEnd(), Signal("closed")]) as server,
    ):
        origin = ("http", "127.0.0.1", server.port)
        assert way.outcome(server.url).body == b"ok"
        assert rival.do("acquire", origin, soon()) == "timed out", "a kept connection holds its place"
        way.adapter.expire(time.monotonic() + 1)
        server.wait("closed")
        assert isinstance(rival.do("acquire", origin, soon()), Permit)
    rival.stop()


def test_the_transport_keeps_none_that_another_waits_for(file: int):
    rival = Worker(file, 1)
    with ours(limiter=ConnectionLimit(file, 1, 2)) as way:
        with Scripted([Receive(), WaitFor("go"), Send(GOOD), ReceiveEnd(), Signal("closed")]) as server:
            origin = ("http", "127.0.0.1", server.port)
            asking = threading.Thread(target=way.outcome, args=[server.url])
            asking.start()
            server.wait_received(1)
            rival.begin("acquire", origin, later())
            await_waiting(file, origin)
            server.go("go")
            asking.join()
            server.wait("closed")
            assert isinstance(rival.end(), Permit)
    rival.stop()


def await_waiting(file: int, origin: tuple[str, str, int]) -> None:
    """Returns when somebody stands in the origin's turnstile."""
    scratch, onlooker = lock_file(), Worker(file, 1)
    place = ConnectionLimit(scratch, 1, 2).acquire(origin, later())
    os.close(scratch)
    while not onlooker.do("is_contended", place):
        pass
    onlooker.stop()


def test_the_transport_times_out_without_a_place(file: int):
    rival = Worker(file, 1)
    with ours(limiter=ConnectionLimit(file, 1, 2)) as way, Scripted([Idle()]) as server:
        rival.do("acquire", ("http", "127.0.0.1", server.port), later())
        assert way.outcome(server.url, timeout=0.2).error == "ConnectTimeout"
        assert server.connections == 0
    rival.stop()


@pytest.mark.parametrize(
    "script",
    [[], [Receive()], [Receive(), Send(b"garbage")], [Receive(), Send(GOOD + b"more"), Idle()]],
    ids=["no answer", "a close", "garbage", "surplus"],
)
def test_the_transport_gives_back_after_every_end(file: int, script: list):
    rival = Worker(file, 1)
    with ours(limiter=ConnectionLimit(file, 1, 2)) as way, Scripted(script) as server:
        way.outcome(server.url)
        assert isinstance(rival.do("acquire", ("http", "127.0.0.1", server.port), soon()), Permit)
    rival.stop()


def test_the_transport_gives_back_what_it_could_not_open(file: int):
    rival = Worker(file, 1)
    with ours(limiter=ConnectionLimit(file, 1, 2)) as way:
        assert way.outcome("http://127.0.0.1:1/").error == "ConnectionError"
        assert isinstance(rival.do("acquire", ("http", "127.0.0.1", 1), soon()), Permit)
    rival.stop()

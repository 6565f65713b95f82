"""The limit of connections per origin holds over processes that start, wait and die."""

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

from pfxhttpd.io.backend_connection_limit import ConnectionLimit, Permit, lock_file

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
    """A process that acquires and releases permits on command."""

    def __init__(self, file: int, limit: int, workers: int = 99, *idle: int) -> None:
        self._mine, theirs = FORK.Pipe()
        self.process = FORK.Process(target=_work, args=(theirs, file, limit, workers, *idle), daemon=True)
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


def _work(pipe: Connection, file: int, limit: int, workers: int, *idle: int) -> None:
    limiter = ConnectionLimit(file, limit, workers, *idle)
    while True:
        verb, arguments = pipe.recv()
        try:
            pipe.send(getattr(limiter, verb)(*arguments))
        except TimeoutError:
            pipe.send("timed out")


@pytest.fixture
def workers(file: int) -> Iterator[list[Worker]]:
    """Three workers that share two permits per origin."""
    started = [Worker(file, 2) for _ in range(3)]
    yield started
    for worker in started:
        worker.stop()


def test_no_more_than_the_limit(workers: list[Worker]):
    one, two, three = workers
    permits = {one.do("acquire", HERE, later()), two.do("acquire", HERE, later())}
    assert len(permits) == 2
    assert three.do("acquire", HERE, soon()) == "timed out"


def test_one_worker_may_hold_several(workers: list[Worker]):
    one, two, _ = workers
    assert len({one.do("acquire", HERE, later()) for _ in range(2)}) == 2
    assert one.do("acquire", HERE, soon()) == "timed out"
    assert two.do("acquire", HERE, soon()) == "timed out"


def test_each_origin_has_its_own(workers: list[Worker]):
    for worker in workers[:2]:
        worker.do("acquire", HERE, later())
    assert isinstance(workers[2].do("acquire", THERE, soon()), Permit)
    assert isinstance(workers[2].do("acquire", ("http", "a.example", 81), soon()), Permit)


def contended_permit(workers: list[Worker]) -> Permit:
    """The first worker's permit; the second has the other one, and the third waits for either."""
    one, two, three = workers
    permit: Permit = one.do("acquire", HERE, later())
    two.do("acquire", HERE, later())
    three.begin("acquire", HERE, later())
    while not one.do("is_contended", permit):
        pass
    return permit


def test_a_released_permit_is_free(workers: list[Worker]):
    one, _, three = workers
    permit = contended_permit(workers)
    one.do("release", permit)
    assert three.end() == permit


def test_a_permit_is_contended_only_while_another_process_waits(workers: list[Worker]):
    one, two, three = workers
    permit = one.do("acquire", HERE, later())
    two.do("acquire", HERE, later())
    assert one.do("is_contended", permit) is False
    three.begin("acquire", HERE, time.monotonic() + 0.5)
    while not one.do("is_contended", permit):
        pass
    assert three.end() == "timed out"
    assert one.do("is_contended", permit) is False


def test_a_process_that_waits_is_not_overtaken(workers: list[Worker]):
    """Two hold the permits and try to acquire the next one at once; the third waits and gets its turn all the same."""
    for worker in workers[:2]:
        worker.held = worker.do("acquire", HERE, later())
    workers[2].begin("acquire", HERE, later())
    while not workers[0].do("is_contended", workers[0].held):
        pass
    workers[0].do("release", workers[0].held)
    assert workers[0].do("acquire", HERE, soon()) == "timed out"
    assert isinstance(workers[2].end(), Permit)


def test_a_dead_process_holds_no_permit(workers: list[Worker]):
    one, two, three = workers
    permit = one.do("acquire", HERE, later())
    two.do("acquire", HERE, later())
    os.kill(one.process.pid, signal.SIGKILL)
    assert three.do("acquire", HERE, later()) == permit


def test_a_dead_process_does_not_wait(workers: list[Worker]):
    one, _, three = workers
    permit = contended_permit(workers)
    os.kill(three.process.pid, signal.SIGKILL)
    three.process.join()
    assert one.do("is_contended", permit) is False


def test_every_process_gets_its_turn(file: int):
    """Eight workers and two permits: each takes one, releases it and acquires the next, like workers under load."""
    counts = FORK.Array("i", 8)
    together = FORK.Value("i", 0)
    most = FORK.Value("i", 0)

    def work(number: int) -> None:
        limiter = ConnectionLimit(file, 2, 8)
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            permit = limiter.acquire(HERE, end + 10)
            with together.get_lock():
                together.value += 1
                most.value = max(most.value, together.value)
            threading.Event().wait(0.003)
            with together.get_lock():
                together.value -= 1
            limiter.release(permit)
            counts[number] += 1

    workers = [FORK.Process(target=work, args=(number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert most.value == 2
    assert min(counts) * 6 >= max(counts) > 0, list(counts)


def test_nothing_is_checked_where_there_are_enough_permits(file: int):
    limiter = ConnectionLimit(file, limit=3, workers=3)
    assert not limiter.scarce and limiter.linger == float("inf")
    assert limiter.is_contended(limiter.acquire(HERE, later())) is False


# -- idle connections -----------------------------------------------------------------------------------------------


@pytest.fixture
def keepers(file: int) -> Iterator[list[Worker]]:
    """Three workers that may keep two idle connections, one to each origin."""
    workers = [Worker(file, 99, 3, 2, 1) for _ in range(3)]
    yield workers
    for worker in workers:
        worker.stop()


def test_idle_connections_are_limited_in_all_and_for_each_origin(keepers: list[Worker]):
    one, two, three = keepers
    here, there, elsewhere = (
        worker.do("acquire", origin, later())
        for worker, origin in zip(keepers, (HERE, THERE, ("http", "c.example", 80)), strict=True)
    )
    also_here = two.do("acquire", HERE, later())
    assert one.do("keep_idle", here) is True
    assert two.do("keep_idle", also_here) is False, "this origin has its one already"
    assert two.do("keep_idle", there) is True
    assert three.do("keep_idle", elsewhere) is False, "there are two in all"
    one.do("end_idle", here)
    assert three.do("keep_idle", elsewhere) is True
    two.do("release", there)
    assert two.do("keep_idle", also_here) is True


def test_the_idle_connections_of_a_dead_worker_are_not_counted(keepers: list[Worker]):
    one, two, _ = keepers
    assert one.do("keep_idle", one.do("acquire", HERE, later())) is True
    permit = two.do("acquire", HERE, later())
    assert two.do("keep_idle", permit) is False
    os.kill(one.process.pid, signal.SIGKILL)
    one.process.join()
    assert two.do("keep_idle", permit) is True


@pytest.mark.parametrize(
    ("idle", "idle_per_host", "max_idle", "scarce"),
    [(20, 20, 5, False), (4, 4, 1, False), (3, 4, 3, True), (4, 3, 1, True), (0, 4, 0, False), (3, 0, 0, False)],
)
def test_permits_for_idle_connections_are_used_only_where_workers_have_to_share(
    idle: int, idle_per_host: int, max_idle: int, scarce: bool, file: int
):
    limiter = ConnectionLimit(file, 99, 4, idle, idle_per_host)
    assert (limiter.max_idle, limiter.idle_scarce) == (max_idle, scarce)


# -- and the transport ----------------------------------------------------------------------------------------------


def test_the_transport_releases_the_permit_of_a_connection_it_closes(file: int):
    other = Worker(file, 1)
    with (
        ours(limiter=ConnectionLimit(file, 1, 2)) as way,
        Scripted([Receive(), Send(GOOD), ReceiveEnd(), Signal("closed")]) as server,
    ):
        origin = ("http", "127.0.0.1", server.port)
        assert way.outcome(server.url).body == b"ok"
        assert other.do("acquire", origin, soon()) == "timed out", "a pooled connection holds its permit"
        way.adapter.expire(time.monotonic() + 1)
        server.wait("closed")
        assert isinstance(other.do("acquire", origin, soon()), Permit)
    other.stop()


def test_the_transport_pools_no_connection_that_another_process_waits_for(file: int):
    other = Worker(file, 1)
    with ours(limiter=ConnectionLimit(file, 1, 2)) as way:
        with Scripted([Receive(), WaitFor("go"), Send(GOOD), ReceiveEnd(), Signal("closed")]) as server:
            origin = ("http", "127.0.0.1", server.port)
            asking = threading.Thread(target=way.outcome, args=[server.url])
            asking.start()
            server.wait_received(1)
            other.begin("acquire", origin, later())
            await_waiting(file, origin)
            server.go("go")
            asking.join()
            server.wait("closed")
            assert isinstance(other.end(), Permit)
    other.stop()


def await_waiting(file: int, origin: tuple[str, str, int]) -> None:
    """Returns when a process waits at the origin's gate."""
    scratch, onlooker = lock_file(), Worker(file, 1)
    permit = ConnectionLimit(scratch, 1, 2).acquire(origin, later())
    os.close(scratch)
    while not onlooker.do("is_contended", permit):
        pass
    onlooker.stop()


def test_the_transport_times_out_without_a_permit(file: int):
    other = Worker(file, 1)
    with ours(limiter=ConnectionLimit(file, 1, 2)) as way, Scripted([Idle()]) as server:
        other.do("acquire", ("http", "127.0.0.1", server.port), later())
        assert way.outcome(server.url, timeout=0.2).error == "ConnectTimeout"
        assert server.connections == 0
    other.stop()


@pytest.mark.parametrize(
    "script",
    [[], [Receive()], [Receive(), Send(b"garbage")], [Receive(), Send(GOOD + b"more"), Idle()]],
    ids=["no answer", "a close", "garbage", "surplus"],
)
def test_the_transport_releases_the_permit_however_an_exchange_ends(file: int, script: list):
    other = Worker(file, 1)
    with ours(limiter=ConnectionLimit(file, 1, 2)) as way, Scripted(script) as server:
        way.outcome(server.url)
        assert isinstance(other.do("acquire", ("http", "127.0.0.1", server.port), soon()), Permit)
    other.stop()


def test_the_transport_releases_the_permit_of_a_connection_that_failed(file: int):
    other = Worker(file, 1)
    with ours(limiter=ConnectionLimit(file, 1, 2)) as way:
        assert way.outcome("http://127.0.0.1:1/").error == "ConnectionError"
        assert isinstance(other.do("acquire", ("http", "127.0.0.1", 1), soon()), Permit)
    other.stop()

"""The count of the connections that wait in a ready queue, which decides whether new ones are accepted."""

from __future__ import annotations

import os
import resource
import select
import socket
import time
from collections.abc import Iterator

import pytest
from kit.child import in_child

from pfxhttpd.io import handoff
from pfxhttpd.io.handoff import Connection, Receiver
from pfxhttpd.io.scoreboard import Scoreboard
from pfxhttpd.process import ready_queue
from pfxhttpd.process.ready_queue import COUNT_INTERVAL, COUNT_LOOKS, ReadyQueue


class Pool:
    """A queue, and a worker that takes from it. `wait` lets time pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        board = Scoreboard()
        self.row = board.pool(0)
        self.worker = board.worker(board.allocate_worker(0, 1, 1))
        receiver, sender = handoff.socket_pair()
        self.receiver, self.queue = Receiver(receiver), ReadyQueue(sender, self.row, select.epoll())
        self._now = time.monotonic()
        monkeypatch.setattr(ready_queue.time, "monotonic", lambda: self._now)

    def add(self) -> None:
        self.queue.add(os.open("/dev/null", os.O_RDONLY), Connection("socket_map", "map", "endpoint", "peer", 0.0))

    def take(self, counted: bool = True) -> None:
        received = self.receiver.receive()
        assert received
        os.close(received[0])
        if counted:
            self.worker.count_taken()

    def wait(self, seconds: float) -> None:
        self._now += seconds


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    with monkeypatch.context() as patched:
        yield Pool(patched)


def test_what_a_dead_worker_took_without_counting_is_corrected_while_others_work(pool: Pool) -> None:
    for _ in range(3):
        pool.add()
        pool.take(counted=False)
    for _ in range(COUNT_LOOKS + 2):
        pool.add()
        pool.take()
        pool.queue.publish()
        pool.queue.maintain()
        pool.wait(COUNT_INTERVAL / COUNT_LOOKS)
    assert pool.queue.waiting == 0
    pool.add()
    pool.queue.publish()
    assert pool.queue.waiting == 1


def test_what_is_counted_a_moment_later_is_not_corrected(pool: Pool) -> None:
    """In one of the looks the worker has counted what it took."""
    for look in range(3 * COUNT_LOOKS):
        pool.add()
        pool.take(counted=False)
        if look % COUNT_LOOKS == 0:
            pool.worker.count_taken()
        pool.queue.publish()
        pool.queue.maintain()
        if look % COUNT_LOOKS:
            pool.worker.count_taken()
        pool.wait(COUNT_INTERVAL / COUNT_LOOKS)
    pool.add()
    pool.queue.publish()
    assert pool.queue.waiting == 1


def test_a_queue_that_is_not_empty_is_left_alone(pool: Pool) -> None:
    pool.add()
    pool.queue.publish()
    for _ in range(2 * COUNT_LOOKS):
        pool.queue.maintain()
        pool.wait(COUNT_INTERVAL)
    assert pool.queue.waiting == 1


def test_connections_that_are_lost_for_lack_of_descriptors_are_counted() -> None:
    receiver, sender = handoff.socket_pair()
    ends = socket.socketpair()
    for _ in range(3):
        handoff.send(sender, ends[0].fileno(), b"message")

    def receive() -> tuple[bool, bool, int]:
        opened = Receiver(receiver)
        first = opened.receive()
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        second = opened.receive()
        return first is None, second is None, opened.lost

    assert in_child(receive) == (False, True, 2)

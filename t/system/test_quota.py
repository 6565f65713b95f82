"""max_connections_per_host, held over all workers of a real daemon: under load, past deaths, through reloads."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterable

import pytest
from kit.backend import Answer, Request, ThreadBackend
from kit.configuration import socket_map
from kit.deadline import deadline
from kit.site import Site
from kit.waiting import until


class Crowded:
    """A rule that counts how many connections were busy at once, and lets nobody go before `gate` is set."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Answer:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        self.gate.wait(20)
        with self._lock:
            self._now -= 1
        return Answer(json={"result": request.json()["key"]})


def test_many_clients_few_places():
    rule = Crowded()
    with (
        ThreadBackend() as backend,
        Site({"map": socket_map(backend.url("/map"))}, workers=6, http_client={"max_connections_per_host": 2}) as site,
        contextlib.ExitStack() as stack,
    ):
        backend.answer("/map", rule)
        clients = [stack.enter_context(site.client()) for _ in range(12)]
        for turn in range(10):
            for number, client in enumerate(clients):
                client.send("map", f"{turn}.{number}")
            assert [client.reply() for client in clients] == [f"OK {turn}.{number}" for number in range(12)]
        assert 1 <= rule.most <= 2
        assert backend.open_connections() <= 2


def test_no_place_within_the_timeout():
    rule = Crowded()
    rule.gate.clear()
    with (
        ThreadBackend() as backend,
        Site(
            {"map": socket_map(backend.url("/map")), "hasty": socket_map(backend.url("/map"), timeout="300ms")},
            workers=2,
            http_client={"max_connections_per_host": 1},
        ) as site,
        site.client() as first,
        site.client() as second,
    ):
        backend.answer("/map", rule)
        first.send("map", "a")
        backend.wait_requests(1)
        assert second.ask("hasty", "b").startswith("TIMEOUT ")
        assert backend.connections() == 1
        rule.gate.set()
        assert first.reply() == "OK a"
        assert second.ask("hasty", "c") == "OK c", "the place is free again though its connection is kept"


@pytest.mark.parametrize("busy", [True, False], ids=["in the middle of a request", "with a kept connection"])
def test_a_dead_worker_holds_no_place(busy: bool):
    rule = Crowded()
    with (
        ThreadBackend() as backend,
        Site({"map": socket_map(backend.url("/map"))}, workers=2, http_client={"max_connections_per_host": 1}) as site,
        site.client() as first,
        site.client() as second,
    ):
        backend.answer("/map", rule)
        workers = site.daemon.workers()

        def holders() -> list[int]:
            if not busy:
                # The connection is kept for 50 ms, so the workers are stopped while it is looked for.
                _signal(workers, signal.SIGCONT)
                assert first.ask("map", "a") == "OK a"
                _signal(workers, signal.SIGSTOP)
            return [pid for pid in workers if _connected(pid, backend.port)]

        if busy:
            rule.gate.clear()
            first.send("map", "a")
            backend.wait_requests(1)
        (holder,) = until(holders, "the worker with the connection")
        os.kill(holder, signal.SIGKILL)
        _signal(set(workers) - {holder}, signal.SIGCONT)
        rule.gate.set()
        assert second.ask("map", "b") == "OK b"


def test_old_and_new_workers_share_the_places():
    rule = Crowded()
    with (
        ThreadBackend() as backend,
        Site({"map": socket_map(backend.url("/map"))}, workers=2, http_client={"max_connections_per_host": 1}) as site,
        site.client() as first,
        site.client() as second,
    ):
        backend.answer("/map", rule)
        rule.gate.clear()
        first.send("map", "a")
        backend.wait_requests(1)
        before = set(site.daemon.workers())
        site.daemon.send_signal(signal.SIGHUP)
        with deadline(10):
            while not set(site.daemon.workers()) - before:
                pass
        second.send("map", "b")
        with pytest.raises(TimeoutError):
            backend.wait_requests(2, timeout=0.5)
        rule.gate.set()
        assert [first.reply(), second.reply()] == ["OK a", "OK b"]
        assert rule.most == 1


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        ({}, [6, 6]),
        ({"max_idle_connections_per_host": 1}, [1, 1]),
        ({"max_idle_connections_per_host": 0}, [0, 0]),
        ({"max_idle_connections_per_host": 2, "max_idle_connections": 12}, [2, 2]),
    ],
    ids=str,
)
def test_all_workers_together_keep_so_many_idle_connections(limits: dict[str, int], kept: list[int]):
    workers = 6
    with (
        ThreadBackend() as one,
        ThreadBackend() as other,
        Site(
            {"one": socket_map(one.url("/map")), "other": socket_map(other.url("/map"))},
            workers=workers,
            http_client=limits,
        ) as site,
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(site.client()) for _ in range(workers)]
        for name, backend in {"one": one, "other": other}.items():
            rule = Crowded()
            rule.gate.clear()
            backend.answer("/map", rule)
            for number, client in enumerate(clients):
                client.send(name, f"{number}")
            backend.wait_requests(workers)  # every worker has a connection
            rule.gate.set()
            assert [client.reply() for client in clients] == [f"OK {number}" for number in range(workers)]
        one.wait_open_connections(kept[0])
        other.wait_open_connections(kept[1])
        assert clients[0].ask("one", "again") == "OK again"


def test_all_workers_together_keep_so_many_idle_connections_to_all_backends():
    workers = 6
    with (
        ThreadBackend() as backend,
        Site(
            {"map": socket_map(backend.url("/map"))}, workers=workers, http_client={"max_idle_connections": 2}
        ) as site,
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(site.client()) for _ in range(workers)]
        for turn in ("first", "second"):
            rule = Crowded()
            rule.gate.clear()
            backend.answer("/map", rule)
            backend.forget()
            for client in clients:
                client.send("map", turn)
            backend.wait_requests(workers)
            rule.gate.set()
            assert [client.reply() for client in clients] == [f"OK {turn}"] * workers
            backend.wait_open_connections(2)
        assert backend.connections() == workers + workers - 2, "two were used again"


def _signal(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        os.kill(pid, number)


def _connected(pid: int, port: int) -> bool:
    """Whether a process has a connection to a port of the loopback: its descriptors against /proc/net/tcp."""
    inodes = set()
    with open("/proc/net/tcp", encoding="ascii") as table:
        for line in table.readlines()[1:]:
            fields = line.split()
            if fields[2].endswith(f":{port:04X}"):
                inodes.add(f"socket:[{fields[9]}]")
    with contextlib.suppress(OSError):
        return any(os.readlink(f"/proc/{pid}/fd/{fd}") in inodes for fd in os.listdir(f"/proc/{pid}/fd"))
    return False

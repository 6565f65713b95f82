"""Long lives: what 25,000 lookups by a worker, 500 workers and 100 reloads leave behind in the processes that stay."""

from __future__ import annotations

import pytest
from kit import ports, proc
from kit.clients import SocketMap
from kit.configuration import configuration, listener
from kit.control import connections, reload, serving, status, wait_status
from kit.daemon import Daemon
from kit.load import Load

pytestmark = [pytest.mark.executed, pytest.mark.load, pytest.mark.timeout(300)]

WORKERS = 4
LOOKUPS, GENERATIONS, RELOADS = 25_000, 500, 100
GROWTH, CACHE_GROWTH = 1024, 2 * 1024
"""kB by which a process, and the cache process, may be larger in the end: tables and counters fill, and no allocator
returns everything. It is 40 bytes per lookup of a worker, which is less than the smallest object, and 2 kB per worker."""

KEPT = 2
"""Descriptors of a backend's and the cache's connection."""


class Shop:
    """A server with a fast map; what it is to be measured by."""

    def __init__(self, serve, nginx, workers=WORKERS, **pool) -> None:
        self.port, self.workers = ports.free(), workers
        self.config = configuration(
            listener("socket_map", "map", self.port),
            socket_maps={"map": nginx.fixed()},
            worker_pool={"max_workers": workers, "max_queue": 1000, **pool},
            response_cache={"enabled": True, "max_entries": 500},
            level="info",
        )
        self.daemon: Daemon = serve(self.config)

    def load(self, clients: int = 20) -> Load:
        return Load(("127.0.0.1", self.port), clients)

    def lasting(self) -> dict[str, int]:
        """The processes that are not replaced, by role."""
        daemon = self.daemon
        return {
            "master": daemon.pid,
            "parking": daemon.process_named("parking"),
            "cache": daemon.process_named("cache"),
        }

    def rest(self) -> None:
        """Everybody has left whose time it was, and no client is there."""
        wait_status(self.daemon, connections(0), "the clients to be gone")
        wait_status(self.daemon, serving(self.workers), "the old workers to be gone")


def sizes(processes: dict[str, int]) -> dict[str, int]:
    """What each has for itself, in kB."""
    return {role: proc.private_memory(pid) // 1024 for role, pid in processes.items()}


def descriptors(processes: dict[str, int]) -> dict[str, int]:
    return {role: len(proc.descriptors(pid)) for role, pid in processes.items()}


def check_growth(before: dict[str, int], after: dict[str, int]) -> None:
    grown = {role: after[role] - before[role] for role in before}
    assert all(growth < (CACHE_GROWTH if role == "cache" else GROWTH) for role, growth in grown.items()), grown


def check_descriptors(before: dict[str, int], after: dict[str, int]) -> None:
    """As many as before, but for connections that are kept for the next request as long as there may be one."""
    assert all(after[role] <= before[role] + KEPT for role in before), (before, after)


def test_lookups_leave_nothing(serve, nginx, record_property):
    """The same worker from the first to the last."""
    shop = Shop(serve, nginx, workers=1)
    processes = {**shop.lasting(), **{f"worker {pid}": pid for pid in shop.daemon.workers()}}
    with shop.load() as load:
        load.wait_answers(LOOKUPS // 5)
        load.finish()
    shop.rest()
    before, open_before = sizes(processes), descriptors(processes)
    with shop.load() as load:
        load.wait_answers(LOOKUPS, timeout=240)
        tally = load.finish()
    assert tally.flawless(), tally
    shop.rest()
    record_property("lookups_per_second", round(tally.rate))
    check_growth(before, sizes(processes))
    check_descriptors(open_before, descriptors(processes))


def test_connections_leave_nothing(serve, nginx):
    """Clients that come, ask once and leave, or leave in the middle."""
    shop = Shop(serve, nginx)
    processes = {**shop.lasting(), **{f"worker {pid}": pid for pid in shop.daemon.workers()}}

    def come_and_go(times: int) -> None:
        for number in range(times):
            with SocketMap(("127.0.0.1", shop.port)) as client, SocketMap(("127.0.0.1", shop.port)) as other:
                if number % 3 == 0:
                    other.send_raw(b"10:map")
                if number % 3 == 1:
                    other.send("map", "never read")
                assert client.ask("map", "k") == "OK fixed"
        shop.rest()

    come_and_go(300)
    before, open_before = sizes(processes), descriptors(processes)
    come_and_go(1500)
    check_growth(before, sizes(processes))
    check_descriptors(open_before, descriptors(processes))


def test_hundreds_of_workers_leave_nothing(serve, nginx):
    """Each serves ten requests or a few more."""
    shop = Shop(serve, nginx, max_requests=10)
    daemon = shop.daemon
    born, seen = 0, proc.children(daemon.pid)

    def live(generations: int) -> None:
        nonlocal born
        target = born + generations
        with shop.load() as load:
            while born < target:
                load.wait_answers(50)
                now = proc.children(daemon.pid)
                born += len(now - seen)
                seen.update(now)
            assert load.finish().flawless()
        shop.rest()

    live(100)
    processes = shop.lasting()
    before, open_before = sizes(processes), descriptors(processes)
    live(GENERATIONS)
    check_growth(before, sizes(processes))
    check_descriptors(open_before, descriptors(processes))
    assert shop.lasting() == processes
    assert not daemon.log.find("Process died")
    assert len(status(daemon)["workers"]) == WORKERS


def test_reloads_leave_nothing(serve, nginx):
    """Each binds one listener more, or one less, with a pool of its own."""
    shop = Shop(serve, nginx)
    extra = [
        {
            **shop.config,
            "server": {
                **shop.config["server"],
                "listen": [
                    *shop.config["server"]["listen"],
                    listener("socket_map", "extra", port, worker_pool={"max_workers": 1, "max_queue": 10}),
                ],
            },
        }
        for port in (ports.free(), ports.free())
    ]
    with SocketMap(("127.0.0.1", shop.port)) as client:

        def roll(times: int) -> None:
            for number in range(times):
                reload(shop.daemon, extra[number % 2])
                assert client.ask("map", "k") == "OK fixed"
            reload(shop.daemon, shop.config)
            wait_status(shop.daemon, serving(WORKERS), "the old workers to be gone")

        roll(RELOADS // 10)
        processes = shop.lasting()
        before, open_before = sizes(processes), descriptors(processes)
        roll(RELOADS)
        check_growth(before, sizes(processes))
        check_descriptors(open_before, descriptors(processes))
        assert shop.lasting() == processes

"""Deaths: what is lost with each process is what it had in its hand, and soon there is another."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import time

import pytest
from kit import ports, proc
from kit.answer import Answer, Keyed
from kit.clients import Sasl, SocketMap
from kit.configuration import configuration, listener, socket_map
from kit.control import busy, connections, serving, status, wait_status
from kit.daemon import Daemon
from kit.load import Load
from kit.waiting import until

WORKERS, CLIENTS = 4, 40
LIMIT = 30
"""For max_requests."""


def at(port: int) -> SocketMap:
    return SocketMap(("127.0.0.1", port))


class Shop:
    """A server with a fast map in nginx and, where a test wants one, a slow one in the test's backend."""

    def __init__(self, serve, nginx=None, backend=None, workers: int = WORKERS, **server) -> None:
        self.port, self.logins = ports.free(), ports.free()
        maps = {}
        if nginx:
            maps["map"] = nginx.map("one")
        if backend:
            backend.forget()
            quick = Answer(json={"result": "{key}"}, fill=True)
            slow = {gate: quick.replace(hold=gate) for gate in ("stuck", "orphan", "retired", "handed")}
            backend.answer("/map", Keyed(slow, quick))
            maps["slow"] = socket_map(backend.url("/map"), **server.pop("entry", {}))
        pool = {"max_workers": workers, "max_queue": 1000, **server.pop("pool", {})}
        self.config = configuration(
            listener("socket_map", "map", self.port),
            listener("dovecot_sasl", "login", self.logins),
            socket_maps=maps,
            dovecot_sasl={"login": {"target": "http://127.0.0.1:1/"}},
            worker_pool=pool,
            **{"level": "info", **server},
        )
        self.daemon: Daemon = serve(self.config)

    def client(self) -> SocketMap:
        return at(self.port)

    def sasl(self) -> Sasl:
        return Sasl(("127.0.0.1", self.logins))

    def load(self) -> Load:
        return Load(("127.0.0.1", self.port), CLIENTS, tokens=("one",))


def test_each_worker_that_is_killed_takes_one_request_with_it_at_most(serve, nginx):
    shop = Shop(serve, nginx)
    killed = set()
    with shop.load() as load:
        load.wait_each(1)
        for _ in range(12):
            victim = random.choice(until(lambda: sorted(set(shop.daemon.workers()) - killed), "a worker"))
            os.kill(victim, signal.SIGKILL)
            killed.add(victim)
            load.wait_answers(100)
        load.wait_each(1)
        tally = load.finish()
    assert tally.broken <= len(killed), tally
    assert not (tally.wrong or tally.stale or tally.failed or tally.refused), tally
    wait_status(shop.daemon, serving(WORKERS), "every worker to be replaced")
    assert not killed & set(shop.daemon.workers())
    died = shop.daemon.log.find("Process died.*worker.*SIGKILL")
    assert len(died) == len(killed)


def test_whom_a_killed_worker_had_not_in_its_hand_notices_nothing(serve, backend):
    """One client's request is being asked about, others wait for the worker, and more are silent."""
    shop = Shop(serve, backend=backend, workers=1)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(shop.client()) for _ in range(10)]
        for client in clients:
            assert client.ask("slow", "k") == "OK k"
        unlucky, *lucky = clients
        unlucky.send("slow", "stuck")
        wait_status(shop.daemon, busy(1), "the worker to be busy")
        for client in lucky[:5]:
            client.send("slow", "waiting")
        os.kill(shop.daemon.workers()[0], signal.SIGKILL)
        assert unlucky.closed()
        for client in lucky[:5]:
            assert client.reply() == "OK waiting"
        for client in lucky:
            assert client.ask("slow", "after") == "OK after"


def test_parking_that_is_killed_costs_reconnects(serve, nginx):
    """No wrong answer, none that does not come; its successor goes on with the queues as they are."""
    shop = Shop(serve, nginx)
    with shop.load() as load:
        load.wait_each(1)
        killed: set[int] = set()
        for _ in range(3):
            victim = until(lambda: named(shop.daemon, "parking", killed), "a parking process")
            os.kill(victim, signal.SIGKILL)
            killed.add(victim)
            load.wait_each(1)
        tally = load.finish()
    assert not (tally.wrong or tally.stale or tally.failed or tally.refused), tally
    assert tally.broken <= len(killed) * CLIENTS
    assert len(shop.daemon.log.find("Process died.*parking.*SIGKILL")) == len(killed)
    wait_status(shop.daemon, connections(0), "the connections that were lost to be forgotten")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(shop.client()) for _ in range(3 * WORKERS)]
        for _ in range(3):
            assert [client.ask("map", "k") for client in clients] == ["OK one k"] * len(clients)
        stack.enter_context(shop.sasl())
        wait_status(shop.daemon, connections(len(clients) + 1), "all clients to be counted")


def named(daemon: Daemon, role: str, known: set[int]) -> int | None:
    """The one child of that role, if it is not among the known."""
    try:
        found = daemon.process_named(role)
    except LookupError:
        return None
    return None if found in known else found


def test_a_client_in_a_workers_hand_outlives_parking(serve, backend):
    shop = Shop(serve, backend=backend, workers=1)
    with shop.client() as idle, shop.client() as client:
        assert idle.ask("slow", "k") == client.ask("slow", "k") == "OK k"
        parking = shop.daemon.process_named("parking")
        client.send("slow", "handed")
        backend.wait_requests(3, "/map")
        os.kill(parking, signal.SIGKILL)
        assert idle.closed()
        until(lambda: named(shop.daemon, "parking", {parking}), "another parking process")
        backend.release("handed")
        assert client.reply() == "OK handed"
        with shop.client() as other:
            for _ in range(3):
                assert client.ask("slow", "k") == other.ask("slow", "k") == "OK k"


def test_a_cache_that_is_killed_costs_nothing_while_the_backend_answers(serve, nginx):
    shop = Shop(serve, nginx, response_cache={"enabled": True})
    with shop.load() as load:
        load.wait_each(1)
        for _ in range(2):
            cache = until(lambda: named(shop.daemon, "cache", set()), "the cache")
            os.kill(cache, signal.SIGKILL)
            until(lambda: named(shop.daemon, "cache", {cache}), "another cache")
            load.wait_each(1)
        tally = load.finish()
    assert tally.flawless(), tally


# -- the master -----------------------------------------------------------------------------------------------------


def test_nothing_outlives_a_master_that_is_killed(serve, nginx):
    """No answer is wrong, no child stays, and another server starts in the same place."""
    shop = Shop(serve, nginx, response_cache={"enabled": True})
    with shop.load() as load:
        load.wait_each(1)
        os.kill(shop.daemon.pid, signal.SIGKILL)
        assert shop.daemon.wait() == -signal.SIGKILL
        until(lambda: not shop.daemon.processes(), "its children to leave")
        until(lambda: load.result().refused, "clients to be refused")
        runtime = str(shop.daemon.runtime_directory)
        assert shop.daemon.socket_files(), "nobody was left to remove the control socket"
        config = {**shop.config, "server": {**shop.config["server"], "runtime_directory": runtime}}
        second = serve(config)
        load.wait_each(1)
        tally = load.finish()
        assert not (tally.wrong or tally.stale or tally.failed), tally
        second.stop()
    shop.daemon.destroy()


def test_a_request_in_hand_is_answered_though_the_master_is_dead(serve, backend):
    shop = Shop(serve, backend=backend)
    with shop.client() as client, shop.client() as idle:
        assert idle.ask("slow", "k") == "OK k"
        client.send("slow", "orphan")
        backend.wait_requests(2, "/map")
        os.kill(shop.daemon.pid, signal.SIGKILL)
        assert idle.closed()
        until(lambda: len(shop.daemon.processes()) == 1, "all but the busy worker to leave")
        backend.release("orphan")
        assert client.reply() == "OK orphan"
        assert client.closed()
        until(lambda: not shop.daemon.processes(), "the worker to leave")
    shop.daemon.destroy()


def idle_worker(daemon: Daemon) -> int:
    """The one of two workers that has served nobody."""
    seen = wait_status(daemon, lambda status: any(each["requests"] for each in status["workers"]), "a request to count")
    (idle,) = [worker["pid"] for worker in seen["workers"] if not worker["requests"]]
    return idle


# -- births ---------------------------------------------------------------------------------------------------------


def test_one_that_dies_at_start_again_and_again_is_retried_with_growing_pauses(serve, backend):
    """The other worker serves meanwhile, and the master stays."""
    shop = Shop(serve, backend=backend, workers=2)
    daemon = shop.daemon
    pauses, known = [], proc.children(daemon.pid)
    with shop.client() as client:
        assert client.ask("slow", "k") == "OK k"
        victim = idle_worker(daemon)
        for _ in range(4):
            os.kill(victim, signal.SIGKILL)
            died = time.monotonic()
            victim = proc.wait_new_child(daemon.pid, known)
            pauses.append(time.monotonic() - died)
            known.add(victim)
            assert client.ask("slow", "meanwhile") == "OK meanwhile"
    assert all(later > 1.5 * earlier for earlier, later in itertools.pairwise(pauses)), pauses
    assert pauses[-1] > 0.9, pauses
    wait_status(daemon, serving(2), "the last one to serve")
    assert len(daemon.log.find("Process died.*worker")) == 4


def test_a_master_that_cannot_fork_goes_on_trying(serve, backend):
    shop = Shop(serve, backend=backend, workers=2)
    daemon = shop.daemon
    with shop.client() as client:
        assert client.ask("slow", "k") == "OK k"
        victim = idle_worker(daemon)
        with proc.limited_descriptors(daemon.pid, 3):
            os.kill(victim, signal.SIGKILL)
            daemon.log.wait_for("Process cannot be started.*Too many open files")
            assert client.ask("slow", "meanwhile") == "OK meanwhile"
        wait_status(daemon, serving(2), "the worker to be replaced")


def test_a_start_that_fails_leaves_nothing(serve):
    """A child is killed before the server has ever served: whoever started it is told."""
    port = ports.free()
    daemon = serve(
        configuration(
            listener("socket_map", "map", port), socket_maps={"map": socket_map("http://127.0.0.1:1/")}, workers=30
        ),
        ready=False,
    )
    os.kill(proc.wait_new_child(daemon.pid, set(), timeout=20), signal.SIGKILL)
    assert daemon.wait() == os.EX_SOFTWARE
    daemon.log.wait_end()
    assert daemon.log.find("^pfxhttpd: .* did not come up$") and not daemon.log.find("msg=.?Ready")
    assert not daemon.processes() and not daemon.socket_files()
    with pytest.raises(ConnectionRefusedError):
        at(port)
    daemon.check_log()
    daemon.destroy()


# -- workers that are relieved --------------------------------------------------------------------------------------


def test_workers_retire_after_their_number_of_requests(serve, backend):
    """Each has a number of its own, a little above the limit, and a successor before it leaves."""
    shop = Shop(serve, backend=backend, workers=1, pool={"max_requests": LIMIT})
    served = []
    with shop.client() as client:
        for _ in range(12):
            (worker,) = shop.daemon.workers()
            count = 0
            while shop.daemon.workers()[0] == worker:
                assert client.ask("slow", f"k{count}") == f"OK k{count}"
                count += 1
                if count >= LIMIT:
                    # The worker has asked for a successor or not: the second answer comes after the master heard it.
                    relieved = [status(shop.daemon) for _ in range(3)][-1]["workers"]
                    if len(relieved) > 1 or relieved[0]["pid"] != worker:
                        until(lambda: not proc.is_running(worker), "the old worker to leave")
            served.append(count)
    assert all(LIMIT <= count <= LIMIT + LIMIT // 10 + 1 for count in served), served
    assert len(set(served)) > 1, "all retire at once"
    assert not shop.daemon.log.find("Process died")


def test_retirement_under_load_is_noticed_by_nobody(serve, nginx):
    shop = Shop(serve, nginx, pool={"max_requests": 50})
    before = set(shop.daemon.workers())
    with shop.load() as load:
        load.wait_answers(4000)
        tally = load.finish()
    assert tally.flawless(), tally
    wait_status(shop.daemon, serving(WORKERS), "the retired ones to have left")
    assert not before & set(shop.daemon.workers())
    assert not shop.daemon.log.find("Process died")


def test_a_successor_that_dies_is_replaced(serve, backend):
    """Until there is one, the tired worker serves."""
    shop = Shop(serve, backend=backend, workers=1, pool={"max_requests": 10})
    daemon = shop.daemon
    known = proc.children(daemon.pid)
    (tired,) = daemon.workers()
    with shop.client() as client:
        for number in range(11):
            assert client.ask("slow", f"k{number}") == f"OK k{number}"
        first = proc.wait_new_child(daemon.pid, known)
        os.kill(first, signal.SIGKILL)
        daemon.log.wait_for("Process died")
        assert client.ask("slow", "meanwhile") == "OK meanwhile"
        until(lambda: not proc.is_running(tired), "the tired worker to leave")
        assert client.ask("slow", "after") == "OK after"
        assert first not in daemon.workers()


def test_a_worker_that_is_told_to_end_finishes_its_request(serve, backend):
    shop = Shop(serve, backend=backend, workers=1)
    (worker,) = shop.daemon.workers()
    with shop.client() as client, shop.client() as other:
        assert other.ask("slow", "k") == "OK k"
        client.send("slow", "retired")
        backend.wait_requests(2, "/map")
        os.kill(worker, signal.SIGTERM)
        other.send("slow", "waiting")
        backend.release("retired")
        assert client.reply() == "OK retired"
        assert other.reply() == "OK waiting"
        assert client.ask("slow", "after") == "OK after"
    until(lambda: worker not in shop.daemon.workers(), "the worker's end")
    assert not shop.daemon.log.find("Process died")


# -- workers that are stuck -----------------------------------------------------------------------------------------


def test_a_worker_that_is_stuck_in_a_request_is_killed_and_replaced(serve, backend):
    """Stopped in the middle of one: some seconds past the request's deadline it is given up."""
    shop = Shop(serve, backend=backend, workers=2, entry={"timeout": "500ms"})
    daemon = shop.daemon
    with shop.client() as unlucky, shop.client() as other:
        unlucky.send("slow", "stuck")
        (stuck,) = [
            each["pid"] for each in wait_status(daemon, busy(1), "a busy worker")["workers"] if each["state"] == "busy"
        ]
        os.kill(stuck, signal.SIGSTOP)
        assert other.ask("slow", "meanwhile") == "OK meanwhile"
        daemon.log.wait_for(f"Worker is stuck.*pid={stuck}.*entry=slow", timeout=15)
        assert unlucky.closed()
        until(lambda: not proc.is_running(stuck), "it to be gone")
        wait_status(daemon, serving(2), "another to take its place")
        assert other.ask("slow", "after") == "OK after"


def test_a_stopped_worker_that_is_idle_holds_nobody_up(serve, backend):
    """The kernel wakes none that cannot run."""
    shop = Shop(serve, backend=backend)
    stopped = shop.daemon.workers()[:-1]
    for worker in stopped:
        os.kill(worker, signal.SIGSTOP)
    until(lambda: all(proc.is_stopped(worker) for worker in stopped), "three workers to stop")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(shop.client()) for _ in range(3 * WORKERS)]
        for _ in range(3):
            for client in clients:
                assert client.ask("slow", "k") == "OK k"
        for worker in stopped:
            os.kill(worker, signal.SIGCONT)
        for client in clients:
            assert client.ask("slow", "k") == "OK k"
    assert set(stopped) < set(shop.daemon.workers())

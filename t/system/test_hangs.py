"""Processes that hang, a master that is killed, and descriptors that run out: nothing stays held up."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from kit import ports, proc
from kit.answer import Answer, Keyed
from kit.clients import Closed, Sasl, SocketMap
from kit.configuration import configuration, listener, socket_map
from kit.control import busy, reload, status, wait_status
from kit.waiting import until


def first_free_descriptor(pid: int) -> int:
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    return next(number for number in range(len(taken) + 1) if number not in taken)


HEARTBEAT_TIMEOUT = 10.0
"""Seconds, as in process/liveness.py."""
NOTICED = 3 * HEARTBEAT_TIMEOUT

LARGE = "x" * 9_000_000
"""A value that is more than the kernel buffers for a client, which is 4 MB here."""


@pytest.fixture
def shop(serve, backend):
    """A map that answers at once, a map that waits for a gate, and a SASL listener."""

    class Shop:
        def __init__(self) -> None:
            self.port, self.logins = ports.free(), ports.free()
            self.gate = f"held {self.port}"

        def start(self, **server):
            backend.forget()
            quick = Answer(json={"result": "{key}"}, fill=True)
            backend.answer("/map", Keyed({"held": quick.replace(hold=self.gate)}, quick))
            large = Answer(json={"result": LARGE})
            backend.answer("/large", large)
            self.config = configuration(
                listener("socket_map", "map", self.port),
                listener("dovecot_sasl", "login", self.logins),
                socket_maps={"map": socket_map(backend.url("/map")), "large": socket_map(backend.url("/large"))},
                dovecot_sasl={"login": {"target": "http://127.0.0.1:1/"}},
                **{"level": "info", "workers": 2, **server},
            )
            self.daemon = serve(self.config)
            return self.daemon

        def client(self) -> SocketMap:
            return SocketMap(("127.0.0.1", self.port))

        def sasl(self, **more) -> Sasl:
            return Sasl(("127.0.0.1", self.logins), **more)

        def process(self, title: str) -> int:
            (found,) = [pid for pid, shown in self.daemon.children().items() if shown.startswith(f"pfxhttpd: {title}")]
            return found

    return Shop()


@pytest.mark.parametrize("title", ["parking", "cache", "metrics", "worker 1/2"])
def test_a_process_that_is_stopped_is_killed_and_replaced(shop, title):
    watched = {"prometheus_enabled": True, "prometheus_port": ports.free()}
    daemon = shop.start(response_cache={"enabled": True}, observability=watched)
    hung = shop.process(title)
    os.kill(hung, signal.SIGSTOP)
    daemon.log.wait_for(f'is stuck and is killed" process=.*pid={hung} reason="no heartbeat', NOTICED)
    until(lambda: not proc.is_running(hung), "it to be gone")
    wait_status(daemon, lambda told: all(each["state"] == "serving" for each in told["processes"]), "all to serve")
    with shop.client() as client, shop.sasl():
        assert client.ask("map", "k") == "OK k"


def test_a_process_that_is_busy_for_long_is_not_taken_for_one_that_hangs(shop, backend):
    daemon = shop.start(workers=1)
    with shop.client() as client:
        client.send("map", "held")
        backend.wait_requests(1, "/map")
        worker = shop.process("worker")
        deadline = time.monotonic() + HEARTBEAT_TIMEOUT + 5
        until(lambda: time.monotonic() > deadline, "longer than a heartbeat may take", timeout=30)
        backend.release(shop.gate)
        assert client.reply() == "OK held"
        assert shop.process("worker") == worker
        assert not [line for line in daemon.log.lines() if "is stuck" in line]


def test_a_new_server_starts_right_after_the_master_was_killed(serve, shop, backend):
    """Though each worker of the old one waits for a backend that does not answer."""
    daemon = shop.start()
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            client = stack.enter_context(shop.client())
            client.send("map", "held")
        backend.wait_requests(2, "/map")
        orphans = daemon.children()
        os.kill(daemon.pid, signal.SIGKILL)
        until(lambda: not proc.is_running(daemon.pid), "the master's end")
        again = serve(shop.config)
        with shop.client() as fresh, shop.sasl():
            assert fresh.ask("map", "k") == "OK k"
        until(lambda: not [pid for pid in orphans if proc.is_running(pid)], "the orphans' end")
        backend.release(shop.gate)
        assert again.workers()
    daemon.destroy()


def test_an_orphan_finishes_a_request_that_is_answered_soon(shop, backend):
    daemon = shop.start(workers=1)
    with shop.client() as client:
        client.send("map", "held")
        backend.wait_requests(1, "/map")
        os.kill(daemon.pid, signal.SIGKILL)
        backend.release(shop.gate)
        assert client.reply() == "OK held"
    daemon.destroy()


@pytest.mark.parametrize("title", ["parking", "worker"])
def test_without_descriptors_accepting_pauses_and_goes_on_later(shop, title):
    daemon = shop.start(workers=1)
    victim = shop.process(title)
    connect = (lambda: shop.sasl(handshake=False)) if title == "parking" else shop.client
    with contextlib.ExitStack() as stack:
        with proc.limited_descriptors(victim, first_free_descriptor(victim)):
            late = stack.enter_context(connect())
            if title == "worker":
                late.send("map", "late")
            daemon.log.wait_for('Cannot accept connections, trying again" reason="Too many open files"')
            before = proc.cpu_ticks(victim)
            assert late.quiet(2.0)
            assert proc.cpu_ticks(victim) - before < 50, "it takes no processor while it waits"
            assert not status(daemon)["accepting"]
            lines = [line for line in daemon.log.lines() if "Cannot accept" in line]
            assert len(lines) == 1, "a line a minute"
        if title == "worker":
            assert late.reply() == "OK late"
        else:
            late.greet()
    wait_status(daemon, lambda told: told["accepting"], "accepting to be all right")


def test_connections_lost_for_lack_of_descriptors_do_not_keep_new_ones_out(shop):
    """They are not counted as waiting for ever, though the worker is never without work in which that would be noticed."""
    shop.start(worker_pool={"max_workers": 1, "max_queue": 6})
    worker = shop.process("worker")
    ended = threading.Event()

    def keep_asking(client: SocketMap) -> None:
        while not ended.is_set():
            assert client.ask("map", "k") == "OK k"

    with contextlib.ExitStack() as stack:
        lasting = [stack.enter_context(shop.client()) for _ in range(3)]
        clients = [stack.enter_context(shop.client()) for _ in range(8)]
        for client in lasting + clients:
            assert client.ask("map", "k") == "OK k"
        # The worker keeps the last client's connection, which it passes on before it takes another one. So the limit is below
        # the descriptor that this leaves free.
        with proc.limited_descriptors(worker, 3):
            for client in clients[:-1]:
                client.send("map", "k")
            for client in clients[:-1]:
                with pytest.raises(Closed):
                    client.reply()
        pool = stack.enter_context(ThreadPoolExecutor(3))
        stack.callback(ended.set)
        busy = [pool.submit(keep_asking, client) for client in lasting]
        newcomer = stack.enter_context(shop.client())
        assert newcomer.ask("map", "new") == "OK new"
        ended.set()
        for each in busy:
            each.result(10)


def test_a_large_reply_that_its_client_does_not_take_harms_nobody(shop):
    """It is larger than a message between processes can be, and waits in parking while the worker serves others."""
    daemon = shop.start(workers=1, socketmap_max_reply_size=len(LARGE) + 3)
    with shop.client() as slow, shop.client() as other:
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        slow.send("large", "k")
        for number in range(20):
            assert other.ask("map", f"k{number}") == f"OK k{number}"
        parking = shop.process("parking")
        reload(daemon)
        assert other.ask("map", "again") == "OK again"
        assert slow.reply() == "OK " + LARGE
        assert shop.process("parking") == parking


def test_silent_sasl_clients_leave_connections_for_others(shop):
    daemon = shop.start(max_connections=20, workers=1)
    with contextlib.ExitStack() as stack:
        # Those that a worker holds at the moment are not counted: here it is one at most.
        crowd = [stack.enter_context(shop.sasl(handshake=False)) for _ in range(20)]
        daemon.log.wait_for('Connection limit reached" kind=dovecot_sasl limit=15')
        wait_status(daemon, lambda told: told["connections"] in (15, 16), "fifteen connections")
        assert crowd[-1].quiet(0.3)
        for number in range(4):
            client = stack.enter_context(shop.client())
            assert client.ask("map", f"k{number}") == f"OK k{number}"


def test_a_newcomer_that_was_left_at_the_limit_is_served_once_there_is_space(shop, backend):
    """Although the worker that left it in the backlog is busy now: the other one is idle."""
    daemon = shop.start(max_connections=2)
    with contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(shop.client()) for _ in range(2))
        assert first.ask("map", "a") == "OK a"
        assert second.ask("map", "b") == "OK b"
        late = stack.enter_context(shop.client())
        late.send("map", "late")
        daemon.log.wait_for('Connection limit reached" kind=all limit=2')
        first.send("map", "held")
        backend.wait_requests(3, "/map")
        wait_status(daemon, busy(1), "one busy worker")
        second.close()
        assert late.reply() == "OK late"
        backend.release(shop.gate)
        assert first.reply() == "OK held"


def test_parking_that_lost_descriptors_of_a_reload_is_replaced(shop):
    daemon = shop.start()
    parking = shop.process("parking")
    with proc.limited_descriptors(parking, first_free_descriptor(parking)):
        more = ports.free()
        config = {**shop.config, "server": {**shop.config["server"]}}
        config["server"]["listen"] = [*config["server"]["listen"], listener("dovecot_sasl", "more", more)]
        config["dovecot_sasl"] = {**config["dovecot_sasl"], "more": {"target": "http://127.0.0.1:1/"}}
        reload(daemon, config)
        until(lambda: not proc.is_running(parking), "the old parking to be gone")
    with shop.sasl(), Sasl(("127.0.0.1", more)):
        pass

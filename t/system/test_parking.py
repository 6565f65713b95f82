"""Clients that say nothing, or not enough, or do not listen: they cost descriptors, and nobody else a thing."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

from kit import ports, proc
from kit.answer import Answer, Keyed
from kit.backend import Backend
from kit.clients import Policy, Sasl, SocketMap, netstring
from kit.configuration import configuration, listener, policy, socket_map
from kit.control import busy, connections, reload, status, wait_status
from kit.load import Load

WORKERS = 4
SILENT, HALF = 1000, 500
ENDLESS = 64 * 1024 * 1024
"""Bytes that no pair of socket buffers holds."""
LONG_IDLE = "10m"
ROOMY = 2000
"""For max_queue, from which the kernel's backlog is set: crowds come at once here, and a full backlog costs each a second."""


class Hall:
    """A server of all three kinds, each on a port of its own, in front of a backend with a gate."""

    def __init__(self, serve: Any, backend: Backend, maps: dict[str, Any] | None = None, **server: Any) -> None:
        self.backend = backend
        backend.answer("/map", json={"result": "{key}"}, fill=True)
        backend.answer("/policy", json={"action": "OK {sender}"}, fill=True)
        backend.answer("/login", status=200)
        backend.forget()
        self.maps, self.policies, self.logins = ports.free(), ports.free(), ports.free()
        workers = server.pop("workers", WORKERS)
        self.config = configuration(
            listener("socket_map", "map", self.maps),
            listener("policy_service", "policy", self.policies),
            listener("dovecot_sasl", "login", self.logins),
            socket_maps={"map": socket_map(backend.url("/map")), **(maps or {})},
            policy_services={"policy": policy(backend.url("/policy"))},
            dovecot_sasl={"login": {"target": backend.url("/login")}},
            worker_pool={"max_workers": workers, "max_queue": ROOMY},
            **{"level": "info", "client_idle_timeout": LONG_IDLE, **server},
        )
        self.daemon = serve(self.config)

    def map(self) -> SocketMap:
        return SocketMap(("127.0.0.1", self.maps))

    def policy(self) -> Policy:
        return Policy(("127.0.0.1", self.policies))

    def sasl(self) -> Sasl:
        return Sasl(("127.0.0.1", self.logins))

    def block(self, gate: str) -> None:
        """Every lookup in the map waits for the gate from now on."""
        self.backend.answer("/map", Answer(json={"result": "{key}"}, fill=True, hold=gate))


def still_open(sock: socket.socket) -> bool:
    """Whether the server has neither closed the connection nor said a word."""
    sock.setblocking(False)
    try:
        return sock.recv(1) is None
    except BlockingIOError:
        return True
    finally:
        sock.settimeout(10.0)


@contextlib.contextmanager
def crowd(port: int, number: int, said: bytes) -> Iterator[list[socket.socket]]:
    """So many clients that say the same."""
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(number):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10.0))
            client.sendall(said)
            clients.append(client)
        yield clients


def test_a_crowd_of_silent_clients_costs_nobody_anything(serve, backend, nginx, record_property):
    """1000 that never speak and 500 that stop in the middle of a request."""
    proc.raise_descriptor_limit()
    hall = Hall(serve, backend, {"fixed": nginx.fixed()})
    daemon = hall.daemon
    with Load(("127.0.0.1", hall.maps), WORKERS, "fixed") as load:
        load.wait_answers(1000)
        alone = load.wait_answers(3000)
        assert load.finish().flawless(), alone

    half = netstring(b"map " + b"x" * 50)[:30]
    with crowd(hall.maps, SILENT, b"") as silent, crowd(hall.maps, HALF, half) as halves:
        wait_status(daemon, connections(SILENT + HALF), "all clients to be accepted")
        with Load(("127.0.0.1", hall.maps), WORKERS, "fixed") as load:
            load.wait_answers(1000)
            crowded = load.wait_answers(3000)
            assert load.finish().flawless(), crowded
        record_property("rate_with_crowd_to_rate_alone", round(crowded.rate / alone.rate, 2))
        wait_status(daemon, connections(SILENT + HALF), "the load to have left")
        assert all(still_open(client) for client in [*silent, *halves])

        # No worker is occupied: all of them can be at a request at once.
        hall.block("crowd")
        with contextlib.ExitStack() as stack:
            for number in range(WORKERS):
                stack.enter_context(hall.map()).send("map", f"k{number}")
            backend.wait_requests(WORKERS, "/map")
            backend.release("crowd")

        # And each of the crowd is still a client like any other.
        for number, client in enumerate(silent):
            client.sendall(netstring(b"map s%d" % number))
        for client in halves:
            client.sendall(netstring(b"map " + b"x" * 50)[30:])
        for number, client in enumerate(silent):
            assert client.recv(100) == netstring(b"OK s%d" % number)
        for client in halves:
            assert client.recv(100) == netstring(b"OK " + b"x" * 50)


def test_half_a_request_of_each_kind_occupies_no_worker(serve, backend):
    """One worker, and clients that stopped at every point of their requests."""
    hall = Hall(serve, backend, workers=1)
    request = netstring(b"map some key")
    question = b"request=smtpd_access_policy\nsender=me\n\n"
    with contextlib.ExitStack() as stack:
        lookups = [(stack.enter_context(hall.map()), at) for at in range(1, len(request))]
        checks = [(stack.enter_context(hall.policy()), at) for at in range(1, len(question))]
        login = stack.enter_context(hall.sasl())
        login.send_raw(b"AUTH\t1\tPLAIN\tservice=smtp\tre")
        for client, at in lookups:
            client.send_raw(request[:at])
        for client, at in checks:
            client.send_raw(question[:at])
        with hall.map() as other:
            assert other.ask("map", "between") == "OK between"
        for client, at in lookups:
            client.send_raw(request[at:])
            assert client.reply() == "OK some key"
        for client, at in checks:
            client.send_raw(question[at:])
            assert client.reply() == "OK me"
        login.send_raw(b"sp=AHUAcA==\n")
        assert login.line() == "OK\t1\tuser=u"


def test_one_byte_at_a_time(serve, backend):
    """The longest request there may be, in single bytes; another client is answered all along, by the one worker."""
    hall = Hall(serve, backend, workers=1)
    key = b"x" * (100_000 - len(b"map "))
    request = netstring(b"map " + key)
    with hall.map() as slow, hall.map() as quick:
        for at, byte in enumerate(request):
            slow.send_raw(b"%c" % byte)
            if at % 1000 == 0:
                assert quick.ask("map", f"at {at}") == f"OK at {at}"
        assert slow.reply() == "OK " + key.decode()
        assert quick.ask("map", "after") == "OK after"
    assert len(backend.requests("/map")[-2].json()["key"]) == len(key)


def test_a_client_that_does_not_read_holds_nobody_up_and_fills_no_memory(serve, backend):
    """It pipelines requests with large answers until the server takes no more of them, and then reads all answers."""
    hall = Hall(serve, backend, workers=1)
    value = "v" * 90_000
    backend.answer("/map", Keyed({"k": Answer(json={"result": "small"})}, Answer(json={"result": value})))
    daemon = hall.daemon
    with hall.map() as deaf, hall.map() as other:
        assert other.ask("map", "k") == "OK small"
        resident = {pid: proc.resident_memory(pid) for pid in daemon.children()}
        sent = 0
        # What it sends is taken until its answers no longer are: it stops at the kernel's full buffers, both ways.
        deaf.socket.settimeout(0.5)
        requests = netstring(b"map large " + b"-" * 10_000) * 20
        with contextlib.suppress(TimeoutError):
            while sent < ENDLESS:
                sent += deaf.socket.send(requests)
        assert sent < ENDLESS, "requests are taken without end from a client that reads no answer"
        answered = backend.count("/map")
        for _ in range(20):
            assert other.ask("map", "k") == "OK small"
        assert backend.count("/map") == answered + 20, "it still works for the client that does not read"
        for pid, before in resident.items():
            assert proc.resident_memory(pid) < before + 8 * 1024 * 1024, daemon.children()[pid]
        deaf.socket.settimeout(10.0)
        for _ in range(answered):
            assert deaf.reply() == "OK " + value


def test_the_silent_are_let_go_but_not_those_who_log_in(serve, backend):
    """Held by a worker or parked, after an answer, before a word and amid a request: the time is the same."""
    hall = Hall(serve, backend, workers=1, client_idle_timeout="1s")
    with contextlib.ExitStack() as stack:
        login = stack.enter_context(hall.sasl())
        silent = [stack.enter_context(each) for each in (hall.map(), hall.policy(), hall.map(), hall.policy())]
        silent[2].send_raw(b"12:map ")
        silent[3].send_raw(b"request=smtpd_access_policy\n")
        last = stack.enter_context(hall.map())
        names = ["{}:{}".format(*client.socket.getsockname()) for client in [*silent, last]]
        assert last.ask("map", "held by the worker") == "OK held by the worker"
        for client in [*silent, last]:
            assert client.closed()
        for name in names:
            hall.daemon.log.wait_for(f"Connection closed.*client={name} .*idle")
        assert login.plain("u", "p") == "OK\t1\tuser=u"


def test_a_client_that_speaks_now_and_then_is_not_let_go(serve, backend):
    """Its connection lives for several times as long as it may be silent, with one worker and others to be served."""
    hall = Hall(serve, backend, workers=1, client_idle_timeout="1s")
    with hall.map() as client:
        for number in range(7):
            with hall.policy() as other, hall.map() as third:
                for step in range(3):
                    assert third.ask("map", "tick") == "OK tick"
                    assert other.quiet(0.1)
                    assert client.ask("map", f"{number}.{step}") == f"OK {number}.{step}"


def test_as_many_clients_as_workers_need_no_parking(serve, backend, nginx):
    """Each worker keeps its client: the parking process sleeps through thousands of lookups."""
    hall = Hall(serve, backend, {"fixed": nginx.fixed()})
    parking = hall.daemon.process_named("parking")
    with Load(("127.0.0.1", hall.maps), WORKERS, "fixed") as load:
        load.wait_each(50)
        before = proc.sleeps(parking)
        load.wait_each(500)
        assert proc.sleeps(parking) - before <= 10
        assert load.finish().flawless()


def test_a_lone_client_stays_with_its_worker_while_others_come_and_go_silently(serve, backend):
    """Fewer clients than workers: nobody is parked, whoever accepts them."""
    hall = Hall(serve, backend)
    parking = hall.daemon.process_named("parking")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(hall.map()) for _ in range(WORKERS)]
        for number in range(5):
            for client in clients:
                assert client.ask("map", f"{number}") == f"OK {number}"
        before = proc.sleeps(parking)
        for number in range(100):
            for client in clients:
                assert client.ask("map", f"{number}") == f"OK {number}"
        assert proc.sleeps(parking) - before <= 10
        assert len([worker for worker in status(hall.daemon)["workers"] if worker["requests"]]) == WORKERS


def test_a_login_is_greeted_while_every_worker_is_busy(serve, backend):
    hall = Hall(serve, backend)
    hall.block("greeting")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(hall.map()) for _ in range(2 * WORKERS)]
        for client in clients:
            client.send("map", "k")
        wait_status(hall.daemon, busy(WORKERS), "every worker to be busy")
        login = stack.enter_context(hall.sasl())
        assert "PLAIN" in login.mechanisms
        login.send_line("AUTH\t1\tPLAIN\tservice=smtp\tresp=AHUAcA==")
        assert login.quiet(0.1)
        backend.release("greeting")
        assert login.line() == "OK\t1\tuser=u"
        assert [client.reply() for client in clients] == ["OK k"] * len(clients)


def test_half_a_login_survives_the_way_through_parking(serve, backend):
    """LOGIN's user name is given to one worker, the password to another."""
    hall = Hall(serve, backend)
    with hall.sasl() as login:
        assert login.auth("LOGIN").startswith("CONT\t1")
        assert login.cont("user").startswith("CONT\t1")
        reload(hall.daemon)
        with contextlib.ExitStack() as stack:
            for number in range(2 * WORKERS):
                stack.enter_context(hall.map()).ask("map", f"k{number}")
        assert login.cont("secret") == "OK\t1\tuser=user"
    assert backend.requests("/login")[0].json()["password"] == "secret"


def test_a_session_keeps_its_name_from_worker_to_worker(serve, backend):
    hall = Hall(serve, backend, level="debug")
    with hall.map() as client:
        for _ in range(3):
            assert client.ask("map", "mine") == "OK mine"
            reload(hall.daemon)
            with contextlib.ExitStack() as stack:
                for _ in range(WORKERS + 1):
                    stack.enter_context(hall.map()).ask("map", "other")
    hall.daemon.log.wait_for("Connection closed")
    sessions = {line.partition("session=")[2][:16] for line in hall.daemon.log.find("Received request.*key=mine")}
    assert len(sessions) == 1, sessions

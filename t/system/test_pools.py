"""Pools: who serves whom, who waits, and who is not let in."""

from __future__ import annotations

import contextlib

import pytest
from kit import ports
from kit.answer import Answer
from kit.clients import Sasl, SocketMap
from kit.configuration import configuration, listener, socket_map
from kit.control import connections, status, wait_status, waiting
from kit.waiting import until

WORKERS = 2


def at(port: int) -> SocketMap:
    return SocketMap(("127.0.0.1", port))


@pytest.fixture
def slow(backend):
    """A map each of whose answers waits until `backend.release` of the gate that the function names."""

    def gated(gate: str) -> dict:
        backend.forget()
        backend.answer("/slow", Answer(json={"result": "{key}"}, fill=True, hold=gate))
        backend.answer("/quick", Answer(json={"result": "{key}"}, fill=True))
        return {"slow": socket_map(backend.url("/slow")), "quick": socket_map(backend.url("/quick"))}

    return gated


def test_a_pool_whose_workers_are_all_blocked_holds_no_other_pool_up(serve, backend, slow):
    own, shared = ports.free(), ports.free()
    daemon = serve(
        configuration(
            listener("socket_map", "own", own, worker_pool={"max_workers": 2, "max_queue": 50}),
            listener("socket_map", "shared", shared),
            socket_maps=slow("pools"),
            workers=1,
        )
    )
    assert {pool["pool"]: pool["workers"] for pool in status(daemon)["pools"]} == {"own": 2, "global": 1}
    titles = sorted(title for title in daemon.children().values() if "worker" in title)
    assert titles == [f"pfxhttpd: worker {who} idle" for who in ("1/1 global", "1/2 own", "2/2 own")]
    with contextlib.ExitStack() as stack:
        blocked = [stack.enter_context(at(own)) for _ in range(20)]
        for number, client in enumerate(blocked):
            client.send("slow", f"k{number}")
        backend.wait_requests(2, "/slow")
        other = stack.enter_context(at(shared))
        for number in range(50):
            assert other.ask("quick", f"q{number}") == f"OK q{number}"
        assert backend.count("/slow") == 2
        backend.release("pools")
        for number, client in enumerate(blocked):
            assert client.reply() == f"OK k{number}"


def test_clients_are_served_in_the_order_in_which_they_asked(serve, backend, slow):
    port = ports.free()
    daemon = serve(configuration(listener("socket_map", "maps", port), socket_maps=slow("order"), workers=1))
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(at(port)) for _ in range(8)]
        for client in clients:
            assert client.ask("quick", "hello") == "OK hello"
        clients[0].send("slow", "first")
        backend.wait_requests(1, "/slow")
        for number, client in enumerate(clients[1:], 1):
            client.send("quick", f"k{number}")
            wait_status(daemon, waiting(number), f"{number} clients to wait")
        backend.release("order")
        for number, client in enumerate(clients[1:], 1):
            assert client.reply() == f"OK k{number}"
        asked = [request.json()["key"] for request in backend.requests("/quick")[len(clients) :]]
        assert asked == [f"k{number}" for number in range(1, len(clients))]


def test_a_client_that_pipelines_takes_turns_with_those_that_wait(serve, backend, slow):
    port = ports.free()
    daemon = serve(configuration(listener("socket_map", "maps", port), socket_maps=slow("turns"), workers=1))
    with contextlib.ExitStack() as stack:
        greedy, modest = stack.enter_context(at(port)), stack.enter_context(at(port))
        for client in (modest, greedy):
            assert client.ask("quick", "hello") == "OK hello"
        greedy.send("slow", "first")
        for number in range(50):
            greedy.send("quick", f"greedy{number}")
        backend.wait_requests(1, "/slow")
        modest.send("quick", "modest")
        wait_status(daemon, waiting(1), "the modest client to wait")
        backend.release("turns")
        assert modest.reply() == "OK modest"
        assert greedy.reply() == "OK first"
        assert [greedy.reply() for _ in range(50)] == [f"OK greedy{number}" for number in range(50)]
        asked = [request.json()["key"] for request in backend.requests("/quick")]
        assert asked.index("modest") <= asked.index("greedy2")


def test_a_full_queue_lets_nobody_in_and_an_emptied_one_does(serve, backend, slow):
    """Back-pressure: the new client stays in the kernel's hands, and is served when those before it have been."""
    port = ports.free()
    daemon = serve(
        configuration(
            listener("socket_map", "maps", port),
            socket_maps=slow("full"),
            worker_pool={"max_workers": 1, "max_queue": 3},
        )
    )
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(6):
            clients.append(stack.enter_context(at(port)))
            assert clients[-1].ask("quick", "hello") == "OK hello"
        clients[0].send("slow", "first")
        backend.wait_requests(1, "/slow")
        for number, client in enumerate(clients[1:], 1):
            client.send("quick", f"old{number}")
            wait_status(daemon, waiting(number), f"{number} clients to wait")
        late = stack.enter_context(at(port))
        late.send("quick", "late")
        backend.release("full")
        assert late.reply() == "OK late"
        asked = [request.json()["key"] for request in backend.requests("/quick")[len(clients) :]]
        # The queue is full as long as three wait: two of the five old ones are served before the door opens again.
        assert asked[:2] == ["old1", "old2"] and "late" in asked[2:], asked
        for client in clients:
            client.reply()


def test_the_door_never_stays_shut(serve, nginx):
    """A queue that is full and empty again a hundred times a second: after each time, whoever comes next is served."""
    port = ports.free()
    serve(
        configuration(
            listener("socket_map", "maps", port),
            socket_maps={"map": nginx.fixed()},
            worker_pool={"max_workers": 2, "max_queue": 1},
            level="info",
        )
    )
    with contextlib.ExitStack() as stack:
        crowd = []
        for _ in range(12):
            crowd.append(stack.enter_context(at(port)))
            assert crowd[-1].ask("map", "hello") == "OK fixed"
        for _ in range(300):
            for client in crowd:
                client.send("map", "all at once")
            for client in crowd:
                assert client.reply() == "OK fixed"
            with at(port) as late:
                assert late.ask("map", "late") == "OK fixed"


@pytest.mark.parametrize("leave", ["stay", "go"])
def test_after_a_full_queue_the_door_is_open_again(serve, backend, slow, leave):
    """Whether those who crowded it stay, silent, or go: whoever comes next is served."""
    port = ports.free()
    daemon = serve(
        configuration(
            listener("socket_map", "maps", port),
            socket_maps=slow(leave),
            worker_pool={"max_workers": 2, "max_queue": 1},
        )
    )
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(10):
            clients.append(stack.enter_context(at(port)))
            assert clients[-1].ask("quick", "hello") == "OK hello"
        for client in clients[:2]:
            client.send("slow", "wait")
        backend.wait_requests(2, "/slow")
        for number, client in enumerate(clients[2:], 1):
            client.send("quick", "crowd")
            wait_status(daemon, waiting(number), f"{number} clients to wait")
        backend.release(leave)
        for client in clients:
            client.reply()
        if leave == "go":
            stack.close()
        with at(port) as late:
            assert late.ask("quick", "late") == "OK late"


def test_past_max_connections_nobody_is_let_in_until_somebody_leaves(serve, backend, slow):
    port, logins = ports.free(), ports.free()
    daemon = serve(
        configuration(
            listener("socket_map", "maps", port),
            listener("dovecot_sasl", "login", logins),
            socket_maps=slow("most"),
            dovecot_sasl={"login": {"target": backend.url("/login")}},
            workers=2,
            max_connections=5,
        )
    )
    with contextlib.ExitStack() as stack:
        login = stack.enter_context(Sasl(("127.0.0.1", logins)))
        clients = []
        for _ in range(4):
            clients.append(stack.enter_context(at(port)))
            assert clients[-1].ask("quick", "hello") == "OK hello"
        wait_status(daemon, connections(5), "five clients to be held")
        assert status(daemon)["max_connections"] == 5
        late = [stack.enter_context(at(port)) for _ in range(3)]
        for client in late:
            client.send("quick", "late")
        unwelcome = stack.enter_context(Sasl(("127.0.0.1", logins), handshake=False))
        assert unwelcome.quiet(0.5) and late[0].quiet(0.01)
        assert status(daemon)["connections"] == 5
        for client in clients:
            assert client.ask("quick", "still here") == "OK still here"

        for client in [*clients, login]:
            client.close()
        for client in late:
            assert client.reply() == "OK late"
        unwelcome.greet()


def test_ten_times_as_many_as_are_let_in_are_all_served_in_the_end(serve, backend, slow):
    """Each leaves after its answer; the limit is kept all along, but for what each worker has in its hands at that moment."""
    port = ports.free()
    most = 10
    daemon = serve(
        configuration(
            listener("socket_map", "maps", port),
            socket_maps=slow("never"),
            worker_pool={"max_workers": WORKERS, "max_queue": 200},
            max_connections=most,
            level="info",
        )
    )
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(at(port)) for _ in range(10 * most)]
        for number, client in enumerate(clients):
            client.send("quick", f"k{number}")
        answered = 0
        pending = {client.socket: client for client in clients}
        for sock in pending:
            sock.setblocking(False)

        def look() -> bool:
            nonlocal answered
            held = status(daemon)["connections"]
            assert held <= most + 2 * WORKERS, held
            for sock, client in list(pending.items()):
                with contextlib.suppress(BlockingIOError):
                    data = sock.recv(100)
                    assert data.startswith((b"5:OK k", b"6:OK k")), data
                    answered += 1
                    del pending[sock]
                    client.close()
            return not pending

        until(look, "everybody to be served", 30)
        assert answered == 10 * most

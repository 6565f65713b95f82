"""What can be seen of a server from outside: its status, its processes' titles, and that it sleeps when nothing is asked."""

from __future__ import annotations

import contextlib
import json
import re

from kit import ports, proc
from kit.answer import Answer, Keyed
from kit.clients import Sasl, SocketMap
from kit.configuration import configuration, listener, socket_map
from kit.control import ControlRequest, busy, connections, reload, serving, status, wait_status, waiting
from kit.waiting import until

SECRET = "secret-key@example.com"


class Shop:
    """A global pool, one of a listener's own, a SASL service; lookups of the secret key wait for the gate."""

    def __init__(self, serve, backend, gate: str, **server) -> None:
        backend.forget()
        quick = Answer(json={"result": "x"})
        backend.answer("/map", Keyed({SECRET: quick.replace(hold=gate)}, quick))
        self.port, self.own, self.logins = ports.free(), ports.free(), ports.free()
        self.config = configuration(
            listener("socket_map", "users", self.port),
            listener("socket_map", "busy_one", self.own, worker_pool={"max_workers": 1, "max_queue": 7}),
            listener("dovecot_sasl", "login", self.logins),
            socket_maps={"users": socket_map(backend.url("/map"))},
            dovecot_sasl={"login": {"target": backend.url("/login")}},
            **{"workers": 2, "level": "info", "max_connections": 500, **server},
        )
        self.daemon = serve(self.config)

    def client(self, port: int | None = None) -> SocketMap:
        return SocketMap(("127.0.0.1", port or self.port))

    def titles(self) -> list[str]:
        return sorted(self.daemon.children().values())


def test_the_title_of_each_process_tells_what_it_does(serve, backend):
    shop = Shop(serve, backend, "titles", response_cache={"enabled": True})
    master = proc.command_line(shop.daemon.pid)
    assert master == f"pfxhttpd: master {shop.daemon.config_path}"
    quiet = [
        "pfxhttpd: cache",
        "pfxhttpd: parking 0 clients",
        "pfxhttpd: worker 1/1 busy_one idle",
        "pfxhttpd: worker 1/2 global idle",
        "pfxhttpd: worker 2/2 global idle",
    ]
    assert shop.titles() == quiet
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(shop.client()) for _ in range(10)]
        for client in silent:
            assert client.ask("users", "k") == "OK x"
        until(lambda: "pfxhttpd: parking 8 clients" in shop.titles(), "parking to tell its number")
        one, other = stack.enter_context(shop.client(shop.own)), stack.enter_context(shop.client())
        one.send("users", SECRET)
        other.send("users", SECRET)
        wait_status(shop.daemon, busy(2), "two workers to be busy")
        until(lambda: str(shop.titles()).count(" users'") == 2, "titles to name what lasts")
        titles = shop.titles()
        assert "pfxhttpd: worker 1/1 busy_one users" in titles
        assert len([title for title in titles if re.fullmatch(r"pfxhttpd: worker ./2 global users", title)]) == 1
        assert not any("secret" in title for title in titles)
        backend.release("titles")
        assert one.reply() == other.reply() == "OK x"
    until(lambda: shop.titles() == quiet, "everybody to rest")


def test_status_tells_what_the_workers_are_doing_and_no_key(serve, backend):
    shop = Shop(serve, backend, "status")
    daemon = shop.daemon
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(shop.client(shop.own)) for _ in range(3)]
        for client in clients:
            assert client.ask("users", "k") == "OK x"
        login = stack.enter_context(Sasl(("127.0.0.1", shop.logins)))
        clients[0].send("users", SECRET)
        wait_status(daemon, busy(1), "the worker to be busy")
        for number, client in enumerate(clients[1:], 1):
            client.send("users", "k")
            wait_status(daemon, waiting(number, "busy_one"), f"{number} clients to wait")
        wait_status(daemon, lambda told: told["problems"], "so long that it is a problem")

        printed = daemon.run("status", "--json")
        assert printed.returncode == 1 and not printed.stderr, "the pool of busy_one is saturated"
        seen = json.loads(printed.stdout)
        assert len(seen["problems"]) == 1, seen["problems"]
        assert re.fullmatch(
            r"pool busy_one: its only worker has been busy for .* s, 2 clients wait", seen["problems"][0]
        )
        assert seen["pid"] == daemon.pid and seen["generation"] == 1
        assert seen["configuration"] == str(daemon.config_path)
        assert seen["connections"] == 4 and seen["max_connections"] == 500
        pools = {pool["pool"]: pool for pool in seen["pools"]}
        assert pools["busy_one"]["workers"] == 1 and pools["busy_one"]["waiting"] == 2
        assert pools["busy_one"]["max_queue"] == 7
        assert pools["busy_one"]["listeners"] == [f"tcp:127.0.0.1:{shop.own}"]
        assert pools["global"]["workers"] == 2 and pools["global"]["waiting"] == 0
        workers = {worker["process"]: worker for worker in seen["workers"]}
        held = workers["worker 1/1 busy_one"]
        assert held["state"] == "busy" and held["entry"] == "users" and held["seconds"] > 0
        assert held["requests"] == 3 and held["pid"] in daemon.workers()
        assert {workers[f"worker {number}/2 global"]["state"] for number in (1, 2)} == {"idle"}
        assert [each for each in seen["processes"] if each["process"] == "parking"]

        text = daemon.run("status")
        assert text.returncode == 1 and text.stdout.startswith("pool busy_one: its only worker ")
        for part in (
            f"pid {daemon.pid}",
            "4 of 500",
            "2 of 7 waiting",
            f"pid {held['pid']}: busy users for",
            "parking",
        ):
            assert part in text.stdout, text.stdout
        assert "secret" not in printed.stdout + text.stdout
        backend.release("status")
        for client in clients:
            assert client.reply() == "OK x"
        login.close()
        wait_status(daemon, connections(3), "the login to be gone")
    wait_status(daemon, connections(0), "everybody to be gone")
    reload(daemon)
    renewed = wait_status(daemon, serving(3), "the old workers to have left")
    assert renewed["generation"] == 2
    assert sum(worker["requests"] for worker in renewed["workers"]) == 0


def test_the_control_socket_is_for_its_owner_and_survives_nonsense(serve, backend):
    shop = Shop(serve, backend, "nonsense")
    path = shop.daemon.runtime_directory / "control.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    for nonsense in (
        b"\n",
        b"null\n",
        b"{}\n",
        b"[" * 4000 + b"\n",
        b"\xff\xfe\n",
        b'{"command": ["reload"]}\n',
        b'{"command": "restart"}\n',
        b"x" * 100_000,
    ):
        with contextlib.suppress(BrokenPipeError, ConnectionError):
            answer = ControlRequest(shop.daemon.runtime_directory, nonsense).response()
            assert not answer["ok"] and answer["reason"]
    with contextlib.ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(ControlRequest(shop.daemon.runtime_directory, b"{").socket)
            assert status(shop.daemon)["generation"] == 1
    with contextlib.closing(ControlRequest(shop.daemon.runtime_directory, {"command": "reload"}).socket):
        pass  # whoever asks and does not stay for the answer
    wait_status(shop.daemon, lambda status: status["generation"] == 2, "the reload")
    shop.daemon.check_log()


def test_whoever_has_nothing_to_do_uses_no_processor(serve, backend):
    """Not with clients in hand, not with clients in parking, not after a reload."""
    shop = Shop(serve, backend, "idle", response_cache={"enabled": True})
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(shop.client()) for _ in range(20)]
        stack.enter_context(Sasl(("127.0.0.1", shop.logins)))
        for client in clients:
            assert client.ask("users", "k") == "OK x"
        reload(shop.daemon)
        for client in clients:
            assert client.ask("users", "k") == "OK x"
        until(lambda: "pfxhttpd: parking 19 clients" in shop.titles(), "titles to settle")
        before = {pid: proc.cpu_ticks(pid) for pid in (shop.daemon.pid, *shop.daemon.children())}
        assert clients[0].quiet(2.0)
        spent = {proc.command_line(pid): proc.cpu_ticks(pid) - ticks for pid, ticks in before.items()}
    assert all(ticks <= 1 for ticks in spent.values()), spent

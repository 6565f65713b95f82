"""Reloads: the next request after one is answered by the new configuration, and no client notices anything else."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import signal
import socket
import threading

import pytest
from kit import ports, proc
from kit.answer import Answer, Keyed
from kit.clients import Policy, Sasl, SocketMap
from kit.configuration import configuration, listener, policy, socket_map
from kit.control import ControlRequest, Refused, connections, reload, serving, status, wait_status
from kit.load import Load
from kit.waiting import until

RELOADS = 20
TOKENS = ("one", "two")
WORKERS = 4


def at(port: int) -> SocketMap:
    return SocketMap(("127.0.0.1", port))


class Shop:
    """A server with one map, whose values begin with the token that its configuration names."""

    def __init__(self, serve, nginx, workers: int = 4, **server) -> None:
        self._nginx, self._server = nginx, {"level": "info", **server}
        self._workers = workers
        self.port = ports.free()
        self.daemon = serve(self.config("one"))

    def config(self, token: str, *listeners: dict, pool: dict | None = None, **server) -> dict:
        own = {"worker_pool": pool} if pool else {}
        settings = {"worker_pool": {"max_workers": self._workers, "max_queue": 1000}, **self._server, **server}
        return configuration(
            listener("socket_map", "map", self.port, **own),
            *listeners,
            socket_maps={"map": self._nginx.map(token)},
            **settings,
        )

    def processes(self) -> dict[int, str]:
        """All of them, by their role: titles tell of clients and entries besides."""
        roles = {pid: title.split()[1:3] for pid, title in self.daemon.children().items()}
        return {pid: " ".join(role if "worker" in role else role[:1]) for pid, role in roles.items()}

    def client(self) -> SocketMap:
        return at(self.port)


class Callers(threading.Thread):
    """One client after the other, all the time: each connects, asks, and leaves."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port, self._enough = port, threading.Event()
        self.served, self.mishaps = 0, []

    def run(self) -> None:
        while not self._enough.is_set():
            try:
                with at(self._port) as client:
                    reply = client.ask("map", f"c{self.served}")
                if reply.split()[0] != "OK":
                    self.mishaps.append(reply)
                self.served += 1
            except Exception as error:
                self.mishaps.append(repr(error))

    def finish(self) -> None:
        self._enough.set()
        self.join()


@pytest.mark.unmeasured
def test_many_reloads_under_load(serve, nginx):
    """Busy clients, silent ones that ask right after each reload, and new ones all the time: two configurations in turn."""
    shop = Shop(serve, nginx)
    callers = Callers(shop.port)
    with Load(("127.0.0.1", shop.port), 40, tokens=TOKENS) as load, contextlib.ExitStack() as stack:
        old = [stack.enter_context(shop.client()) for _ in range(6)]
        load.wait_each(1)
        callers.start()
        for number in range(1, RELOADS + 1):
            token = TOKENS[number % 2]
            load.allow(number)
            assert reload(shop.daemon, shop.config(token)) == number + 1
            for client in old:
                assert client.ask("map", f"r{number}") == f"OK {token} r{number}"
            load.demand(number)
            with shop.client() as fresh:
                assert fresh.ask("map", f"f{number}") == f"OK {token} f{number}"
        callers.finish()
        tally = load.finish()
    assert tally.flawless(), tally
    assert not callers.mishaps and callers.served > RELOADS
    assert len(shop.daemon.log.find("Configuration reloaded")) == RELOADS
    wait_status(shop.daemon, serving(4), "the old workers to have left")


@pytest.mark.unmeasured
def test_pools_come_and_go_while_their_clients_stay(serve, nginx):
    """The listener is served by the global pool, by one of its own, by a larger one, by a smaller one, and so on."""
    shop = Shop(serve, nginx)
    pools = [
        None,
        {"max_workers": 1, "max_queue": 1000},
        {"max_workers": 5, "max_queue": 1000},
        {"max_workers": 2, "max_queue": 1000},
    ]
    other = listener("socket_map", "other", ports.free())
    with Load(("127.0.0.1", shop.port), 40, tokens=TOKENS) as load:
        load.wait_each(1)
        for number in range(1, 21):
            load.allow(number)
            reload(shop.daemon, shop.config(TOKENS[number % 2], other, pool=pools[number % len(pools)]))
            load.demand(number)
            load.wait_each(1)
        tally = load.finish()
    assert tally.flawless(), tally
    # The last one, number 20, has no pool of its own.
    wait_status(shop.daemon, serving(4), "the old workers to have left")
    assert [pool["pool"] for pool in status(shop.daemon)["pools"]] == ["global"]


def test_the_number_of_workers_is_the_new_one(serve, nginx):
    shop = Shop(serve, nginx)
    with shop.client() as client:
        for workers in (7, 1, 3):
            reload(shop.daemon, shop.config("one", worker_pool={"max_workers": workers}))
            wait_status(shop.daemon, serving(workers), f"{workers} workers")
            assert client.ask("map", "k") == "OK one k"
            titles = sorted(title for title in shop.processes().values() if "worker" in title)
            assert titles == [f"worker {number}/{workers}" for number in range(1, workers + 1)]


def test_a_request_in_hand_is_finished_by_the_configuration_that_took_it(serve, backend):
    backend.forget()
    old = Answer(json={"result": "old"})
    backend.answer("/old", Keyed({"slow": old.replace(hold="old")}, old))
    backend.answer("/new", Answer(json={"result": "new"}))
    port = ports.free()

    def config(path: str) -> dict:
        maps = {"map": socket_map(backend.url(path))}
        return configuration(listener("socket_map", "map", port), socket_maps=maps, workers=2)

    daemon = serve(config("/old"))
    with at(port) as patient, at(port) as other:
        assert patient.ask("map", "k") == "OK old"
        patient.send("map", "slow")
        backend.wait_requests(2, "/old")
        (worker,) = [each["pid"] for each in status(daemon)["workers"] if each["state"] == "busy"]
        reload(daemon, config("/new"))
        assert other.ask("map", "k") == "OK new"
        patient.send("map", "again")
        assert proc.is_running(worker)
        backend.release("old")
        assert patient.reply() == "OK old"
        assert patient.reply() == "OK new", "what was asked after the reload was answered by the old configuration"
        until(lambda: not proc.is_running(worker), "the old worker to leave")


# -- listeners ----------------------------------------------------------------------------------------------------


def test_listeners_are_added_and_removed(serve, nginx):
    """A client of a removed one stays and is served; nobody else gets in there."""
    shop = Shop(serve, nginx)
    port = ports.free()
    path = str(shop.daemon.directory / "maps.sock")
    added = [listener("socket_map", "more", port), listener("socket_map", "unix", address=path, mode="0600")]
    reload(shop.daemon, shop.config("one", *added))
    with at(port) as inet, SocketMap(path) as unix, shop.client() as client:
        assert inet.ask("map", "k") == unix.ask("map", "k") == "OK one k"
        inode = os.stat(path).st_ino
        reload(shop.daemon, shop.config("two", *added))
        assert inet.ask("map", "k") == unix.ask("map", "k") == "OK two k"
        assert os.stat(path).st_ino == inode, "an unchanged listener is bound anew"
        reload(shop.daemon, shop.config("one"))
        assert not os.path.exists(path)
        with pytest.raises(ConnectionRefusedError):
            at(port)
        for each in (inet, unix, client):
            assert each.ask("map", "k") == "OK one k"
        reload(shop.daemon, shop.config("two", *added))
        with at(port) as again, SocketMap(path) as unix_again:
            assert again.ask("map", "k") == unix_again.ask("map", "k") == inet.ask("map", "k") == "OK two k"


def test_a_removed_listener_refuses_even_while_an_old_worker_is_busy(serve, backend):
    """The old worker has inherited the socket; nobody is to connect to it and wait there for an answer."""
    backend.answer("/slow", Answer(json={"result": "slow"}, hold="removed"))
    backend.forget()
    port, removed = ports.free(), ports.free()
    maps = {"map": socket_map(backend.url("/slow"))}
    kept = listener("socket_map", "map", port)
    daemon = serve(configuration(kept, listener("socket_map", "removed", removed), socket_maps=maps, workers=1))
    with at(removed) as client:
        client.send("map", "k")
        backend.wait_requests(1, "/slow")
        reload(daemon, configuration(kept, socket_maps=maps, workers=1))
        with pytest.raises(ConnectionRefusedError):
            at(removed)
        backend.release("removed")
        assert client.reply() == "OK slow"


def test_every_kind_of_client_outlives_a_reload(serve, backend):
    """Silent, amid a request, and amid a login; the policy service and the logins change their answers."""
    backend.answer("/map", json={"result": "{key}"}, fill=True)
    for word in ("old", "new"):
        backend.answer(f"/policy/{word}", json={"action": f"REJECT {word}"})
        backend.answer(f"/login/{word}", status=200, headers={"Auth-User": word})
    maps, policies, logins = ports.free(), ports.free(), ports.free()

    def config(word: str) -> dict:
        return configuration(
            listener("socket_map", "map", maps),
            listener("policy_service", "policy", policies),
            listener("dovecot_sasl", "login", logins),
            socket_maps={"map": socket_map(backend.url("/map"))},
            policy_services={"policy": policy(backend.url(f"/policy/{word}"))},
            dovecot_sasl={"login": {"target": backend.url(f"/login/{word}")}},
        )

    daemon = serve(config("old"))
    with at(maps) as half, Policy(("127.0.0.1", policies)) as check, Sasl(("127.0.0.1", logins)) as login:
        half.send_raw(b"6:map ")
        assert check.ask(sender="me") == "REJECT old"
        assert login.plain("u", "p") == "OK\t1\tuser=old"
        check.send_raw(b"sender=")
        assert login.auth("LOGIN").startswith("CONT\t2")
        assert login.cont("u").startswith("CONT\t2")
        reload(daemon, config("new"))
        half.send_raw(b"kk,")
        assert half.reply() == "OK kk"
        check.send_raw(b"me\n\n")
        assert check.reply() == "REJECT new"
        assert login.cont("p") == "OK\t2\tuser=new"
        with Sasl(("127.0.0.1", logins)) as fresh:
            assert fresh.plain("u", "p") == "OK\t1\tuser=new"


def test_seventy_pools_are_added_at_once(serve, nginx):
    """More than one message to parking holds descriptors for; its clients stay."""
    shop = Shop(serve, nginx, workers=1)
    parking = shop.daemon.process_named("parking")
    many = [
        listener("socket_map", "map", ports.free(), worker_pool={"max_workers": 1, "max_queue": 10}) for _ in range(70)
    ]
    with shop.client() as parked, shop.client() as client:
        assert parked.ask("map", "k") == client.ask("map", "k") == "OK one k"
        reload(shop.daemon, shop.config("two", *many))
        assert parked.ask("map", "k") == client.ask("map", "k") == "OK two k"
        with at(many[-1]["port"]) as one, at(many[-1]["port"]) as two:
            for _ in range(3):
                assert one.ask("map", "k") == two.ask("map", "k") == "OK two k"
    assert shop.daemon.process_named("parking") == parking


def test_what_a_log_shows_changes_with_a_reload(serve, nginx):
    """In every process: what workers say of requests, and what parking says of clients that leave."""
    shop = Shop(serve, nginx, workers=1)
    log = shop.daemon.log
    with shop.client() as parked, shop.client() as client:
        assert parked.ask("map", "quiet") == client.ask("map", "quiet") == "OK one quiet"
        assert not log.find("level=DEBUG")
        reload(shop.daemon, shop.config("two", level="debug"))
        assert client.ask("map", "loud") == "OK two loud"
        log.wait_for("level=DEBUG.*loud")
        reload(shop.daemon, shop.config("one", level="error"))
        mark = log.position
        assert parked.ask("map", "k") == client.ask("map", "k") == "OK one k"
    wait_status(shop.daemon, connections(0), "both to have left")
    reload(shop.daemon, shop.config("one", level="info"))
    log.wait_for("Configuration reloaded", start=mark)
    assert not log.find("Connection closed", mark)


def test_what_needs_a_restart_is_said(serve, nginx):
    shop = Shop(serve, nginx)
    elsewhere = str(shop.daemon.directory / "elsewhere")
    reload(shop.daemon, shop.config("two", runtime_directory=elsewhere))
    shop.daemon.log.wait_for("restart.*server.runtime_directory")
    with shop.client() as client:
        assert client.ask("map", "k") == "OK two k"


def test_a_change_of_a_unix_socket_that_stays_open_is_said_to_need_a_restart(serve, nginx, tmp_path):
    shop, path = Shop(serve, nginx), tmp_path / "maps.sock"
    before, after = ({"mode": "0600"}, {"mode": "0666", "user": str(os.getuid()), "group": ""})
    for settings in (before, after):
        config = shop.config("two")
        config["server"]["listen"].append(listener("socket_map", "unix", address=str(path), **settings))
        reload(shop.daemon, config)
    for key in ("mode", "user"):
        (line,) = shop.daemon.log.find(f"restart only.*key=server.listen.{key}")
        assert f"listener=unix:{path}" in line
    assert not shop.daemon.log.find("key=server.listen.group")
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_backlog_of_a_listener_that_stays_open_is_the_new_one(serve, nginx, tmp_path):
    shop, path = Shop(serve, nginx), str(tmp_path / "maps.sock")
    for length in (3, 7):
        config = shop.config("two", worker_pool={"max_workers": 1, "max_queue": length})
        config["server"]["listen"].append(listener("socket_map", "unix", address=path))
        reload(shop.daemon, config)
        assert connections_without_accept(shop, path) == length + 1  # as the kernel counts, listen(2)


def connections_without_accept(shop: Shop, path: str) -> int:
    """How many connections to a Unix socket the kernel makes while no worker accepts any."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(proc.suspended(*shop.daemon.workers()))
        for number in itertools.count():
            client = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            if client.connect_ex(path) == errno.EAGAIN:
                return number
    raise AssertionError


# -- reloads that fail --------------------------------------------------------------------------------------------


def _syntax(shop, directory) -> tuple:
    return "server: [\n", "pfxhttp.yml:"


def _unknown_key(shop, directory) -> tuple:
    return shop.config("two", max_conections=5), "max_connections"


def _empty(shop, directory) -> tuple:
    return "", "pfxhttp.yml"


def _no_such_ca(shop, directory) -> tuple:
    return shop.config("two", tls={"enabled": True, "root_ca": str(directory / "none.pem")}), "none.pem"


def _ca_of_garbage(shop, directory) -> tuple:
    path = directory / "garbage.pem"
    path.write_text("no certificate")
    return shop.config("two", tls={"enabled": True, "root_ca": str(path)}), "garbage.pem"


def _address_in_use(shop, directory) -> tuple:
    taken = socket.create_server(("127.0.0.1", 0))
    shop.keeps = taken
    return shop.config("two", listener("socket_map", "taken", taken.getsockname()[1])), "[Aa]ddress already in use"


def _path_in_use(shop, directory) -> tuple:
    path = str(directory / "taken.sock")
    shop.keeps = socket.create_server(path, family=socket.AF_UNIX)
    return shop.config("two", listener("socket_map", "taken", address=path)), "something answers there already"


def _second_of_two_in_use(shop, directory) -> tuple:
    """The first new listener is bound already when the second turns out to be impossible."""
    shop.keeps = taken = socket.create_server(("127.0.0.1", 0))
    first = listener("socket_map", "first", address=str(directory / "first.sock"))
    second = listener("socket_map", "second", taken.getsockname()[1])
    return shop.config("two", first, second), "[Aa]ddress already in use"


def _no_such_user(shop, directory) -> tuple:
    path = str(directory / "user.sock")
    return shop.config(
        "two", listener("socket_map", "u", address=path, user="nobody-of-that-name")
    ), "nobody-of-that-name"


@pytest.mark.parametrize(
    "fault",
    [
        _syntax,
        _unknown_key,
        _empty,
        _no_such_ca,
        _ca_of_garbage,
        _address_in_use,
        _path_in_use,
        _second_of_two_in_use,
        _no_such_user,
    ],
)
def test_a_reload_that_fails_changes_nothing_and_says_why(serve, nginx, fault):
    shop = Shop(serve, nginx)
    daemon = shop.daemon
    broken, why = fault(shop, daemon.directory)
    with shop.client() as client, shop.client() as silent:
        assert client.ask("map", "k") == "OK one k"
        processes, descriptors = shop.processes(), sorted(proc.descriptors(daemon.pid))
        daemon.write(broken)
        told = daemon.run("reload")
        assert told.returncode == 78, told
        assert re.search(why, told.stderr), told.stderr
        mark = daemon.log.position
        daemon.send_signal(signal.SIGHUP)
        daemon.log.wait_for(f"Reload failed.*{why}", start=mark)
        assert shop.processes() == processes
        assert sorted(proc.descriptors(daemon.pid)) == descriptors
        assert not (daemon.directory / "first.sock").exists()
        assert client.ask("map", "k") == silent.ask("map", "k") == "OK one k"
        assert status(daemon)["generation"] == 1

        shop.__dict__.pop("keeps", socket.socket()).close()
        (daemon.directory / "taken.sock").unlink(missing_ok=True)
        daemon.write(shop.config("two"))
        assert daemon.run("reload").returncode == 0
        assert client.ask("map", "k") == silent.ask("map", "k") == "OK two k"


@pytest.mark.parametrize("address", ["0.0.0.0", "[::]"])
def test_a_reload_that_widens_an_address_says_what_to_do(serve, nginx, address):
    shop = Shop(serve, nginx)
    wider = shop.config("two")
    wider["server"]["listen"][0]["address"] = address
    with shop.client() as client:
        with pytest.raises(Refused, match=f"this server itself listens on 127.0.0.1:{shop.port}.* restart it"):
            reload(shop.daemon, wider)
        assert client.ask("map", "k") == "OK one k"
    with shop.client() as client:
        assert client.ask("map", "k") == "OK one k"


def test_a_reload_from_a_file_that_vanished_fails(serve, nginx):
    shop = Shop(serve, nginx)
    processes = shop.processes()
    shop.daemon.config_path.unlink()
    with pytest.raises(Refused, match=r"pfxhttp\.yml"):
        reload(shop.daemon)
    told = shop.daemon.run("reload")
    assert told.returncode == 78 and "pfxhttp.yml" in told.stderr
    assert shop.processes() == processes
    with shop.client() as client:
        assert client.ask("map", "k") == "OK one k"


def test_a_worker_of_the_new_configuration_that_dies_ends_the_reload(serve, nginx):
    """Killed as it is born; its sisters go too, and what was bound for them."""
    shop = Shop(serve, nginx)
    daemon, port = shop.daemon, ports.free()
    with shop.client() as client:
        assert client.ask("map", "k") == "OK one k"
        processes, descriptors = shop.processes(), sorted(proc.descriptors(daemon.pid))
        daemon.write(shop.config("two", listener("socket_map", "more", port), worker_pool={"max_workers": 40}))
        question = ControlRequest(daemon.runtime_directory, {"command": "reload"})
        os.kill(proc.wait_new_child(daemon.pid, set(processes)), signal.SIGKILL)
        answer = question.response()
        assert not answer["ok"] and "did not come up" in answer["reason"]
        daemon.log.wait_for("Reload failed.*did not come up")
        until(lambda: shop.processes() == processes, "the new workers to be gone")
        until(lambda: sorted(proc.descriptors(daemon.pid)) == descriptors, "the master to have noticed")
        with pytest.raises(ConnectionRefusedError):
            at(port)
        assert client.ask("map", "k") == "OK one k"
        reload(daemon)
        assert client.ask("map", "k") == "OK two k"


def test_a_reload_for_which_there_are_no_descriptors_fails(serve, nginx):
    shop = Shop(serve, nginx)
    daemon = shop.daemon
    with shop.client() as client:
        assert client.ask("map", "k") == "OK one k"
        processes, descriptors = shop.processes(), sorted(proc.descriptors(daemon.pid))
        with proc.limited_descriptors(daemon.pid, len(descriptors) + 4):
            with pytest.raises(Refused, match=r"[Tt]oo many open files"):
                reload(daemon, shop.config("two"))
            until(lambda: shop.processes() == processes, "the new workers to be gone")
            assert client.ask("map", "k") == "OK one k"
        until(lambda: sorted(proc.descriptors(daemon.pid)) == descriptors, "the master to have noticed")
        reload(daemon)
        assert client.ask("map", "k") == "OK two k"


# -- several things at once -----------------------------------------------------------------------------------------


def test_several_reloads_at_once_are_all_answered(serve, nginx):
    """One is under way; those that come meanwhile are one more, and each says so when it is done."""
    shop = Shop(serve, nginx)
    shop.daemon.write(shop.config("two"))
    questions = [ControlRequest(shop.daemon.runtime_directory, {"command": "reload"}) for _ in range(10)]
    generations = [question.response()["generation"] for question in questions]
    assert min(generations) == 2 and max(generations) < 12
    assert generations == sorted(generations)
    with shop.client() as client:
        assert client.ask("map", "k") == "OK two k"
    wait_status(shop.daemon, serving(4), "the workers in between to have left")


def test_a_reload_that_comes_during_another_sees_the_newest_file(serve, nginx):
    """The first is held up by a worker that does not get ready; the file is changed meanwhile."""
    shop = Shop(serve, nginx)
    daemon = shop.daemon
    known = set(shop.processes())
    daemon.write(shop.config("two", worker_pool={"max_workers": 40}))
    first = ControlRequest(daemon.runtime_directory, {"command": "reload"})
    born = proc.wait_new_child(daemon.pid, known)
    os.kill(born, signal.SIGSTOP)
    daemon.write(shop.config("three"))
    second = ControlRequest(daemon.runtime_directory, {"command": "reload"})
    wait_status(daemon, lambda status: len(status["workers"]) == 44, "the first reload to wait for one worker")
    os.kill(born, signal.SIGCONT)
    assert first.response()["generation"] == 2
    assert second.response()["generation"] == 3
    with shop.client() as client:
        assert client.ask("map", "k") == "OK three k"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_stop_during_a_reload_ends_both(serve, nginx, number):
    shop = Shop(serve, nginx)
    daemon = shop.daemon
    known = set(shop.processes())
    daemon.write(shop.config("two", worker_pool={"max_workers": 40}))
    questions = [ControlRequest(daemon.runtime_directory, {"command": "reload"})]
    os.kill(proc.wait_new_child(daemon.pid, known), signal.SIGSTOP)
    questions.append(ControlRequest(daemon.runtime_directory, {"command": "reload"}))
    status(daemon)  # by now the second has been heard
    daemon.send_signal(number)
    for question in questions:
        answer = question.response()
        assert not answer["ok"] and "stopping" in answer["reason"]
    assert daemon.wait() == 0
    daemon.stop()

"""Signals to the master, to its children and to all at once: what ends, what goes on, and what is lost."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from pathlib import Path

import pytest
from kit import ports, proc
from kit.answer import Answer, Keyed
from kit.clients import Address, Sasl, SocketMap
from kit.configuration import configuration, listener, socket_map
from kit.control import ControlRequest, busy, reload, serving, wait_status
from kit.load import Load
from kit.waiting import until

pytestmark = pytest.mark.executed

STOPS = ["TERM", "INT", "command", "TERM to all", "INT to all"]
GATES = [*STOPS, "stop twice", "QUIT", "too slow", "TERM, then QUIT", "shut", "worker"]
"""Keys whose answers wait until the gate of the same name is released."""


class Shop:
    """A server with a TCP, a Unix and a SASL listener and a pid file, in front of a backend with gates."""

    def __init__(self, serve, backend, tmp_path: Path, workers: int = 2, **server) -> None:
        backend.forget()
        quick = Answer(json={"result": "{key}"}, fill=True)
        backend.answer("/map", Keyed({gate: quick.replace(hold=gate) for gate in GATES}, quick))
        self._backend = backend
        self.port, self.logins, self.path = ports.free(), ports.free(), str(tmp_path / "maps.sock")
        self.pidfile = tmp_path / "pid"
        self.config = configuration(
            listener("socket_map", "map", self.port),
            listener("socket_map", "unix", address=self.path),
            listener("dovecot_sasl", "login", self.logins),
            socket_maps={"map": socket_map(backend.url("/map"))},
            dovecot_sasl={"login": {"target": backend.url("/login")}},
            **{"workers": workers, "level": "info", **server},
        )
        self.daemon = serve(self.config, arguments=("run", "--pidfile", str(self.pidfile)))

    def client(self) -> SocketMap:
        return SocketMap(("127.0.0.1", self.port))

    def sasl(self) -> Sasl:
        return Sasl(("127.0.0.1", self.logins))

    @contextlib.contextmanager
    def blocked(self, gate: str):
        """A client whose request the backend has and does not answer."""
        with self.client() as client:
            client.send("map", gate)
            wait_status(self.daemon, busy(1), "the request to be in hand")
            yield client

    def deliver(self, how: str) -> None:
        """A stop: a signal to the master or to everybody, as a terminal or systemd sends it, or the command."""
        if how == "command":
            assert (
                ControlRequest(self.daemon.runtime_directory, {"command": "stop"}).response()["pid"] == self.daemon.pid
            )
            return
        name, _, everybody = how.partition(" to ")
        number = signal.Signals[f"SIG{name}"]
        if everybody:
            os.killpg(self.daemon.pid, number)
        else:
            self.daemon.send_signal(number)

    def check_gone(self) -> None:
        """It has ended well, and nothing of it is left."""
        assert self.daemon.wait() == 0
        assert not os.path.exists(self.path) and not self.pidfile.exists()
        self.daemon.stop()


def refuses(address: Address) -> bool:
    try:
        SocketMap(address).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    except ConnectionResetError:  # it was on its way in when the door was shut
        return False
    return False


# -- stopping -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", STOPS)
def test_a_stop_lets_the_request_in_hand_finish(serve, backend, tmp_path, how):
    shop = Shop(serve, backend, tmp_path)
    assert int(shop.pidfile.read_text()) == shop.daemon.pid
    with shop.blocked(how) as client, shop.client() as silent, shop.sasl() as login:
        assert silent.ask("map", "k") == "OK k"
        shop.deliver(how)
        shop.daemon.log.wait_for("Stopping")
        for address in (("127.0.0.1", shop.port), ("127.0.0.1", shop.logins), shop.path):
            until(lambda: refuses(address), f"{address} to refuse")
        assert proc.is_running(shop.daemon.pid)
        backend.release(how)
        assert client.reply() == f"OK {how}"
        assert client.closed() and silent.closed() and login.closed()
    shop.check_gone()
    assert shop.daemon.log.find("Stopped")


def test_the_command_returns_when_the_server_is_gone(serve, backend, tmp_path):
    shop = Shop(serve, backend, tmp_path)
    told = shop.daemon.run("stop")
    assert told.returncode == 0 and not told.stderr
    until(lambda: shop.daemon.process.poll() is not None, "the master to have ended", timeout=0.5)
    told = shop.daemon.run("stop")
    assert told.returncode == 69 and "no server" in told.stderr
    shop.check_gone()


def test_a_stopping_server_burns_no_processor(serve, backend, tmp_path):
    """Its doors are shut in every process; whoever still looks at them is told so once."""
    shop = Shop(serve, backend, tmp_path)
    with shop.blocked("shut") as client:
        shop.daemon.send_signal(signal.SIGTERM)
        shop.daemon.log.wait_for("Stopping")
        until(lambda: len(shop.daemon.processes()) == 3, "all but master, parking and the busy worker to leave")
        before = {pid: proc.cpu_ticks(pid) for pid in shop.daemon.processes()}
        assert client.quiet(1.0)
        spent = {shop.daemon.children().get(pid, "master"): proc.cpu_ticks(pid) - then for pid, then in before.items()}
        assert all(ticks <= 2 for ticks in spent.values()), spent
        backend.release("shut")
        assert client.reply() == "OK shut"
    shop.check_gone()


def test_a_second_stop_changes_nothing(serve, backend, tmp_path):
    shop = Shop(serve, backend, tmp_path)
    with shop.blocked("stop twice") as client:
        for _ in range(5):
            shop.daemon.send_signal(signal.SIGTERM)
            shop.daemon.send_signal(signal.SIGINT)
        shop.daemon.log.wait_for("Stopping")
        backend.release("stop twice")
        assert client.reply() == "OK stop twice"
    shop.check_gone()
    assert len(shop.daemon.log.find("Stopping")) == 1


def test_a_request_that_takes_too_long_is_given_up(serve, backend, tmp_path):
    """shutdown_timeout is over before the backend answers."""
    shop = Shop(serve, backend, tmp_path, shutdown_timeout="1s")
    with shop.blocked("too slow") as client:
        shop.daemon.send_signal(signal.SIGTERM)
        assert client.closed()
    shop.check_gone()


@pytest.mark.parametrize("first", [signal.SIGTERM, None])
def test_quit_waits_for_nobody(serve, backend, tmp_path, first):
    """Not even after a TERM that does."""
    shop = Shop(serve, backend, tmp_path)
    with shop.blocked("QUIT" if first is None else "TERM, then QUIT") as client:
        if first:
            shop.daemon.send_signal(first)
            shop.daemon.log.wait_for("Stopping")
        shop.daemon.send_signal(signal.SIGQUIT)
        assert client.closed()
    shop.check_gone()


def test_a_stop_during_the_start(serve, backend, tmp_path):
    """As soon as there is something to be left behind: nothing is."""
    shop = Shop(serve, backend, tmp_path)
    shop.daemon.stop()
    path = tmp_path / "second.sock"
    for listening in shop.config["server"]["listen"]:
        if listening["name"] == "unix":
            listening["address"] = str(path)
    daemon = serve(shop.config, ready=False)
    until(path.exists, "the first socket to be bound")
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait() == 0
    assert not path.exists()
    daemon.stop()


# -- the others -----------------------------------------------------------------------------------------------------


def test_usr1_logs_what_status_prints(serve, backend, tmp_path):
    shop = Shop(serve, backend, tmp_path)
    mark = shop.daemon.log.position
    shop.daemon.send_signal(signal.SIGUSR1)
    shop.daemon.log.wait_for('msg="?Status.*parking', start=mark)
    lines = shop.daemon.log.find('msg="?Status', mark)
    assert len(lines) == len(shop.daemon.run("status").stdout.splitlines())
    assert len([line for line in lines if f"pid {shop.daemon.workers()[0]}" in line]) == 1


def test_ttin_and_ttou_change_the_global_pool_until_the_next_reload(serve, backend, tmp_path):
    shop = Shop(serve, backend, tmp_path)
    daemon = shop.daemon
    first = daemon.workers()
    with shop.client() as client, shop.client() as other:
        for number, workers in (
            (signal.SIGTTIN, 3),
            (signal.SIGTTIN, 4),
            (signal.SIGTTOU, 3),
            (signal.SIGTTOU, 2),
            (signal.SIGTTOU, 1),
            (signal.SIGTTOU, 1),
            (signal.SIGTTIN, 2),
            (signal.SIGTTIN, 3),
        ):
            mark = daemon.log.position
            daemon.send_signal(number)
            wait_status(
                daemon,
                lambda status: status["pools"][0]["workers"] == workers and serving(workers)(status),
                f"{workers} workers",
            )
            assert client.ask("map", "k") == other.ask("map", "k") == "OK k"
            if workers > 1:
                daemon.log.wait_for(f"Pool resized.*workers={workers}", start=mark)
        assert first[0] in daemon.workers(), "the first worker had no reason to leave"
        reload(daemon)
        wait_status(daemon, serving(2), "the configured number of workers")
        assert client.ask("map", "k") == other.ask("map", "k") == "OK k"


def test_ttou_waits_for_the_request_in_hand(serve, backend, tmp_path):
    shop = Shop(serve, backend, tmp_path)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(shop.client()) for _ in range(2)]
        for client in clients:
            client.send("map", "worker")
        wait_status(shop.daemon, busy(2), "both workers to be busy")
        shop.daemon.send_signal(signal.SIGTTOU)
        shop.daemon.log.wait_for("Pool resized.*workers=1")
        backend.release("worker")
        assert [client.reply() for client in clients] == ["OK worker"] * 2
        wait_status(shop.daemon, serving(1), "one worker")
        assert [client.ask("map", "k") for client in clients] == ["OK k"] * 2


def test_the_masters_signals_do_its_children_no_harm(serve, backend, tmp_path):
    """A terminal sends INT, QUIT and HUP to every process of its group; only the master minds them."""
    shop = Shop(serve, backend, tmp_path)
    before = proc.children(shop.daemon.pid)
    with shop.client() as client, shop.client() as parked, shop.sasl() as login:
        for child in before:
            for name in ("HUP", "INT", "QUIT", "USR1", "TTIN", "TTOU"):
                os.kill(child, signal.Signals[f"SIG{name}"])
        os.kill(shop.daemon.process_named("parking"), signal.SIGTERM)
        assert client.ask("map", "k") == parked.ask("map", "k") == "OK k"
        login.send_line("CANCEL\t1")
    assert proc.children(shop.daemon.pid) == before


def test_a_storm_of_signals_breaks_nothing(serve, nginx):
    """Reloads, resizes and status in any order and at any time, under load."""
    port = ports.free()
    daemon = serve(
        configuration(
            listener("socket_map", "map", port),
            socket_maps={"map": nginx.map("one")},
            level="info",
            worker_pool={"max_workers": 3, "max_queue": 1000},
        )
    )
    dice = random.Random(3)
    with Load(("127.0.0.1", port), 20, tokens=("one",)) as load:
        load.wait_each(1)
        for _ in range(300):
            daemon.send_signal(dice.choice((signal.SIGHUP, signal.SIGUSR1, signal.SIGTTIN, signal.SIGTTOU)))
            if dice.random() < 0.2:
                load.wait_answers(20)
        reload(daemon)
        load.wait_each(5)
        tally = load.finish()
    assert tally.flawless(), tally
    wait_status(daemon, serving(3), "the configured number of workers")
    assert not daemon.log.find("Process died|Reload failed")

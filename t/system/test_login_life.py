"""Logins while the server lives its life: workers busy, killed and exchanged, clients parked, reloads, parking's death."""

from __future__ import annotations

import base64
import copy
import json
import os
import signal
import time
from typing import Any

import pytest
from kit import ports
from kit.answer import Answer
from kit.backend import Backend
from kit.clients import Closed, Sasl, SocketMap
from kit.configuration import listener, socket_map
from kit.control import wait_status
from kit.logins import ACCOUNT, ANSWERS, RIGHT, WRONG, Logins, login
from kit.proc import kill, suspended, wait_end

OK = f"user={ACCOUNT}"
SOON = 1.0
"""Seconds in which a greeting must be there."""


@pytest.fixture
def answers(backend: Backend) -> Backend:
    """The backend with its usual answers at /login."""
    backend.answer("/login", ANSWERS)
    backend.forget()
    return backend


def site(backend: Backend, **server: object) -> Logins:
    return Logins({"login": login(backend.url("/login"), timeout="20s")}, **server)


def say(client: Sasl, number: int, password: str) -> None:
    """Asks for a login without waiting for the answer."""
    message = base64.b64encode(f"\0ann\0{password}".encode()).decode()
    client.send_line(f"AUTH\t{number}\tPLAIN\tservice=smtp\tresp={message}")


def busy(logins: Logins, backend: Backend, number: int, gate: str) -> list[Sasl]:
    """That many clients whose logins the backend keeps waiting: no worker is free while there are as many."""
    backend.answer("/login", hold=gate, headers={"Auth-User": ACCOUNT})
    clients = [logins.client("login") for _ in range(number)]
    before = backend.count()
    for client in clients:
        say(client, 1, RIGHT)
    workers = len(logins.daemon.workers())
    backend.wait_requests(before + min(number, workers))
    return clients


def greeted(logins: Logins, unix: bool = False) -> float:
    """Seconds until a new client has the whole greeting."""
    begun = time.monotonic()
    with logins.client("login", unix=unix, handshake=False) as client:
        assert client.greet()[-1] == "DONE"
        return time.monotonic() - begun


def test_the_greeting(answers: Backend):
    with site(answers) as logins, logins.client("login") as first, logins.client("login", unix=True) as second:
        names = [line.split("\t")[0] for line in first.greeting]
        assert names == ["VERSION", "MECH", "MECH", "SPID", "CUID", "COOKIE", "DONE"]
        assert first.mechanisms == {"PLAIN": ["plaintext"], "LOGIN": ["plaintext"]}
        mine, other = (
            dict(line.split("\t", 1) for line in client.greeting if "MECH" not in line and "\t" in line)
            for client in (first, second)
        )
        assert mine["SPID"] == other["SPID"] and mine["CUID"] != other["CUID"] and mine["COOKIE"] != other["COOKIE"]
        assert len(mine["COOKIE"]) == 32


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_everybody_is_greeted_while_every_worker_waits_for_a_dead_backend(answers: Backend, unix: bool):
    """Two workers, fifty logins: two wait for the backend, eighteen in the kernel's queue and parking's."""
    with site(answers) as logins:
        waiting = busy(logins, answers, 50, f"dead-{unix}")
        assert max(greeted(logins, unix) for _ in range(20)) < SOON
        newcomers = [logins.client("login", unix=unix) for _ in range(5)]
        for client in newcomers:
            say(client, 7, RIGHT)
        answers.release(f"dead-{unix}")
        assert [client.line() for client in waiting] == [f"OK\t1\t{OK}"] * 50
        assert [client.line() for client in newcomers] == [f"OK\t7\t{OK}"] * 5


def test_everybody_is_greeted_while_every_worker_hangs(answers: Backend):
    with site(answers) as logins, suspended(*logins.daemon.workers()):
        assert max(greeted(logins) for _ in range(10)) < SOON


def test_a_login_survives_parking_between_its_halves(answers: Backend):
    """One worker and ten clients by turns: it holds one, so nine wait in parking at every step."""
    with site(answers, workers=1) as logins:
        clients = [logins.client("login", unix=bool(number % 2)) for number in range(10)]
        for client in clients:
            assert client.auth("LOGIN") == "CONT\t1\tVXNlcm5hbWU6"
        for number, client in enumerate(clients):
            assert client.cont(f"user{number}") == "CONT\t1\tUGFzc3dvcmQ6"
        for number, client in enumerate(reversed(clients)):
            assert client.cont((RIGHT, WRONG)[number % 2]).split("\t")[:2] == [("OK", "FAIL")[number % 2], "1"]
        users = [request.json()["username"] for request in answers.requests()]
        assert users == [f"user{number}" for number in reversed(range(10))]
        assert len(logins.daemon.workers()) == 1


def status(logins: Logins) -> list[dict[str, Any]]:
    """The workers, as `status` shows them."""
    return json.loads(logins.daemon.run("status", "--json").stdout)["workers"]


def serving(logins: Logins) -> int:
    """The process id of the worker that has served most."""
    return max(status(logins), key=lambda worker: worker["requests"])["pid"]


def test_each_half_by_another_worker(answers: Backend):
    with site(answers, workers=1) as logins, logins.client("login") as client:
        seen = []
        for step, reply in (
            (lambda: client.auth("LOGIN", None, "rip=192.0.2.7", "lport=465", "secured"), "CONT\t1\tVXNlcm5hbWU6"),
            (lambda: client.cont("ann"), "CONT\t1\tUGFzc3dvcmQ6"),
            (lambda: client.cont(RIGHT), f"OK\t1\t{OK}"),
        ):
            assert step() == reply
            seen.append(serving(logins))
            kill(seen[-1], signal.SIGTERM)
        assert len(set(seen)) == 3
        known = answers.requests()[0].json()
        assert (known["client_ip"], known["local_port"], known["ssl"]) == ("192.0.2.7", "465", "on")


def test_workers_that_retire_after_each_line(answers: Backend):
    with site(answers, worker_pool={"max_workers": 1, "max_requests": 1}) as logins:
        (before,) = logins.daemon.workers()
        with logins.client("login") as client:
            for _ in range(5):
                assert client.auth("LOGIN", "ann").startswith("CONT")
                assert client.cont(RIGHT) == f"OK\t{client.last_id}\t{OK}"
            wait_end(before)
            assert client.plain("ann", WRONG).startswith("FAIL")


def busy_with(logins: Logins) -> dict[str, int]:
    """Entry -> the process id of the worker that waits for its backend."""
    return {worker["entry"]: worker["pid"] for worker in status(logins) if worker["state"] == "busy"}


def test_another_worker_takes_over_from_one_that_is_busy(answers: Backend):
    """Two workers. The one that heard the first half waits for a backend while the other one hears the second."""
    entries = {"login": login(answers.url("/login"))}
    for name in ("one", "two"):
        answers.answer(f"/{name}", hold=name)
        entries[name] = login(answers.url(f"/{name}"), timeout="20s")
    with Logins(entries) as logins, logins.client("login") as client:
        assert client.auth("LOGIN", "ann").startswith("CONT")
        first = serving(logins)
        others = {name: logins.client(name) for name in ("one", "two")}
        for name, other in others.items():
            say(other, 1, RIGHT)
            answers.wait_requests(1, f"/{name}")
        (held,) = [name for name, pid in busy_with(logins).items() if pid == first]
        (free,) = {"one", "two"} - {held}
        answers.release(free)
        assert others[free].line() == "OK\t1\tuser=ann"
        assert client.cont(RIGHT) == f"OK\t1\t{OK}"
        assert busy_with(logins) == {held: first}
        answers.release(held)
        assert others[held].line() == "OK\t1\tuser=ann"


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_a_client_that_has_given_up_in_the_queue_is_not_asked_for(answers: Backend, unix: bool):
    """A login whose client has hung up before a worker was free for it is not sent to the backend."""
    gate = f"given up {unix}"
    with site(answers, workers=1) as logins:
        (first,) = busy(logins, answers, 1, gate)
        gone, waiting = logins.client("login", unix=unix), logins.client("login", unix=unix)
        answers.answer("/login", ANSWERS)
        mark = logins.log.position
        for client in (gone, waiting):
            say(client, 2, RIGHT)
        wait_status(logins.daemon, lambda told: told["pools"][0]["waiting"] == 2, "two clients in the queue")
        gone.close()
        answers.release(gate)
        assert waiting.line() == f"OK\t2\t{OK}"
        assert first.line() == f"OK\t1\t{OK}"
        logins.log.wait_for("Connection closed.*ended by the client before the reply", start=mark)
        assert answers.count("/login") == 2
        first.close()
        waiting.close()


def test_a_killed_worker_takes_one_login_along(answers: Backend):
    with site(answers, workers=2) as logins:
        parked = logins.client("login")
        assert parked.auth("LOGIN", "ann").startswith("CONT")
        (victim, other) = busy(logins, answers, 2, "killed")
        pids = logins.daemon.workers()
        os.kill(pids[0], signal.SIGKILL)
        logins.log.wait_for("Process died")
        answers.release("killed")
        outcomes = []
        for client in (victim, other):
            try:
                outcomes.append(client.line())
            except Closed as closed:
                outcomes.append(closed.partial)
        assert sorted(outcomes, key=str) == sorted([b"", f"OK\t1\t{OK}"], key=str)
        answers.answer("/login", ANSWERS)
        assert parked.cont(RIGHT) == f"OK\t1\t{OK}"


def test_a_reload_in_the_middle(answers: Backend):
    """Both halves are one login; the second one asks the backend of the new configuration."""
    answers.answer("/elsewhere", headers={"Auth-User": "elsewhere"})
    with site(answers) as logins:
        clients = [logins.client("login", unix=bool(number % 2)) for number in range(6)]
        for client in clients:
            assert client.auth("LOGIN", "ann").startswith("CONT")
        changed = copy.deepcopy(logins.config)
        changed["dovecot_sasl"]["login"]["target"] = answers.url("/elsewhere")
        old = logins.daemon.workers()
        assert "Configuration reloaded" in logins.daemon.reload(changed)
        for client in clients:
            assert client.cont(RIGHT) == "OK\t1\tuser=elsewhere"
        for pid in old:
            wait_end(pid)
        for client in clients:
            assert client.plain("ann", RIGHT) == "OK\t2\tuser=elsewhere"


def test_a_reload_while_the_backend_is_asked(answers: Backend):
    with site(answers) as logins:
        clients = busy(logins, answers, 2, "reload")
        logins.daemon.send_signal(signal.SIGHUP)
        assert greeted(logins) < SOON
        answers.release("reload")
        assert [client.line() for client in clients] == [f"OK\t1\t{OK}"] * 2
        logins.log.wait_for("Configuration reloaded")


def test_a_service_that_a_reload_takes_away(answers: Backend):
    """Who is connected cannot be told anything but that it is over: as in an outage, without an answer."""
    with Logins({"login": login(answers.url("/login")), "other": login(answers.url("/login"))}) as logins:
        half, idle = logins.client("other"), logins.client("other")
        assert half.auth("LOGIN", "ann").startswith("CONT")
        changed = copy.deepcopy(logins.config)
        del changed["dovecot_sasl"]["other"]
        changed["server"]["listen"] = [each for each in changed["server"]["listen"] if each["name"] != "other"]
        assert "Configuration reloaded" in logins.daemon.reload(changed)
        half.send_line("CONT\t1\tcGFzcw==")
        assert half.closed()
        say(idle, 1, RIGHT)
        assert idle.closed()
        assert answers.count() == 0
        with logins.client("login") as client:
            assert client.plain("ann", RIGHT) == f"OK\t1\t{OK}"


def test_parkings_death_costs_connections_and_nothing_else(answers: Backend):
    with site(answers, workers=1) as logins:
        parked = [logins.client("login", unix=bool(number % 2)) for number in range(4)]
        assert parked[0].auth("LOGIN", "ann").startswith("CONT")
        (held,) = busy(logins, answers, 1, "parking")
        kill(logins.daemon.process_named("parking"))
        assert [client.closed() for client in parked] == [True] * 4
        with logins.client("login") as newcomer:
            assert newcomer.mechanisms.keys() == {"PLAIN", "LOGIN"}
            answers.release("parking")
            assert held.line() == f"OK\t1\t{OK}"
            say(held, 2, RIGHT)
            say(newcomer, 1, RIGHT)
            assert (held.line(), newcomer.line()) == (f"OK\t2\t{OK}", f"OK\t1\t{OK}")


def test_a_silent_client_is_never_sent_away(answers: Backend):
    """Others are, after the same time: the first to go shows that it has passed."""
    port = ports.free()
    entries = {"login": login(answers.url("/login"))}
    with Logins(entries, client_idle_timeout="1s", workers=1) as logins:
        changed = copy.deepcopy(logins.config)
        changed["server"]["listen"].append(listener("socket_map", "map", port))
        changed["socket_maps"] = {"map": socket_map(answers.url("/map"))}
        assert "Configuration reloaded" in logins.daemon.reload(changed)
        clients = [logins.client("login"), logins.client("login", handshake=False), logins.client("login")]
        clients[1].greet()
        clients[1].send_raw(b"VERS")
        assert clients[2].auth("LOGIN").startswith("CONT")
        for _ in range(2):
            with SocketMap(("127.0.0.1", port)) as other:
                other.ask("map", "x")
                assert other.closed()
        clients[1].send_line("ION\t1\t1\nCPID\t1")
        assert clients[0].plain("ann", RIGHT) == clients[1].plain("ann", RIGHT) == f"OK\t1\t{OK}"
        assert clients[2].cont("ann").startswith("CONT") and clients[2].cont(RIGHT) == f"OK\t1\t{OK}"


def test_at_the_end_a_login_in_hand_is_answered(answers: Backend):
    with site(answers) as logins:
        (client,) = busy(logins, answers, 1, "stop")
        idle = logins.client("login")
        logins.daemon.send_signal(signal.SIGTERM)
        logins.log.wait_for("Stopping")
        answers.release("stop")
        assert client.line() == f"OK\t1\t{OK}"
        assert client.closed() and idle.closed()
        assert logins.daemon.wait() == 0


def test_a_breaker_answers_at_once(answers: Backend):
    """After so many outages in a row nobody waits any more, and the greeting was never in doubt."""
    answers.answer("/login", Answer(503))
    with site(answers, circuit_breaker={"failures": 2, "cooldown": "1h"}) as logins:
        for _ in range(4):
            client = logins.client("login")
            say(client, 1, RIGHT)
            assert client.closed()
        assert answers.count() == 2
        assert len(logins.log.find("has failed repeatedly")) == 2
        assert greeted(logins) < SOON

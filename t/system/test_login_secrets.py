"""Where a password is and where it is not: seen by a password that is looked for everywhere after each kind of login."""

from __future__ import annotations

import base64
import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.answer import Answer, Keyed
from kit.backend import Backend
from kit.clients import Sasl
from kit.logins import ACCOUNT, Logins, login
from kit.needs import needs
from kit.proc import memory_contains

pytestmark = pytest.mark.executed

HELD = "held"
MANY = 5
"""Clients at a time, more than there are workers."""


class Password:
    """A password that stands nowhere else, and every form in which it goes through the server."""

    def __init__(self, user: str = "ann") -> None:
        self.user = user
        self.text = "pw-" + secrets.token_hex(16)

    @property
    def plain(self) -> bytes:
        return base64.b64encode(f"\0{self.user}\0{self.text}".encode())

    @property
    def alone(self) -> bytes:
        return base64.b64encode(self.text.encode())

    @property
    def forms(self) -> tuple[bytes, ...]:
        """A piece of each, so that a part of it is found, too."""
        return self.text.encode()[5:25], self.plain[-32:-8], self.alone[4:28]


@pytest.fixture(scope="module")
def site(backend: Backend) -> Iterator[Logins]:
    """Debug level, the cache enabled, two workers."""
    by_user = {
        "ann": Answer(200, {"Auth-User": ACCOUNT}),
        "wrong": Answer(403, {"Auth-Status": "no"}),
        "outage": Answer(503),
        "odd": Answer(raw=b"\xff\xfe", then="close"),
        "hanging": Answer(silent=True),
        "patience": Answer(200, hold=HELD),
    }
    backend.answer("/login", Keyed(by_user, Answer(404), "username"))
    entries = {
        "login": login(backend.url("/login"), timeout="200ms"),
        "failing": login(backend.url("/login"), timeout="200ms", temporary_failure="fail"),
        "waiting": login(backend.url("/login"), timeout="20s"),
    }
    cache = {"enabled": True, "ttl": "1h"}
    with Logins(entries, level="debug", response_cache=cache) as started:
        yield started


def everywhere(logins: Logins) -> str:
    """All that anybody is shown: the log, the titles, the status in each form."""
    mark = logins.log.position
    logins.daemon.send_signal(signal.SIGUSR1)
    logins.log.wait_for("Status.*parking", start=mark)
    shown = [logins.log.text, logins.daemon.run("status").stdout, logins.daemon.run("status", "--json").stdout]
    for pid in logins.daemon.processes():
        for name in ("cmdline", "environ", "comm"):
            shown.append(Path(f"/proc/{pid}/{name}").read_bytes().decode("latin-1"))
    return "\n".join(shown)


def at_rest(logins: Logins) -> list[int]:
    """The processes that never serve a request: the master, with the scoreboard in its memory, parking, the cache."""
    daemon = logins.daemon
    return [daemon.pid, daemon.process_named("parking"), daemon.process_named("cache")]


def plain_in_one_piece(client: Sasl, password: Password) -> None:
    client.send_line(f"AUTH\t1\tPLAIN\tservice=smtp\tresp={password.plain.decode()}")


def plain_by_cont(client: Sasl, password: Password) -> None:
    assert client.auth("PLAIN").startswith("CONT")
    client.send_line(f"CONT\t1\t{password.plain.decode()}")


def login_in_halves(client: Sasl, password: Password) -> None:
    assert client.auth("LOGIN").startswith("CONT")
    assert client.cont(password.user).startswith("CONT")
    client.send_line(f"CONT\t1\t{password.alone.decode()}")


def password_as_the_user(client: Sasl, password: Password) -> None:
    """What users do: the password where the name belongs. It is refused there if it cannot be a name."""
    client.send_line("AUTH\t1\tLOGIN\tresp=" + base64.b64encode(b"\0" + password.text.encode()).decode())


def broken(client: Sasl, password: Password) -> None:
    """In a line that says nothing."""
    client.send_line(
        f"AUTH\t1\tPLAIN\tresp={password.plain.decode()}=\nCONT\t2\t{password.plain.decode()}\n"
        f"AUTH\t3\tMADEUP\t{password.text}\tresp={password.plain.decode()}\nAUTH\t{password.text}\n{password.text}"
    )


WAYS = (plain_in_one_piece, plain_by_cont, login_in_halves, password_as_the_user, broken)
USERS = ("ann", "wrong", "outage", "odd", "hanging")


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
@pytest.mark.parametrize("service", ["login", "failing"])
def test_nothing_shows_a_password(site: Logins, service: str, unix: bool):
    """Of 25 logins, each of another user and by another way, which are answered, refused, dropped or broken."""
    needs("root")
    uses: dict[str, str] = {}
    for user in USERS:
        for way in WAYS:
            password = Password(user)
            uses |= {form.decode(): f"{user} by {way.__name__}" for form in password.forms}
            with site.client(service, unix=unix) as client:
                way(client, password)
                client.replies()
    shown = everywhere(site)
    assert all(user in shown for user in USERS), "the log tells of all"
    assert {use for form, use in uses.items() if form in shown} == set()
    for pid in at_rest(site):
        assert {uses[form.decode()] for form in memory_contains(pid, *map(str.encode, uses))} == set()


def test_nothing_shows_a_password_while_the_backend_is_asked(site: Logins, backend: Backend):
    """Nor who the user is, but for the log when it is decided: only which service is busy."""
    needs("root")
    password = Password("patience")
    mark = site.log.position
    with site.client("waiting") as client:
        plain_in_one_piece(client, password)
        backend.wait_requests(1, "/login")
        shown = everywhere(site)
        titles = " ".join(site.daemon.children().values())
        backend.release(HELD)
        assert client.line() == "OK\t1\tuser=patience"
    assert "global waiting" in titles and "busy" in shown
    for form in (password.user, password.text, password.plain.decode()):
        assert form not in shown
    site.log.wait_for("user=patience", start=mark)


def test_parking_never_has_a_password_that_came_in_one_piece(site: Logins):
    """However many wait: it gives a client that speaks away unread. LOGIN's user name it has, and that only."""
    needs("root")
    passwords = [Password() for _ in range(MANY)]
    clients = [site.client("login") for _ in range(MANY)]
    for _ in range(3):
        for number, (client, password) in enumerate(zip(clients, passwords)):
            way = (plain_in_one_piece, plain_by_cont, login_in_halves)[number % 3]
            client._ids = iter((1,))
            way(client, password)
            assert client.line() == f"OK\t1\tuser={ACCOUNT}"
    halves = [Password(f"user-{secrets.token_hex(16)}") for _ in range(MANY)]
    for client, half in zip(clients, halves):
        client._ids = iter((2,))
        assert client.auth("LOGIN", half.user).startswith("CONT")
    parking = site.daemon.process_named("parking")
    forms = [form for password in (*passwords, *halves) for form in password.forms]
    assert memory_contains(parking, *forms) == set()
    names = [half.user.encode() for half in halves]
    assert memory_contains(parking, *names), "the search finds what is there"
    for client in clients:
        client.close()


def test_nor_one_that_came_with_the_handshake(site: Logins):
    """As Exim's come; many at once, so that every worker has others to attend to."""
    needs("root")
    passwords = [Password() for _ in range(10 * MANY)]
    clients = [site.client("login", handshake=False) for _ in passwords]
    for client, password in zip(clients, passwords):
        client.greet()
        client.send_raw(b"VERSION\t1\t1\nCPID\t7\nAUTH\t1\tPLAIN\tresp=" + password.plain + b"\n")
    for client in clients:
        assert client.line() == f"OK\t1\tuser={ACCOUNT}"
    forms = [form for password in passwords for form in password.forms]
    assert memory_contains(site.daemon.process_named("parking"), *forms) == set()
    for client in clients:
        client.close()


def test_what_passes_through_parking_is_the_rest_of_a_line(site: Logins):
    """A client that was parked in the middle of a line is read by parking until the line is whole: there is no other way
    to keep its slowness from the workers. What this test finds there, the one above would find, too."""
    needs("root")
    password = Password()
    line = f"AUTH\t1\tPLAIN\tservice=smtp\tresp={password.plain.decode()}\n".encode()
    slow = site.client("login")
    slow.send_raw(line[:-4])
    others = [site.client("login") for _ in range(MANY)]
    for other in others:
        assert other.plain("ann", Password().text) == f"OK\t1\tuser={ACCOUNT}"
        assert other.plain("ann", Password().text) == f"OK\t2\tuser={ACCOUNT}"
    assert memory_contains(site.daemon.process_named("parking"), password.forms[1]) == {password.forms[1]}
    slow.send_raw(line[-4:])
    assert slow.line() == f"OK\t1\tuser={ACCOUNT}"
    for client in (slow, *others):
        client.close()


def test_a_workers_death_tells_nothing(site: Logins, backend: Backend):
    """Killed in the middle of a login: the log says who died, and no more."""
    backend.answer("/killed", hold="never")
    password = Password("killed")
    entries = {"login": login(backend.url("/killed"), timeout="20s")}
    with Logins(entries, workers=1) as logins, logins.client("login") as client:
        plain_in_one_piece(client, password)
        backend.wait_requests(1, "/killed")
        (worker,) = logins.daemon.workers()
        os.kill(worker, signal.SIGABRT)
        logins.log.wait_for("Process died")
        assert client.closed()
        assert password.text not in logins.log.text and password.plain.decode() not in logins.log.text
    backend.release("never")

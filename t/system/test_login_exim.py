"""A real Exim logs its users in by its `dovecot` authenticator: 235, 535 and 435, and never a 535 for an outage."""

from __future__ import annotations

import base64
import smtplib
from collections.abc import Iterator

import pytest
from kit import ports
from kit.authenticate import WAYS, Way, login_when_asked, plain_at_once, plain_when_asked
from kit.backend import Backend
from kit.exim import Exim
from kit.logins import ACCOUNT, ANSWERS, OUTAGES, REFUSALS, RIGHT, WRONG, Logins, login
from kit.needs import needs

pytestmark = pytest.mark.usefixtures("same_workers")

IN, NO, LATER = 235, 535, 435


@pytest.fixture(scope="module")
def site(backend: Backend) -> Iterator[Logins]:
    backend.answer("/login", ANSWERS)
    with ports.refusing() as nobody:
        entries = {
            "login": login(backend.url("/login")),
            "refusing": login(f"http://127.0.0.1:{nobody}/"),
            "failing": login(backend.url("/login"), temporary_failure="fail"),
        }
        with Logins(entries) as started:
            yield started


@pytest.fixture(scope="module")
def over_unix(site: Logins) -> Iterator[Exim]:
    needs("root", "exim")
    with Exim(site.sockets["login"]) as started:
        yield started


@pytest.fixture(scope="module")
def over_tcp(site: Logins) -> Iterator[Exim]:
    needs("root", "exim")
    with Exim(f"127.0.0.1 {site.ports['login']}") as started:
        yield started


@pytest.fixture(params=["over_unix", "over_tcp"])
def exim(request: pytest.FixtureRequest) -> Exim:
    return request.getfixturevalue(request.param)


@pytest.fixture
def client(over_unix: Exim) -> Iterator[smtplib.SMTP]:
    with over_unix.smtp() as connected:
        yield connected


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return request.param


def test_the_right_password(exim: Exim, way: Way, backend: Backend):
    backend.forget()
    with exim.smtp() as client:
        assert way(client, b"ann", RIGHT.encode()) == (IN, "Authentication succeeded")
        assert client.docmd("MAIL", "FROM:<ann@example.test>")[0] == 250
        assert client.docmd("RCPT", "TO:<far@elsewhere.example>")[0] == 250, "Exim takes the user as authenticated"
    seen = backend.requests()[0].json()
    mechanism = way.__name__.partition("_")[0].upper()
    expected = {"username": "ann", "password": RIGHT, "method": mechanism, "client_ip": "127.0.0.1", "protocol": "smtp"}
    assert expected.items() <= seen.items()


def test_a_wrong_password(exim: Exim, way: Way):
    with exim.smtp() as client:
        assert way(client, b"ann", WRONG.encode()) == (NO, "Incorrect authentication data")
        assert client.docmd("MAIL", "FROM:<ann@example.test>")[0] == 250
        assert client.docmd("RCPT", "TO:<far@elsewhere.example>")[0] == 550


@pytest.mark.parametrize("password", [*REFUSALS, *OUTAGES])
def test_every_answer_of_a_backend(client: smtplib.SMTP, password: str):
    wanted = LATER if password in OUTAGES else NO
    assert plain_at_once(client, b"ann", password.encode()).code == wanted


def test_an_outage_and_then_a_login_on_one_connection(exim: Exim, way: Way):
    with exim.smtp() as client:
        assert way(client, b"ann", b"503") == (LATER, "Unable to authenticate at present")
        assert way(client, b"ann", RIGHT.encode()).code == IN


def test_a_backend_that_refuses_connections(site: Logins):
    needs("root", "exim")
    with Exim(site.sockets["refusing"]) as exim, exim.smtp() as client:
        assert plain_at_once(client, b"ann", RIGHT.encode()).code == LATER
        assert login_when_asked(client, b"ann", RIGHT.encode()).code == LATER


def test_why_temporary_failures_are_dropped(site: Logins):
    """Exim takes every FAIL for a wrong password, too."""
    needs("root", "exim")
    with Exim(site.sockets["failing"]) as exim, exim.smtp() as client:
        assert plain_at_once(client, b"ann", b"500").code == NO
        assert plain_at_once(client, b"ann", RIGHT.encode()).code == IN


HOSTILE = "o\"},{\\u0000/../%00$(id)`id`<b>ü€😀${run{/bin/id}}' OR 1=1 --=,;&#\u202e\t\r\x01\x1b\x7f"


def test_a_hostile_user_name_is_data(client: smtplib.SMTP, way: Way, backend: Backend, site: Logins):
    backend.forget()
    mark = site.log.position
    assert way(client, HOSTILE.encode(), RIGHT.encode()).code == IN
    assert backend.requests()[0].json()["username"] == HOSTILE
    assert f"account={ACCOUNT}" in site.log.wait_for("Authentication succeeded", start=mark)


def test_a_hostile_user_name_is_no_account(client: smtplib.SMTP, way: Way):
    assert way(client, HOSTILE.encode(), b"as given").code == NO


def test_a_user_who_adds_parameters_of_his_own(client: smtplib.SMTP, backend: Backend):
    """Exim passes on what its client wrote without a look; nothing is read behind the response."""
    backend.forget()
    coded = base64.b64encode(b"\0ann\0" + RIGHT.encode()).decode()
    for tail in ("\tsecured", "\trip=192.0.2.1", "\tresp=AGJvYgBwYXNz"):
        assert client.docmd("AUTH", f"PLAIN {coded}{tail}")[0] not in (IN, LATER)
    assert backend.count() == 0


@pytest.mark.parametrize("way", [plain_when_asked, login_when_asked], ids=lambda way: way.__name__)
def test_a_long_password(client: smtplib.SMTP, backend: Backend, way: Way):
    password = b"x" * 9200
    backend.forget()
    assert way(client, b"ann", password).code == NO
    assert backend.requests()[0].json()["password"] == password.decode()


def test_many_at_once(exim: Exim):
    """Exim forks for each, and each has a connection of its own to the service."""
    clients = [exim.smtp() for _ in range(20)]
    try:
        for number, client in enumerate(clients):
            client.putcmd(
                "AUTH", "PLAIN " + base64.b64encode(f"\0u\0{(RIGHT, WRONG, '500')[number % 3]}".encode()).decode()
            )
        assert [client.getreply()[0] for client in clients] == [(IN, NO, LATER)[number % 3] for number in range(20)]
    finally:
        for client in clients:
            client.close()

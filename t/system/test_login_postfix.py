"""A real smtpd logs its users in: 235, 535 and 454 exactly where they belong, and never a 535 for an outage."""

from __future__ import annotations

import base64
import contextlib
import smtplib
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest
from kit import ports
from kit.answer import Answer, Keyed
from kit.authenticate import WAYS, Way, login_at_once, login_when_asked, plain_at_once, plain_when_asked
from kit.backend import Backend
from kit.certificates import Authority
from kit.logins import ACCOUNT, ANSWERS, OUTAGES, REFUSALS, RIGHT, WRONG, Logins, login
from kit.needs import needs, program
from kit.postfix import Postfix, Smtpd

pytestmark = pytest.mark.usefixtures("same_workers")

IN, NO, LATER = 235, 535, 454
HANGING = 8.0
"""The default deadline of a login, in seconds; Postfix's own patience is 10."""


@pytest.fixture(scope="module")
def site(backend: Backend) -> Iterator[Logins]:
    backend.answer("/login", ANSWERS)
    with ports.refusing() as nobody, ports.unanswered() as nowhere:
        entries = {
            "login": login(backend.url("/login")),
            "refusing": login(f"http://127.0.0.1:{nobody}/"),
            "unanswered": login(f"http://127.0.0.1:{nowhere}/"),
            "untrusted": login(f"https://127.0.0.1:{backend.port}/login"),
            "hanging": {"target": backend.url("/login")},
            "late": login(backend.url("/late"), timeout="30s"),
            "failing": login(backend.url("/login"), temporary_failure="fail"),
            "mistyped": login(backend.url("/logn")),
            "rejecting": login(backend.url("/login"), reject_status=400),
        }
        with Logins(entries, workers=4) as started:
            yield started


@pytest.fixture(scope="module")
def postfix(site: Logins, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postfix]:
    """The main smtpd asks over TCP; there is one over the Unix socket, one with TLS, and one for each odd service."""
    needs("root", "postfix")
    pair = Authority(tmp_path_factory.mktemp("ca")).server()
    main = [
        "smtpd_sasl_auth_enable = yes",
        "smtpd_sasl_type = dovecot",
        "default_process_limit = 250",
        "smtpd_client_connection_count_limit = 0",
        f"smtpd_sasl_path = inet:127.0.0.1:{site.ports['login']}",
    ]
    odd = ("refusing", "unanswered", "untrusted", "hanging", "late", "failing", "mistyped", "rejecting")
    others = {name: Smtpd((f"smtpd_sasl_path = inet:127.0.0.1:{site.ports[name]}",)) for name in odd}
    others["unix"] = Smtpd((f"smtpd_sasl_path = {site.sockets['login']}",))
    tls = (
        f"smtpd_tls_cert_file = {pair.certificate}",
        f"smtpd_tls_key_file = {pair.key}",
        "smtpd_tls_security_level = may",
    )
    others["tls"] = Smtpd((*tls, "smtpd_tls_auth_only = yes"))
    others["noplaintext"] = Smtpd(("smtpd_sasl_security_options = noanonymous, noplaintext",))
    with Postfix(main, others=others) as started:
        yield started


@pytest.fixture(params=["", "unix"], ids=["tcp", "unix"])
def client(postfix: Postfix, request: pytest.FixtureRequest) -> Iterator[smtplib.SMTP]:
    with postfix.smtp(request.param) as connected:
        yield connected


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return request.param


def test_smtpd_offers_both_mechanisms(client: smtplib.SMTP):
    assert client.esmtp_features["auth"].split() == ["PLAIN", "LOGIN"]


def test_the_right_password(client: smtplib.SMTP, way: Way, backend: Backend):
    backend.forget()
    assert way(client, b"ann", RIGHT.encode()) == (IN, "2.7.0 Authentication successful")
    (request,) = backend.requests()
    mechanism = way.__name__.partition("_")[0].upper()
    assert request.json() == {
        "username": "ann",
        "password": RIGHT,
        "protocol": "smtp",
        "method": mechanism,
        "client_ip": "127.0.0.1",
        "local_ip": "127.0.0.1",
    }


@pytest.mark.parametrize("password", REFUSALS)
def test_a_refusal(client: smtplib.SMTP, way: Way, password: str):
    outcome = way(client, b"ann", password.encode())
    assert outcome.code == NO
    assert dict(REFUSALS[password].headers).get("Auth-Status", "") in outcome.text


@pytest.mark.parametrize("password", OUTAGES)
def test_an_outage_is_never_a_wrong_password(client: smtplib.SMTP, way: Way, password: str):
    outcome = way(client, b"ann", password.encode())
    assert outcome == (LATER, "4.7.0 Temporary authentication failure: Connection lost to authentication server")
    assert way(client, b"ann", RIGHT.encode()).code == IN, "the next one, on the connection that Postfix lost"


def test_a_typo_in_the_url_tells_nobody_that_the_password_is_wrong(
    postfix: Postfix, site: Logins, backend: Backend, way: Way
):
    backend.answer("/logn", Answer(404, body=b"<h1>Not Found</h1>"))
    mark = site.log.position
    with postfix.smtp("mistyped") as client:
        assert way(client, b"ann", RIGHT.encode()).code == LATER
    site.log.wait_for('could not be decided.* user=ann .*reason="backend answered with status code 404', start=mark)


def test_a_code_that_means_a_wrong_password_without_a_reason(postfix: Postfix, way: Way):
    with postfix.smtp("rejecting") as client:
        assert way(client, b"ann", b"400 without a reason") == (
            NO,
            "5.7.8 Error: authentication failed: authentication failed",
        )
        assert way(client, b"ann", b"wrong URL").code == LATER
        assert way(client, b"ann", RIGHT.encode()).code == IN


def test_postfix_logs_who_was_refused(postfix: Postfix, client: smtplib.SMTP, way: Way):
    user = f"ann+{way.__name__}-{time.monotonic_ns()}@example.test"
    assert way(client, user.encode(), WRONG.encode()).code == NO
    mechanism = way.__name__.partition("_")[0].upper()
    postfix.wait_log(f"SASL {mechanism} authentication failed: Invalid username or password, sasl_username={user}")


@pytest.mark.parametrize("service", ["refusing", "unanswered", "untrusted"])
def test_a_backend_that_cannot_be_reached(postfix: Postfix, service: str, way: Way):
    with postfix.smtp(service) as client:
        for _ in range(2):
            assert way(client, b"ann", RIGHT.encode()).code == LATER


def test_outages_and_logins_by_turns(client: smtplib.SMTP):
    """Each outage costs the connection, and nobody else's login."""
    for password in ("500", WRONG, "429", "503", WRONG, "hang-up", WRONG, WRONG, "401"):
        wanted = LATER if password in OUTAGES else NO
        assert plain_at_once(client, b"ann", password.encode()).code == wanted, password
    assert plain_at_once(client, b"ann", RIGHT.encode()).code == IN


class Session:
    """A raw SMTP session: lines out, replies in, so that many can be under way at once."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 60)
        self._lines = self._socket.makefile("rb")

    def say(self, line: bytes) -> None:
        self._socket.sendall(line + b"\r\n")

    def authenticate(self, user: str, password: str) -> None:
        self.say(b"AUTH PLAIN " + base64.b64encode(f"\0{user}\0{password}".encode()))

    def reply(self) -> int:
        while (line := self._lines.readline())[3:4] == b"-":
            pass
        return int(line[:3])

    def __enter__(self) -> Session:
        assert self.reply() == 220
        self.say(b"EHLO client.example.test")
        assert self.reply() == 250
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()


def test_our_patience_is_shorter_than_postfixs(postfix: Postfix, site: Logins, backend: Backend):
    """By default the deadline passes here first. Where it has been set too long Postfix hangs up on the login, and the yes
    that comes for it when it is too late lets nobody in: neither its user nor the next one on the same connection."""
    late = Answer(200, {"Auth-User": ACCOUNT}, hold="late")
    backend.answer("/late", Keyed({"late": late, RIGHT: Answer(200)}, REFUSALS[WRONG], "password"))
    mark = site.log.position
    with Session(postfix.ports["hanging"]) as first, Session(postfix.ports["late"]) as second:
        begun = time.monotonic()
        first.authenticate("ann", "silence")
        second.authenticate("ann", "late")
        assert first.reply() == LATER
        assert HANGING - 0.1 < time.monotonic() - begun < 9.9
        site.log.wait_for('could not be decided.*reason="backend timed out', start=mark)
        assert second.reply() == LATER
        assert time.monotonic() - begun > 9.5, "that was Postfix's own patience"
        backend.release("late")
        site.log.wait_for("Authentication succeeded.* user=ann ", start=mark)
        second.authenticate("eve", WRONG)
        assert second.reply() in (NO, LATER)
        second.authenticate("eve", WRONG)
        assert second.reply() == NO
        second.authenticate("bob", RIGHT)
        assert second.reply() == IN


def test_why_temporary_failures_are_dropped(postfix: Postfix, site: Logins):
    """With `temporary_failure: fail` Postfix says 535, whatever the FAIL says: hence the default."""
    with postfix.smtp("failing") as client:
        assert plain_at_once(client, b"ann", b"500").code == NO
        assert plain_at_once(client, b"ann", RIGHT.encode()).code == IN
    with site.client("failing") as direct:
        assert (
            direct.plain("ann", "500")
            == "FAIL\t1\tuser=ann\ttemp\tcode=temp_fail\treason=temporary authentication failure"
        )


HOSTILE = 'o"},{\\u0000/../%00$(id)`id`<b>ü€😀\\"{{ .Key }}\' OR 1=1 --=,;&#\u202e'
CONTROL = "\t\n\r\x01\x1b\x7f\x85"


@pytest.mark.parametrize(
    "user", [HOSTILE, HOSTILE + CONTROL, " ", "u" * 1000], ids=["printable", "control", "blank", "long"]
)
def test_a_hostile_user_name_is_data(client: smtplib.SMTP, way: Way, backend: Backend, site: Logins, user: str):
    backend.forget()
    mark = site.log.position
    assert way(client, user.encode(), RIGHT.encode()).code == IN
    (request,) = backend.requests()
    assert request.json()["username"] == user and len(request.json()) == 6
    line = site.log.wait_for("Authentication succeeded", start=mark)
    assert f"account={ACCOUNT}" in line and line.isprintable()


def test_a_hostile_user_name_as_the_account(client: smtplib.SMTP, way: Way):
    """Where the backend names no account it is the user: all of it, or not at all."""
    assert way(client, (HOSTILE + CONTROL).encode(), b"as given").code == NO
    assert way(client, b" ", b"as given").code == NO
    assert way(client, HOSTILE.encode(), b"as given").code == IN


@pytest.mark.parametrize(
    "user, password", [(b"a\0b", b"p"), (b"", b"p"), (b"ann", b""), (b"\xff", b"p"), (b"ann", b"\xff")]
)
def test_what_no_user_can_have_typed_never_reaches_the_backend(
    client: smtplib.SMTP, backend: Backend, user: bytes, password: bytes
):
    backend.forget()
    assert plain_at_once(client, user, password).code == NO
    assert plain_when_asked(client, user, password).code == NO
    assert backend.count() == 0


def test_a_long_password(client: smtplib.SMTP, backend: Backend):
    """The longest response that Postfix takes: smtpd_sasl_response_limit, 12288 bytes of base64."""
    password = b"x" * 9200
    for way in (plain_when_asked, login_when_asked):
        backend.forget()
        assert way(client, b"ann", password).code == NO
        assert backend.requests()[0].json()["password"] == password.decode()


def test_an_identity_of_somebody_else(client: smtplib.SMTP, backend: Backend):
    backend.forget()
    for authorization, code in ((b"admin", NO), (b"ann", IN)):
        message = base64.b64encode(authorization + b"\0ann\0" + RIGHT.encode()).decode()
        assert client.docmd("AUTH", "PLAIN " + message)[0] == code
    assert backend.count() == 1


def test_a_client_that_thinks_better_of_it(client: smtplib.SMTP):
    """Postfix tells nobody of a `*`; the next AUTH goes its way."""
    for _ in range(100):
        assert client.docmd("AUTH", "LOGIN")[0] == 334
        assert client.docmd("*")[0] == 501
    assert login_when_asked(client, b"ann", RIGHT.encode()).code == IN


def test_no_base64(client: smtplib.SMTP):
    for word in ("=", "A", "AB!=", "QQ=", "QUJD="):
        assert client.docmd("AUTH", "PLAIN")[0] == 334
        assert client.docmd(word)[0] == NO, word
    assert plain_at_once(client, b"ann", RIGHT.encode()).code == IN


def test_mail_is_sent_as_the_account_that_the_backend_named(postfix: Postfix):
    with postfix.smtp() as client:
        assert plain_at_once(client, b"ann", RIGHT.encode()).code == IN
        client.sendmail("ann@example.test", ["far@elsewhere.example"], "Subject: hello\r\n\r\nhello\r\n")
    postfix.wait_log(f"sasl_method=PLAIN, sasl_username={ACCOUNT}")


def test_over_tls(postfix: Postfix, backend: Backend):
    with postfix.smtp("tls") as client:
        assert "auth" not in client.esmtp_features
        client.starttls()
        client.ehlo()
        backend.forget()
        assert login_at_once(client, b"ann", RIGHT.encode()).code == IN
    assert backend.requests()[0].json()["ssl"] == "on"


def test_noplaintext_holds_for_both_mechanisms(postfix: Postfix):
    """An smtpd that is left with no mechanism ends; this one would offer them if they were not flagged `plaintext`."""
    with pytest.raises(smtplib.SMTPServerDisconnected):
        postfix.smtp("noplaintext")
    postfix.wait_log("fatal: no SASL authentication mechanisms")


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("password, code, status", [(RIGHT, IN, 0), (WRONG, NO, 28), ("500", LATER, 28)])
def test_swaks(postfix: Postfix, mechanism: str, password: str, code: int, status: int):
    needs("swaks")
    done = subprocess.run(
        [program("swaks") or "swaks", "--server", f"127.0.0.1:{postfix.port}", "--auth", mechanism,
         "--auth-user", "ann", "--auth-password", password, "--quit-after", "AUTH"],
        capture_output=True, text=True, timeout=30)  # fmt: skip
    assert done.returncode == status, done.stdout
    assert f" {code} " in done.stdout


def coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_two_smtpds_do_not_mix_their_users(postfix: Postfix, backend: Backend, site: Logins):
    backend.answer("/login", Keyed({"ann's": Answer(200)}, REFUSALS[WRONG], "password"))
    try:
        for _ in range(5):
            mark = site.log.position
            with postfix.smtp() as ann, postfix.smtp() as bob:
                for client in (ann, bob):
                    assert client.docmd("AUTH", "LOGIN")[0] == 334
                for client, name in ((bob, "bob"), (ann, "ann")):
                    assert client.docmd(coded(name))[0] == 334
                assert ann.docmd(coded("ann's"))[0] == IN
                assert bob.docmd(coded("anns"))[0] == NO
            site.log.wait_for("Authentication succeeded.* user=ann .*account=ann", start=mark)
            site.log.wait_for("Authentication failed.* user=bob ", start=mark)
    finally:
        backend.answer("/login", ANSWERS)


def test_two_hundred_connections_at_once(postfix: Postfix, backend: Backend):
    kinds = ((RIGHT, IN), (WRONG, NO), ("503", LATER), (RIGHT, IN))
    backend.forget()
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(Session(postfix.port)) for _ in range(200)]
        for number, session in enumerate(sessions):
            session.authenticate(f"user{number}", kinds[number % 4][0])
        outcomes = [session.reply() for session in sessions]
    assert outcomes == [kinds[number % 4][1] for number in range(200)]
    asked = {request.json()["username"] for request in backend.requests()}
    assert asked == {f"user{number}" for number in range(200)}


def test_a_chrooted_smtpd(backend: Backend):
    """The path is relative to the queue directory, chrooted or not; an absolute one leads nowhere in the jail."""
    needs("root", "postfix")
    sasl = ("smtpd_sasl_auth_enable = yes", "smtpd_sasl_type = dovecot")
    relative = (*sasl, "smtpd_sasl_path = private/pfxhttpd-login")
    with Logins({"login": login(backend.url("/login"))}) as outside:
        services = {
            "jailed": Smtpd(relative, chroot=True),
            "free": Smtpd(relative),
            "over tcp": Smtpd((*sasl, f"smtpd_sasl_path = inet:127.0.0.1:{outside.ports['login']}"), chroot=True),
            "absolute": Smtpd((*sasl, f"smtpd_sasl_path = {outside.sockets['login']}"), chroot=True),
        }
        with Postfix(others=services) as second:
            path = second.directory / "queue/private/pfxhttpd-login"
            with Logins({"login": login(backend.url("/login"))}, {"login": str(path)}):
                for name in ("jailed", "free", "over tcp"):
                    with second.smtp(name) as client:
                        assert plain_at_once(client, b"ann", RIGHT.encode()).code == IN, name
            with pytest.raises(smtplib.SMTPServerDisconnected):
                second.smtp("absolute")


@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_a_restart_costs_nobody_a_login(backend: Backend, transport: str):
    """smtpd finds its connection dead before it has written to it, and opens another."""
    needs("root", "postfix")
    with Logins({"login": login(backend.url("/login"))}) as logins:
        where = {"tcp": f"inet:127.0.0.1:{logins.ports['login']}", "unix": logins.sockets["login"]}[transport]
        sasl = ["smtpd_sasl_auth_enable = yes", "smtpd_sasl_type = dovecot", f"smtpd_sasl_path = {where}"]
        with Postfix(sasl) as postfix, postfix.smtp() as client, postfix.smtp() as other:
            for session in (client, other):
                assert plain_at_once(session, b"ann", WRONG.encode()).code == NO
            logins.restart()
            for session in (client, other):
                assert plain_at_once(session, b"ann", RIGHT.encode()).code == IN

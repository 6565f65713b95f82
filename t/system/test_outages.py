"""What a real Postfix makes of each kind of outage, with and without an answer in the cache, and how long it takes.

`-s` shows the times; contrib/OUTAGES.md is written from them.
"""

from __future__ import annotations

import contextlib
import smtplib
import time
from collections.abc import Callable, Iterator
from subprocess import CompletedProcess
from typing import Any

import pytest
from kit import ports
from kit.authenticate import Outcome, plain_at_once
from kit.backend import Answer, Backend, Keyed
from kit.configuration import configuration, listener, policy, socket_map
from kit.control import reload
from kit.daemon import Daemon
from kit.fallback import breaker, purge, wait_cached
from kit.needs import needs
from kit.postfix import Postfix
from system.switchable_port import SwitchablePort

TIMEOUT, TOLERANCE = 0.7, 1.0
"""Seconds: the entries' deadline, and what Postfix, the network and a busy test machine may add."""
FATAL = 1.0
"""Seconds that Postfix's programs wait before they end with a fatal error."""

HTML = b"<!DOCTYPE html><html><body><h1>It works!</h1></body></html>"
GOOD = {"result": "box/", "action": "DUNNO"}
OUTAGES: dict[str, Answer | None] = {
    "refused": None,
    "a black hole": Answer(silent=True),
    "too slow": Answer(json=GOOD, delay=30.0),
    "reset": Answer(drop=True, then="reset"),
    "503": Answer(status=503, json=GOOD),
    "HTML": Answer(body=HTML, headers={"Content-Type": "text/html"}),
    "half a body": Answer(json=GOOD, cut=10),
}
"""By name what the backend answers; None: nothing, connecting is refused."""
LATE = {"a black hole", "too slow"}
BEYOND_A_STATUS = {"HTML"}
"""For logins an expected status is all there is to an answer: these are none of their outages."""


class Site:
    """A daemon with a map, a policy service and a login service, each with a way of its own to the backend."""

    def __init__(self, backend: Backend, stack: contextlib.ExitStack) -> None:
        self.backend = backend
        self.ports = {path: stack.enter_context(SwitchablePort(backend.port)) for path in ("/map", "/pol", "/login")}
        self.port, self.policy_port, self.login_port = ports.free(), ports.free(), ports.free()
        common = {"timeout": f"{int(TIMEOUT * 1000)}ms"}
        self.config = configuration(
            listener("socket_map", "maps", self.port),
            listener("policy_service", "check", self.policy_port),
            listener("dovecot_sasl", "login", self.login_port),
            socket_maps={"boxes": socket_map(self.ports["/map"].url("/map"), **common)},
            policy_services={"check": policy(self.ports["/pol"].url("/pol"), **common)},
            dovecot_sasl={"login": {"target": self.ports["/login"].url("/login"), **common}},
            response_cache={"enabled": True, "ttl": "1h"},
            level="info",
        )
        self.daemon = stack.enter_context(Daemon(self.config))
        self.all_well()

    def all_well(self) -> None:
        rejected = Keyed(
            {"no@example.test": Answer(json={"action": "REJECT not here"})}, Answer(json=GOOD), "recipient"
        )
        self.backend.answer("/map", json=GOOD)
        self.backend.answer("/pol", rejected)
        self.backend.answer("/login", status=200)

    @contextlib.contextmanager
    def outage(self, kind: str, path: str) -> Iterator[None]:
        """One of the three backends fails in that way."""
        answer = OUTAGES[kind]
        if answer is None:
            self.ports[path].close()
        else:
            self.backend.answer(path, answer)
        try:
            yield
        finally:
            if answer is None:
                self.ports[path].open()
            self.all_well()


@pytest.fixture(scope="module")
def site(backend: Backend) -> Iterator[Site]:
    with contextlib.ExitStack() as stack:
        yield Site(backend, stack)


@pytest.fixture(scope="module")
def postfix(site: Site) -> Iterator[Postfix]:
    needs("root", "postfix")
    main = [
        "virtual_mailbox_domains = example.test",
        f"virtual_mailbox_maps = socketmap:inet:127.0.0.1:{site.port}:boxes",
        f"smtpd_recipient_restrictions = check_policy_service inet:127.0.0.1:{site.policy_port}",
        "smtpd_sasl_auth_enable = yes",
        "smtpd_sasl_type = dovecot",
        f"smtpd_sasl_path = inet:127.0.0.1:{site.login_port}",
    ]
    with Postfix(main) as started:
        yield started


@pytest.fixture
def client(site: Site, postfix: Postfix) -> Iterator[smtplib.SMTP]:
    """A mail client of a Postfix that has asked before: about ann, whom all know, and for "no", whom the policy rejects."""
    purge(site.daemon)
    with postfix.smtp() as connected:
        assert connected.mail("sender@example.test")[0] == 250
        assert connected.rcpt("ann@example.test")[0] == 250
        assert connected.rcpt("no@example.test")[0] == 554
        wait_cached(site.daemon, 3)
        yield connected


def timed(what: str, kind: str, act: Callable[[], Any], late: bool | None = None, pause: float = 0.0) -> Any:
    """The outcome; it must not have taken longer than the entry's deadline allows, and a `pause` of Postfix's own."""
    before = time.monotonic()
    outcome = act()
    took = time.monotonic() - before - pause
    shown = outcome.stderr or outcome.stdout if isinstance(outcome, CompletedProcess) else outcome
    print(f"{kind:14} {what:20} {took:6.3f} s  {shown}")
    late = kind in LATE if late is None else late
    assert (TIMEOUT if late else 0.0) <= took < TOLERANCE + (TIMEOUT if late else 0.0), took
    return outcome


def rcpt(client: smtplib.SMTP, recipient: str) -> tuple[int, str]:
    code, text = client.rcpt(f"{recipient}@example.test")
    return code, text.decode()


@pytest.mark.parametrize("kind", OUTAGES)
def test_postmap_is_told_the_value_or_that_there_is_none_now(site: Site, postfix: Postfix, kind: str) -> None:
    table = f"socketmap:inet:127.0.0.1:{site.port}:boxes"
    purge(site.daemon)
    assert postfix.postmap(table, "ann@example.test").stdout == b"box/\n"
    wait_cached(site.daemon, 1)
    with site.outage(kind, "/map"):
        warm = timed("postmap, warm", kind, lambda: postfix.postmap(table, "ann@example.test"))
        assert (warm.returncode, warm.stdout, warm.stderr) == (0, b"box/\n", b"")
        cold = timed("postmap, cold", kind, lambda: postfix.postmap(table, "bob@example.test"), pause=FATAL)
        assert (cold.returncode, cold.stdout) == (1, b"")
        assert (b"timeout" if kind in LATE else b"temporary") in cold.stderr, "an absent key would say nothing"
    assert postfix.postmap(table, "bob@example.test").stdout == b"box/\n"


@pytest.mark.parametrize("kind", OUTAGES)
def test_a_recipient_is_accepted_or_put_off(site: Site, client: smtplib.SMTP, kind: str) -> None:
    with site.outage(kind, "/map"):
        assert timed("recipient, warm", kind, lambda: rcpt(client, "ann"))[0] == 250
        code, text = timed("recipient, cold", kind, lambda: rcpt(client, "bob"))
        assert code == 451 and "Temporary lookup failure" in text
    assert rcpt(client, "bob")[0] == 250


@pytest.mark.parametrize("kind", OUTAGES)
def test_a_policy_holds_or_puts_off(site: Site, client: smtplib.SMTP, kind: str) -> None:
    with site.outage(kind, "/pol"):
        assert timed("policy, warm yes", kind, lambda: rcpt(client, "ann"))[0] == 250
        code, text = timed("policy, warm no", kind, lambda: rcpt(client, "no"))
        assert code == 554 and "not here" in text
        code, text = timed("policy, cold", kind, lambda: rcpt(client, "bob"))
        assert code == 450 and "Temporary server problem" in text
    assert rcpt(client, "bob")[0] == 250


@pytest.mark.parametrize("kind", [kind for kind in OUTAGES if kind not in BEYOND_A_STATUS])
def test_a_login_is_put_off_and_no_password_is_called_wrong(site: Site, postfix: Postfix, kind: str) -> None:
    with postfix.smtp() as client:
        with site.outage(kind, "/login"):
            outcome = timed("login", kind, lambda: plain_at_once(client, b"ann", b"wonderland"))
            assert outcome.code == 454
        assert plain_at_once(client, b"ann", b"wonderland").code == 235


@pytest.mark.parametrize("kind", sorted(BEYOND_A_STATUS))
def test_what_a_login_is_not_looked_at_for(site: Site, postfix: Postfix, kind: str) -> None:
    """The status alone decides, which contrib/OUTAGES.md warns of."""
    with site.outage(kind, "/login"), postfix.smtp() as client:
        assert plain_at_once(client, b"ann", b"wonderland").code == 235


def test_a_backend_that_is_slow_but_in_time_is_believed(site: Site, postfix: Postfix, client: smtplib.SMTP) -> None:
    slow = TIMEOUT / 2
    site.backend.answer("/map", json={"result": None}, delay=slow)
    assert timed("recipient, warm", "slow, in time", lambda: rcpt(client, "ann"), late=False)[0] == 550
    site.all_well()
    site.backend.answer("/login", Answer(status=403, headers={"Auth-Status": "wrong password"}, delay=slow))
    with postfix.smtp() as other:
        refused: Outcome = timed(
            "login", "slow, in time", lambda: plain_at_once(other, b"ann", b"wonderland"), late=False
        )
        assert refused.code == 535
    site.all_well()


@pytest.fixture
def breakers(site: Site) -> Iterator[None]:
    """With circuit breakers, for a while."""
    rule = site.config["server"]["circuit_breaker"]
    site.config["server"]["circuit_breaker"] = {"failures": 2, "cooldown": "60s"}
    reload(site.daemon, site.config)
    yield
    site.config["server"]["circuit_breaker"] = rule
    reload(site.daemon, site.config)


@pytest.mark.usefixtures("breakers")
def test_a_black_hole_costs_time_only_until_the_breaker_opens(
    site: Site, postfix: Postfix, client: smtplib.SMTP
) -> None:
    kind = "a black hole"

    def log_in() -> int:
        with postfix.smtp() as other:
            return plain_at_once(other, b"ann", b"wonderland").code

    with contextlib.ExitStack() as outages:
        for path in site.ports:
            outages.enter_context(site.outage(kind, path))
        for _ in range(2):
            assert timed("first recipients", kind, lambda: rcpt(client, "bob"))[0] == 450, "the policy comes first"
        outages.enter_context(site.outage("503", "/map"))
        for _ in range(2):
            assert timed("opening the map's", kind, lambda: rcpt(client, "ann"), late=False)[0] == 250
        for path in ("/map", "/pol"):
            assert breaker(site.daemon, site.ports[path].url(path)) == "open"
        assert timed("warm, open", kind, lambda: rcpt(client, "ann"), late=False)[0] == 250
        assert timed("cold, open", kind, lambda: rcpt(client, "bob"), late=False)[0] == 450
        for _ in range(2):
            assert timed("first logins", kind, log_in) == 454
        assert timed("login, open", kind, log_in, late=False) == 454
        site.backend.forget()
        for _ in range(10):
            rcpt(client, "ann")
        log_in()
        assert site.backend.count() == 0

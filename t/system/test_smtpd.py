"""A real smtpd asks the real daemon: recipients accepted, rejected and deferred, and mailboxes known or not."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator

import pytest
from kit.backend import Answer, Backend, Keyed
from kit.configuration import policy, socket_map
from kit.needs import needs
from kit.postfix import Postfix
from kit.site import Site

pytestmark = pytest.mark.usefixtures("same_workers")

MAILBOXES = {"ann@example.test": "ann/", "rejected@example.test": "r/", "deferred@example.test": "d/"}


@pytest.fixture(scope="module")
def site(backend: Backend) -> Iterator[Site]:
    backend.answer(
        "/check",
        Keyed(
            {
                "rejected@example.test": Answer(json={"action": "REJECT not here, not today"}),
                "deferred@example.test": Answer(json={"action": "DEFER come back later"}),
                "coded@example.test": Answer(json={"action": "553 5.7.9 an own code"}),
                "prepended@example.test": Answer(json={"action": "PREPEND X-Checked: yes"}),
                "failing@example.test": Answer(status=503),
                "resetting@example.test": Answer(drop=True, then="reset"),
                "late@example.test": Answer(silent=True),
                "odd@example.test": Answer(json={"action": "200"}),
            },
            otherwise=Answer(json={"action": "DUNNO"}),
            name="recipient",
        ),
    )
    policed = ("coded", "prepended", "failing", "resetting", "late", "odd")
    mailboxes = {**MAILBOXES, **{f"{name}@example.test": "x/" for name in policed}}
    table = {key: Answer(json={"result": value}) for key, value in mailboxes.items()}
    table["broken@example.test"] = Answer(status=500)
    table["error@example.test"] = Answer(json={"error": "tenant locked"})
    backend.answer("/mailboxes", Keyed(table))
    with Site(
        {"mailboxes": socket_map(backend.url("/mailboxes"), timeout="1s")},
        {"check": policy(backend.url("/check"), timeout="1s")},
    ) as started:
        yield started


@pytest.fixture(scope="module")
def postfix(site: Site) -> Iterator[Postfix]:
    needs("root", "postfix")
    main = [
        "virtual_mailbox_domains = example.test",
        f"virtual_mailbox_maps = socketmap:inet:127.0.0.1:{site.map_port}:mailboxes",
        f"smtpd_recipient_restrictions = check_policy_service inet:127.0.0.1:{site.policy_ports['check']}",
    ]
    with Postfix(main) as started:
        yield started


@pytest.fixture
def client(postfix: Postfix) -> Iterator[smtplib.SMTP]:
    with postfix.smtp() as connected:
        assert connected.mail("sender@example.test")[0] == 250
        yield connected


@pytest.mark.parametrize(
    "recipient, code, text",
    [
        ("ann", 250, "Ok"),
        ("prepended", 250, "Ok"),
        ("rejected", 554, "not here, not today"),
        ("deferred", 450, "come back later"),
        ("coded", 553, "an own code"),
        ("failing", 450, "Temporary server problem"),
        ("resetting", 450, "Temporary server problem"),
        ("late", 450, "Temporary server problem"),
        ("odd", 450, "Temporary server problem"),
    ],
)
def test_policy_decides(client: smtplib.SMTP, recipient: str, code: int, text: str):
    reply = client.rcpt(f"{recipient}@example.test")
    assert reply[0] == code and text in reply[1].decode(), reply


@pytest.mark.parametrize(
    "recipient, code, text",
    [
        ("ann", 250, "Ok"),
        ("unknown", 550, "User unknown in virtual mailbox table"),
        ("broken", 451, "Temporary lookup failure"),
        ("error", 451, "Server configuration error"),
    ],
)
def test_mailboxes_decide(client: smtplib.SMTP, recipient: str, code: int, text: str):
    reply = client.rcpt(f"{recipient}@example.test")
    assert reply[0] == code and text in reply[1].decode(), reply


def test_the_backend_sees_what_smtpd_knows(client: smtplib.SMTP, backend: Backend):
    backend.forget()
    client.rcpt("ann@example.test")
    (request,) = backend.requests("/check")
    seen = request.json()
    expected = {
        "request": "smtpd_access_policy",
        "protocol_state": "RCPT",
        "protocol_name": "ESMTP",
        "client_address": "127.0.0.1",
        "helo_name": "client.example.test",
        "sender": "sender@example.test",
        "recipient": "ann@example.test",
    }
    assert {name: seen.get(name) for name in expected} == expected


def test_a_whole_message_goes_through(postfix: Postfix):
    with postfix.smtp() as client:
        refused = client.sendmail(
            "sender@example.test", ["ann@example.test", "unknown@example.test"], "Subject: hello\r\n\r\nhello\r\n"
        )
    assert list(refused) == ["unknown@example.test"]
    postfix.wait_log("status=sent")


def test_one_connection_serves_many_sessions(postfix: Postfix, site: Site):
    mark = site.log.position
    with postfix.smtp() as client:
        for _ in range(20):
            assert client.mail("sender@example.test")[0] == 250
            assert client.rcpt("ann@example.test")[0] == 250
            client.rset()
    policies = [line for line in site.log.find("New connection established", mark) if "listener=check" in line]
    assert len(policies) <= 1

"""The policy service over the wire: which request reaches the backend as what, and which answer becomes which action."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from kit.backend import Answer, Backend, Keyed
from kit.configuration import policy
from kit.site import Site

pytestmark = pytest.mark.usefixtures("same_workers")

FAILED = "DEFER Temporary server problem"

REQUEST = {
    "protocol_state": "RCPT",
    "protocol_name": "ESMTP",
    "client_address": "192.0.2.1",
    "client_name": "unknown",
    "helo_name": "client.example.test",
    "sender": "ann@example.test",
    "recipient": "bob@example.test",
    "instance": "1a2b.3c4d.5.0",
    "sasl_username": "",
}


@pytest.fixture(scope="module")
def site(backend: Backend) -> Iterator[Site]:
    template = (
        '{"from": "{{ .Attr.sender }}", "to": "{{.Attr.recipient}}", "none": "{{ .Attr.no_such }}",'
        ' "service": "{{ .Name }}", "all": {{ .Key }}}'
    )
    services = {
        "check": policy(backend.url("/check"), no_error_value="none"),
        "framed": policy(backend.url("/check"), payload=template),
        "whole": policy(backend.url("/check"), payload="{{ .Key }}"),
        "asked": policy(backend.url("/get") + "?sender={{ .Attr.sender }}&of={{ .Name }}", method="GET"),
    }
    with Site(policy_services=services) as started:
        yield started


ACTIONS = {
    "DUNNO": ({"action": "DUNNO"}, "DUNNO"),
    "with a text": ({"action": "REJECT not you, 1=2"}, "REJECT not you, 1=2"),
    "lower case": ({"action": "reject"}, "reject"),
    "a code and a text": ({"action": "550 5.7.1 go away"}, "550 5.7.1 go away"),
    "a soft code and a text": ({"action": "450 4.7.1 later"}, "450 4.7.1 later"),
    "a restriction": ({"action": "permit_sasl_authenticated, reject"}, "permit_sasl_authenticated, reject"),
    "a prepended header": ({"action": "PREPEND X-Checked: yes"}, "PREPEND X-Checked: yes"),
    "UTF-8": ({"action": "REJECT größer"}, "REJECT größer"),
    "absent": ({"other": 1}, "DUNNO"),
    "null": ({"action": None}, "DUNNO"),
    "an empty string": ({"action": ""}, "DUNNO"),
    "an empty list": ({"action": []}, "DUNNO"),
    "a forged second reply": ({"action": "DUNNO\n\naction=PERMIT"}, "DUNNO  action=PERMIT"),
    "a carriage return": ({"action": "REJECT a\rb"}, "REJECT a b"),
    "an error": ({"action": "DUNNO", "error": "broken"}, FAILED),
    "the value that means no error": ({"action": "DUNNO", "error": "none"}, "DUNNO"),
    "all digits": ({"action": "200"}, FAILED),
    "a number": ({"action": 1}, FAILED),
    "a code of success": ({"action": "250 fine"}, FAILED),
    "a code without a text": ({"action": "550"}, FAILED),
    "a code and blanks": ({"action": "550   "}, FAILED),
    "blanks": ({"action": "   "}, FAILED),
    "punctuation": ({"action": "=PERMIT"}, FAILED),
    "an object": ({"action": {"a": 1}}, FAILED),
}


@pytest.mark.parametrize("name", ACTIONS)
def test_actions(site: Site, backend: Backend, name: str):
    document, action = ACTIONS[name]
    backend.answer("/check", json=document)
    assert site.act("check", REQUEST) == action


@pytest.mark.parametrize("status", [201, 302, 400, 401, 403, 404, 429, 500, 503])
def test_unexpected_statuses(site: Site, backend: Backend, status: int):
    backend.answer("/check", json={"action": "DUNNO"}, status=status)
    assert site.act("check", REQUEST) == FAILED


def test_the_request_reaches_the_backend_as_json_in_order(site: Site, backend: Backend):
    backend.answer("/check", json={"action": "DUNNO"})
    backend.forget()
    for name in ("check", "whole"):
        site.act(name, REQUEST)
    for request in backend.requests():
        assert list(request.json().items()) == list({"request": "smtpd_access_policy", **REQUEST}.items())


def test_templates_with_attributes(site: Site, backend: Backend):
    backend.answer("/check", json={"action": "DUNNO"})
    backend.forget()
    site.act("framed", sender='a"b\\@example.test', recipient="")
    (request,) = backend.requests()
    assert request.json() == {
        "from": 'a"b\\@example.test',
        "to": "",
        "none": "",
        "service": "framed",
        "all": {"request": "smtpd_access_policy", "sender": 'a"b\\@example.test', "recipient": ""},
    }


def test_get_with_attributes_in_the_query(site: Site, backend: Backend):
    backend.answer("/get", Keyed({"a&b=c@example.test": Answer(json={"action": "REJECT"})}, Answer(json={}), "sender"))
    backend.forget()
    assert site.act("asked", sender="a&b=c@example.test") == "REJECT"
    (request,) = backend.requests()
    assert (request.method, request.body, request.query["of"]) == ("GET", b"", "asked")


REQUESTS = {
    "a value with equals signs": (b"sender=a=b=c\n\n", {"sender": "a=b=c"}),
    "an empty value": (b"sender=\n\n", {"sender": ""}),
    "a repeated name": (b"sender=1\nsize=5\nsender=2\n\n", {"sender": "2", "size": "5"}),
    "no UTF-8": (b"helo_name=j\xf6rg\n\n", {"helo_name": "j\ufffdrg"}),
    "UTF-8": ("helo_name=jörg\n\n".encode(), {"helo_name": "jörg"}),
    "blanks": (b"helo_name= a b \n\n", {"helo_name": " a b "}),
    "control characters": (b"helo_name=a\tb\x01\n\n", {"helo_name": "a\tb\x01"}),
    "what looks like a template": (b"helo_name={{ .Key }}\n\n", {"helo_name": "{{ .Key }}"}),
    "999 attributes": (
        b"".join(b"a%d=%d\n" % (number, number) for number in range(999)) + b"\n",
        {f"a{number}": str(number) for number in range(999)},
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_requests_are_understood(site: Site, backend: Backend, name: str):
    raw, attributes = REQUESTS[name]
    backend.answer("/check", json={"action": "DUNNO"})
    backend.forget()
    with site.policy_client("check") as client:
        client.send_raw(raw)
        assert client.reply() == "DUNNO"
        client.send_raw(raw)
        assert client.reply() == "DUNNO", "the connection is kept"
    assert [request.json() for request in backend.requests()] == [attributes, attributes]


BROKEN = {
    "no equals sign": b"sender\n\n",
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "64 KiB and more": b"sender=" + b"a" * 65536 + b"\n\n",
    "64 KiB without an end": b"a" * 65537,
    "64 KiB in many lines": b"".join(b"%d=%s\n" % (number, b"x" * 100) for number in range(700)),
    "1001 attributes": b"".join(b"a%d=\n" % number for number in range(1001)) + b"\n",
    "one attribute 1001 times": b"a=\n" * 1001 + b"\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_requests_close_and_reach_no_backend(site: Site, backend: Backend, name: str):
    backend.answer("/check", json={"action": "DUNNO"})
    backend.forget()
    mark = site.log.position
    with site.policy_client("check") as client:
        client.send_raw(BROKEN[name])
        assert client.closed()
    site.log.wait_for("(?i)malformed|attribute|line", start=mark)
    assert backend.count() == 0
    assert site.act("check", REQUEST) == "DUNNO"


def test_end_of_file_inside_a_request(site: Site, backend: Backend):
    backend.forget()
    for piece in (b"s", b"sender=a", b"sender=a\n"):
        with site.policy_client("check") as client:
            client.send_raw(piece)
            client.finish()
            assert client.closed()
    assert backend.count() == 0


def test_pipelined_and_byte_by_byte(site: Site, backend: Backend):
    backend.answer("/check", json={"action": "REJECT {sender}"}, fill=True)
    senders = [str(number) for number in range(50)]
    with site.policy_client("check") as client:
        client.send_raw("".join(f"sender={sender}\n\n" for sender in senders).encode())
        assert [client.reply() for _ in senders] == [f"REJECT {sender}" for sender in senders]
        for byte in b"sender=slow\n\n":
            client.send_raw(bytes([byte]))
        assert client.reply() == "REJECT slow"


def test_each_listener_asks_its_own_entry(site: Site, backend: Backend):
    backend.answer("/check", json={"action": "DUNNO"})
    backend.forget()
    site.act("framed", REQUEST)
    site.act("check", REQUEST)
    first, second = (request.json() for request in backend.requests())
    assert first["service"] == "framed" and "service" not in second
    assert json.dumps(first["all"]) == json.dumps(second)

"""Socket maps over the wire, row by row as the tables say: each backend answer and each request has its one reply."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from kit.backend import Answer, Backend, Keyed
from kit.clients import netstring
from kit.configuration import socket_map
from kit.site import Site

pytestmark = pytest.mark.usefixtures("same_workers")

REPLY_LIMIT = 100_000


@pytest.fixture(scope="module")
def site(backend: Backend) -> Iterator[Site]:
    backend.answer("/echo", json={"result": "[{key}]"}, fill=True)
    maps = {
        "map": socket_map(backend.url("/map"), no_error_value="not-found"),
        "deep": socket_map(backend.url("/map"), value_field="data.result.1"),
        "several": socket_map(backend.url("/map"), status_code=[200, 201]),
        "echo": socket_map(backend.url("/echo")),
        "slow": socket_map(backend.url("/slow")),
        "framed": socket_map(backend.url("/echo"), payload='{"key": "{{ .Key }}", "name": "{{- .Name -}}"}'),
    }
    with Site(maps) as started:
        yield started


VALUES = {
    "a string": ({"result": "x"}, "OK x"),
    "blanks and quotes": ({"result": ' a "b" '}, 'OK  a "b" '),
    "UTF-8": ({"result": "jörg 日本"}, "OK jörg 日本"),
    "true": ({"result": True}, "OK true"),
    "false is a value": ({"result": False}, "OK false"),
    "zero is a value": ({"result": 0}, "OK 0"),
    "a whole number": ({"result": 12345678901234567890}, "OK 12345678901234567890"),
    "a whole float": ({"result": 1000000.0}, "OK 1000000"),
    "a fraction": ({"result": 1.5}, "OK 1.5"),
    "a list": ({"result": ["a@example.test", "b@example.test"]}, "OK a@example.test,b@example.test"),
    "a list of several types": ({"result": ["a", 2, True]}, "OK a,2,true"),
    "no dot: at any depth": ({"data": [{"deeper": {"result": "x"}}]}, "OK x"),
    "breadth first": ({"a": {"b": {"result": "deep"}}, "c": {"result": "shallow"}}, "OK shallow"),
    "absent": ({"other": "x"}, "NOTFOUND "),
    "null": ({"result": None}, "NOTFOUND "),
    "an empty string": ({"result": ""}, "NOTFOUND "),
    "an empty list": ({"result": []}, "NOTFOUND "),
    "a line break": ({"result": "a\nb"}, "OK a b"),
    "control characters": ({"result": "a\r\t\0\x1b\x7fb"}, "OK a     b"),
    "a forged reply": ({"result": "x,9:OK forged,"}, "OK x,9:OK forged,"),
    "an empty error": ({"result": "x", "error": ""}, "OK x"),
    "no error": ({"result": "x", "error": None}, "OK x"),
    "the value that means no error": ({"result": "x", "error": "not-found"}, "OK x"),
    "no error, no value": ({"error": "not-found"}, "NOTFOUND "),
    "an error": ({"result": "x", "error": "broken"}, "PERM broken"),
    "an error of two lines": ({"error": "one\ntwo"}, "PERM one two"),
}


@pytest.mark.parametrize("name", VALUES)
def test_values(site: Site, backend: Backend, name: str):
    document, reply = VALUES[name]
    backend.answer("/map", json=document)
    assert site.ask("map", "some key") == reply


REFUSED = {
    "an object": Answer(json={"result": {"a": 1}}),
    "an error that is an object": Answer(json={"result": "x", "error": {"code": 1}}),
    "404": Answer(status=404, json={"result": "x"}),
    "201": Answer(status=201, json={"result": "x"}),
    "204": Answer(status=204),
    "302": Answer(status=302, headers={"Location": "/echo"}),
    "400": Answer(status=400, body=b"no JSON at all"),
    "a long value": Answer(json={"result": "x" * REPLY_LIMIT}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(site: Site, backend: Backend, name: str):
    backend.answer("/map", REFUSED[name])
    reply = site.ask("map", "some key")
    assert re.fullmatch("PERM [ -~]{1,200}", reply), reply
    if REFUSED[name].status != 200:
        assert f"unexpected status code {REFUSED[name].status}" in reply


def test_the_longest_value_that_fits(site: Site, backend: Backend):
    value = "x" * (REPLY_LIMIT - len("OK "))
    backend.answer("/map", json={"result": value})
    assert site.ask("map", "some key") == f"OK {value}"
    backend.answer("/map", json={"result": value + "x"})
    assert site.ask("map", "some key").startswith("PERM ")


def test_paths_and_statuses_of_an_entry(site: Site, backend: Backend):
    backend.answer("/map", json={"data": {"result": ["a", "b"]}})
    assert site.ask("deep", "k") == "OK b"
    backend.answer("/map", json={"result": "x", "data": {"result": "not a list"}})
    assert site.ask("deep", "k") == "NOTFOUND "
    backend.answer("/map", json={"result": "x"}, status=201)
    assert site.ask("several", "k") == "OK x"


KEYS = {
    "an address": "ann@example.test",
    "blanks": "some one@example.test and more",
    "leading and trailing blanks": "  x  ",
    "quotes and backslashes": "a\"b\\c'd",
    "braces": '{{ .Key }} {"key": 1}',
    "colons and commas": "3:a,4:b,",
    "UTF-8": "jörg@例え.テスト",
    "line breaks": "a\r\nb\tc",
    "angle brackets": "<ann@example.test>",
    "NUL": "a\0b",
    "nothing": "",
    "many bytes": "ä" * 49_000,
}


@pytest.mark.parametrize("name", KEYS)
def test_keys_reach_the_backend_unharmed(site: Site, backend: Backend, name: str):
    for entry in ("echo", "framed"):
        backend.forget()
        with site.client() as client:
            client.send(entry, KEYS[name])
            client.reply()
        (request,) = backend.requests()
        assert request.json()["key"] == KEYS[name]


def test_default_payload_and_name(site: Site, backend: Backend):
    backend.forget()
    site.ask("echo", "k")
    site.ask("framed", "k")
    plain, framed = backend.requests()
    assert plain.json() == {"key": "k"}
    assert framed.json() == {"key": "k", "name": "framed"}


def test_the_null_sender(site: Site):
    assert site.ask("echo", '"<>"') == "OK [<>]"


def test_the_map_is_chosen_by_the_request(site: Site, backend: Backend):
    backend.answer("/map", json={"result": "x"})
    with site.client() as client:
        assert client.ask("nowhere", "k").startswith("PERM ")
        assert client.ask("maps", "k").startswith("PERM "), "the listener's name is no map"
        assert client.ask("defaults", "k").startswith("PERM ")
        assert client.ask("map", "k") == "OK x", "the connection is kept"


def test_a_key_that_is_no_utf8_is_not_found(site: Site, backend: Backend):
    backend.forget()
    with site.client() as client:
        assert client.ask("echo", b"j\xf6rg") == "NOTFOUND "
        assert client.ask("echo", "jörg") == "OK [jörg]"
    assert backend.count() == 1


@pytest.mark.parametrize("payload", [b"nospace", b"", b"echo\tk"])
def test_no_space_in_the_request(site: Site, payload: bytes):
    with site.client() as client:
        client.send_raw(netstring(payload))
        assert client.reply() == "PERM malformed request"
        assert client.ask("echo", "k") == "OK [k]"


BROKEN = {
    "negative": b"-1:x,",
    "signed": b"+5:a b c,",
    "blank before": b" 5:a b c,",
    "blank after": b"5 :a b c,",
    "leading zeros": b"007:echo ab,",
    "hexadecimal": b"0x7:echo ab,",
    "digits of another script": "\u0667:echo ab,".encode(),
    "no number": b"GET / HTTP/1.1\r\n\r\n",
    "nothing": b":echo k,",
    "over the limit by one": b"100001:",
    "huge": b"99999999999999999999999999999999:",
    "endless digits": b"1" * 4096,
    "no comma": b"6:echo k;",
    "too long for its length": b"5:echo k,",
    "binary": bytes(range(256)),
    "TLS": bytes.fromhex("16030100c8010000c40303"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_framing_closes_without_a_reply(site: Site, backend: Backend, name: str):
    backend.forget()
    mark = site.log.position
    with site.client() as client:
        client.send_raw(BROKEN[name])
        assert client.closed()
    assert backend.count() == 0
    site.log.wait_for("(?i)malformed|netstring|framing", start=mark)
    assert site.ask("echo", "k") == "OK [k]"


def test_what_came_before_broken_framing_is_answered(site: Site):
    with site.client() as client:
        client.send_raw(netstring(b"echo first") + b"-1:")
        assert client.reply() == "OK [first]"
        assert client.closed()


def test_end_of_file_inside_a_request(site: Site, backend: Backend):
    for piece in (b"1", b"6:", b"6:echo ", b"6:echo k"):
        backend.forget()
        with site.client() as client:
            client.send_raw(piece)
            client.finish()
            assert client.closed()
        assert backend.count() == 0


def test_byte_by_byte_and_half_closed(site: Site):
    with site.client() as client:
        for byte in netstring(b"echo slow typist"):
            client.send_raw(bytes([byte]))
        assert client.reply() == "OK [slow typist]"
        client.send("echo", "last words")
        client.finish()
        assert client.reply() == "OK [last words]"
        assert client.closed()


def test_pipelined_requests_are_answered_in_order(site: Site, backend: Backend):
    backend.answer(
        "/slow", Keyed({"0": Answer(json={"result": "0"}, delay=0.1)}, Answer(json={"result": "{key}"}, fill=True))
    )
    keys = [str(number) for number in range(100)]
    with site.client() as client:
        client.send_raw(b"".join(netstring(f"slow {key}".encode()) for key in keys))
        assert [client.reply() for _ in keys] == [f"OK {key}" for key in keys]


def test_a_client_that_leaves_without_its_answer_harms_nobody(site: Site, backend: Backend):
    backend.answer("/slow", json={"result": "late"}, hold="left")
    backend.forget()
    client = site.client()
    client.send("slow", "k")
    backend.wait_requests(1, "/slow")
    client.close()
    backend.release("left")
    assert site.ask("slow", "k") == "OK late"

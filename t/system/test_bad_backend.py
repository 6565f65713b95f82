"""Backends that misbehave: what each one gets the client, and that it takes no longer than the entry's deadline.

Absence is never invented: none of these may give NOTFOUND or DUNNO.
"""

from __future__ import annotations

import contextlib
import gzip
import re
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit import ports
from kit.backend import Answer, Backend, Series
from kit.configuration import policy, socket_map
from kit.site import Site

pytestmark = pytest.mark.usefixtures("same_workers")

TIMEOUT = 0.7
TOLERANCE = 1.0
MIB = 1024 * 1024
HTML = b"<!DOCTYPE html><html><body><h1>It works!</h1></body></html>"
GOOD = {"result": "x", "action": "DUNNO"}
GOOD_BYTES = b'{"result": "x", "action": "DUNNO"}'


def long(size: int) -> bytes:
    """JSON of so many MiB."""
    return b'{"result": "' + b"a" * size * MIB + b'"}'


TEMPORARY = {
    "500": Answer(status=500, json=GOOD),
    "502 with HTML": Answer(status=502, body=HTML, headers={"Content-Type": "text/html"}),
    "503": Answer(status=503, json=GOOD),
    "599": Answer(status=599, json=GOOD),
    "408": Answer(status=408, json=GOOD),
    "425": Answer(status=425, json=GOOD),
    "429": Answer(status=429, json=GOOD),
    "HTML": Answer(body=HTML, headers={"Content-Type": "text/html"}),
    "HTML that says it is JSON": Answer(body=HTML, headers={"Content-Type": "application/json"}),
    "an empty body": Answer(body=b""),
    "half of a JSON document": Answer(body=GOOD_BYTES[:-3]),
    "two JSON documents": Answer(body=GOOD_BYTES * 2),
    "JSON in Latin-1": Answer(body='{"result": "ö"}'.encode("latin-1")),
    "NaN": Answer(body=b'{"result": NaN, "action": NaN}'),
    "11 MiB announced": Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 11534336\r\n\r\n", then="close"),
    "invalid gzip": Answer(body=GOOD_BYTES, headers={"Content-Encoding": "gzip"}),
    "half of a gzip stream": Answer(body=gzip.compress(GOOD_BYTES)[:-12], headers={"Content-Encoding": "gzip"}),
    "a gzip stream with a wrong checksum": Answer(
        body=gzip.compress(GOOD_BYTES)[:-8] + b"\0" * 8, headers={"Content-Encoding": "gzip"}
    ),
    "an encoding nobody asked for": Answer(body=b"\x0b\x10\x80" + GOOD_BYTES[::-1], headers={"Content-Encoding": "br"}),
    "a reset": Answer(drop=True, then="reset"),
    "a close": Answer(drop=True),
    "half a head": Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Le", then="close"),
    "half a body": Answer(json=GOOD, cut=10),
    "half a body, then a reset": Answer(json=GOOD, cut=10, then="reset"),
    "half a chunked body": Answer(json=GOOD, framing="chunked", chunk=5, cut=12),
    "garbage": Answer(raw=b"\x00\xff garbage\r\n\r\n", then="close"),
    "garbage instead of a chunk": Answer(
        raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + GOOD_BYTES, then="close"
    ),
    "another protocol": Answer(raw=b"220 mx.example.test ESMTP\r\n", then="close"),
    "a negative length": Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n" + GOOD_BYTES, then="close"),
    "two lengths": Answer(
        raw=b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 34\r\n\r\n" + GOOD_BYTES, then="close"
    ),
}

LARGE = {
    "a well of brackets": lambda: Answer(body=b"[" * 200_000),
    "a well of objects": lambda: Answer(body=b'{"result":' * 100_000 + b"1" + b"}" * 100_000),
    "a number of 100,000 digits": lambda: Answer(body=b'{"a": ' + b"9" * 100_000 + b"}"),
    "11 MiB": lambda: Answer(body=long(11)),
    "11 MiB in chunks": lambda: Answer(body=long(11), framing="chunked", chunk=65536),
    "11 MiB until the end": lambda: Answer(body=long(11), framing="close"),
    "a gzip bomb": lambda: Answer(body=gzip.compress(long(20), 1), headers={"Content-Encoding": "gzip"}),
    "a deflate bomb": lambda: Answer(body=zlib.compress(long(20), 1), headers={"Content-Encoding": "deflate"}),
    "a bomb in a bomb": lambda: Answer(
        body=gzip.compress(gzip.compress(long(20), 1), 1), headers={"Content-Encoding": "gzip, gzip"}
    ),
    "a huge head": lambda: Answer(raw=b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 16 * MIB, then="close"),
    "endless interim responses": lambda: Answer(raw=b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000, then="close"),
}
"""More of them, with how they are made, which is done by the test alone: each takes megabytes."""

LATE = {
    "nothing": Answer(silent=True),
    "a long silence": Answer(json=GOOD, delay=30),
    "1 byte a second": Answer(json=GOOD, trickle=1.0),
    "a head, then 1 byte a second": Answer(json=GOOD, trickle=1.0, trickle_from="body"),
    "a byte in good time, always": Answer(json=GOOD, trickle=TIMEOUT / 4),
    "a body that stops": Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 34\r\n\r\n" + GOOD_BYTES[:5]),
    "a head that stops": Answer(raw=b"HTTP/1.1 200 OK\r\nContent-"),
    "only an interim response": Answer(raw=b"HTTP/1.1 100 Continue\r\n\r\n"),
}


@pytest.fixture(scope="module")
def site(backend: Backend) -> Iterator[Site]:
    with contextlib.ExitStack() as stack:
        refusing = stack.enter_context(ports.refusing())
        unanswered = stack.enter_context(ports.unanswered())
        targets = {
            "bad": backend.url("/bad"),
            "refusing": f"http://127.0.0.1:{refusing}/",
            "unanswered": f"http://127.0.0.1:{unanswered}/",
            "unresolvable": "http://nowhere.invalid/",
            "not_tls": backend.url("/bad").replace("http:", "https:"),
            "good": backend.url("/good"),
        }
        common = {"timeout": f"{int(TIMEOUT * 1000)}ms", "http_response_compression": True}
        maps = {name: socket_map(target, **common) for name, target in targets.items()}
        policies = {name: policy(target, **common) for name, target in targets.items()}
        policies["choosy"] = policy(targets["bad"], **common, failure_action="450 4.3.0 Come back later")
        backend.answer("/good", json=GOOD)
        yield stack.enter_context(Site(maps, policies))


def one_line(reply: str, status: str) -> bool:
    return re.fullmatch(status + " [ -~]{1,200}", reply) is not None


@pytest.mark.parametrize("name", [*TEMPORARY, *LARGE])
def test_temporary(site: Site, backend: Backend, name: str):
    backend.answer("/bad", LARGE[name]() if name in LARGE else TEMPORARY[name])
    reply = site.ask("bad", "some key")
    assert one_line(reply, "TEMP"), reply
    assert site.act("bad", sender="ann@example.test") == "DEFER Temporary server problem"
    assert site.ask("good", "some key") == "OK x"


@pytest.mark.parametrize("name", LATE)
def test_deadline(site: Site, backend: Backend, name: str):
    backend.answer("/bad", LATE[name])
    for ask, judge in (
        (lambda: site.ask("bad", "some key"), lambda reply: one_line(reply, "TIMEOUT")),
        (lambda: site.act("bad"), lambda action: action == "DEFER Temporary server problem"),
    ):
        started = time.monotonic()
        outcome = ask()
        took = time.monotonic() - started
        assert judge(outcome), outcome
        assert TIMEOUT * 0.9 <= took <= TIMEOUT + TOLERANCE


@pytest.mark.parametrize("name", ["refusing", "unresolvable", "not_tls"])
def test_unreachable(site: Site, backend: Backend, name: str):
    backend.answer("/bad", json=GOOD)
    reply = site.ask(name, "some key")
    assert one_line(reply, "TEMP"), reply
    assert site.act(name) == "DEFER Temporary server problem"


def test_connecting_that_hangs(site: Site):
    started = time.monotonic()
    reply = site.ask("unanswered", "some key")
    assert one_line(reply, "TIMEOUT"), reply
    assert time.monotonic() - started <= TIMEOUT + TOLERANCE


def test_every_failure_is_logged(site: Site, backend: Backend):
    backend.answer("/bad", status=503)
    mark = site.log.position
    site.ask("bad", "some key")
    assert "503" in site.log.wait_for("(?i)level=(info|warn|error).*backend", start=mark)


def test_policy_failure_action(site: Site, backend: Backend):
    for answer in (TEMPORARY["502 with HTML"], Answer(status=404, json=GOOD), Answer(json={"error": "no"})):
        backend.answer("/bad", answer)
        assert site.act("choosy") == "450 4.3.0 Come back later"


def test_an_odd_but_valid_answer_is_taken(site: Site, backend: Backend):
    for answer in (
        Answer(json=GOOD, framing="chunked", chunk=1),
        Answer(json=GOOD, framing="close"),
        Answer(json=GOOD, interim=(100, 103)),
        Answer(json=GOOD, gzip=True),
        Answer(json=GOOD, gzip=True, framing="chunked", chunk=7),
        Answer(json=GOOD, then="announce"),
        Answer(json=GOOD, trickle=0.002),
        Answer(raw=b"HTTP/1.0 200 OK\r\n\r\n" + GOOD_BYTES, then="close"),
        Answer(raw=b"HTTP/1.1 200\r\nContent-Length: 34\r\n\r\n" + GOOD_BYTES, then="close"),
        Answer(body=b" \r\n" + GOOD_BYTES + b"\n", headers={"Content-Type": "text/html; charset=latin-1"}),
        Answer(json={**GOOD, "long": "x" * 9 * MIB}),
        Answer(json=GOOD, headers=[(f"X-{number}", "x" * 50) for number in range(50)]),
    ):
        backend.answer("/bad", answer)
        assert site.ask("bad", "some key") == "OK x", answer.replace(json="cut", body=b"cut")


def test_bytes_after_an_answer_are_no_answer(site: Site, backend: Backend):
    forged = b'HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{"result": "forged"}'
    backend.answer("/bad", json=GOOD, trailing=forged)
    with site.client() as client:
        for _ in range(10):
            assert client.ask("bad", "some key") == "OK x"


@pytest.mark.parametrize("status", [b"200 OK", b"408 Request Timeout"])
def test_an_answer_to_no_question_is_not_taken(site: Site, backend: Backend, status: bytes):
    """Some backends say 408 on an idle connection before they close it; it answers nothing that was asked."""
    unasked = b'HTTP/1.1 %b\r\nContent-Length: 20\r\n\r\n{"result": "forged"}' % status
    backend.answer("/bad", Series((Answer(json=GOOD, trailing=unasked, trailing_after=0.05), Answer(json=GOOD))))
    with site.client() as client:
        assert client.ask("bad", "some key") == "OK x"
        assert client.quiet(0.3)
        for _ in range(3):
            assert client.ask("bad", "some key") == "OK x"


def test_a_lone_surrogate_harms_nobody(site: Site, backend: Backend):
    backend.answer("/bad", body=b'{"result": "\\ud800", "action": "REJECT \\udfff"}')
    reply = site.ask("bad", "some key")
    assert reply.split(" ")[0] in ("OK", "TEMP", "PERM")
    assert site.act("bad")
    assert site.ask("good", "some key") == "OK x"


def peak_memory(pid: int) -> int:
    """Bytes of memory that the process ever held (VmHWM, proc(5))."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def test_a_large_gzip_bomb_is_never_unpacked(site: Site, backend: Backend):
    press = zlib.compressobj(1, wbits=31)
    bomb = press.compress(b'{"result": "') + b"".join(press.compress(b"a" * MIB) for _ in range(256)) + press.flush()
    backend.answer("/bad", body=bomb, headers={"Content-Encoding": "gzip"})
    before = {pid: peak_memory(pid) for pid in site.daemon.workers()}
    assert one_line(site.ask("bad", "some key"), "TEMP")
    for pid, peak in before.items():
        assert peak_memory(pid) - peak < 64 * MIB


def test_permanent_for_an_unexpected_status(site: Site, backend: Backend):
    backend.answer("/bad", status=404, body=HTML)
    assert site.ask("bad", "some key").startswith("PERM unexpected status code 404")

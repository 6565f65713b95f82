"""Which connections are kept, which are used again, and which requests are sent a second time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from kit.scripted import Idle, Receive, ReceiveEnd, Reset, Scripted, Send, Signal, WaitFor
from kit.transports import Way, ours, stock

from pfxhttpd.io.transport.response import ResponseParser

BODY = b'{"result": "x"}'
CLOSING = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 15\r\n\r\n" + BODY
SMUGGLED = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled"


def answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


ONE, TWO, THREE = (answer(word) for word in (b"one", b"two", b"three"))


@pytest.fixture(params=[ours, stock], ids=["ours", "stock"])
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    with request.param() as made:
        yield made


@pytest.fixture
def our_way() -> Iterator[Way]:
    with ours() as made:
        yield made


def asked(way: Way, url: str, **what: object) -> bytes:
    return way.outcome(url, **what).body


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let so much time go by."""
    clock = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: clock() + seconds)


def arrived(port: int, way: Way) -> None:
    """Returns when something can be read on the one kept connection: bytes or its end."""
    (kept,) = way.adapter._pool.values()
    assert kept.stream._poll.poll(10_000), "nothing arrived"


# -- kept ---------------------------------------------------------------------------------------------------------


def test_a_connection_serves_many_requests(way: Way):
    with Scripted([Receive(), Send(ONE), Receive(), Send(TWO), Receive(), Send(THREE), Idle()]) as server:
        assert [asked(way, server.url) for _ in range(3)] == [b"one", b"two", b"three"]
        assert server.connections == 1


def test_each_origin_has_its_own(way: Way):
    with (
        Scripted([Receive(), Send(ONE), Receive(), Send(ONE), Idle()]) as first,
        Scripted([Receive(), Send(TWO), Receive(), Send(TWO), Idle()]) as second,
    ):
        assert [asked(way, each.url) for each in (first, second) * 2] == [b"one", b"two"] * 2
        assert first.connections == second.connections == 1


def test_paths_of_one_origin_share_it(way: Way):
    with Scripted([Receive(), Send(ONE), Receive(), Send(TWO), Idle()]) as server:
        assert [asked(way, server.url + path) for path in ("a", "b?c")] == [b"one", b"two"]
        assert server.connections == 1
        assert [request.split()[1] for _, request in server.received] == [b"/a", b"/b?c"]


@pytest.mark.parametrize(
    "said",
    [CLOSING, CLOSING.replace(b"close", b"foo, Close"), ONE.replace(b"/1.1", b"/1.0")],
    ids=["close", "among others", "HTTP/1.0"],
)
def test_one_that_the_server_gives_up_is_closed(way: Way, said: bytes):
    with Scripted([Receive(), Send(said), ReceiveEnd(), Signal("closed")], [Receive(), Send(TWO), Idle()]) as server:
        asked(way, server.url)
        server.wait("closed")
        assert asked(way, server.url) == b"two"


def test_no_more_are_kept_than_may_be():
    with (
        ours(max_idle=2) as way,
        Scripted([Receive(), Send(ONE), ReceiveEnd(), Signal("closed")]) as oldest,
        Scripted([Receive(), Send(ONE), Idle()]) as other,
        Scripted([Receive(), Send(ONE), Idle()]) as newest,
    ):
        for server in (oldest, other, newest):
            asked(way, server.url)
        oldest.wait("closed")
        assert way.adapter.open_connections == 2


def test_an_idle_one_expires():
    with ours(idle=30.0) as way, Scripted([Receive(), Send(ONE), ReceiveEnd(), Signal("closed")]) as server:
        asked(way, server.url)
        way.adapter.expire(time.monotonic() + 29)
        assert way.adapter.open_connections == 1
        way.adapter.expire(time.monotonic() + 31)
        server.wait("closed")
        assert way.adapter.open_connections == 0
        assert way.adapter.next_expiry is None


def test_one_that_was_idle_too_long_is_not_used_again(monkeypatch: pytest.MonkeyPatch):
    with (
        ours(idle=30.0) as way,
        Scripted([Receive(), Send(ONE), ReceiveEnd()], [Receive(), Send(TWO), Idle()]) as server,
    ):
        assert asked(way, server.url) == b"one"
        later(monkeypatch, 31)
        assert asked(way, server.url) == b"two"


def test_idle_ones_expire_while_others_are_busy(monkeypatch: pytest.MonkeyPatch):
    with (
        ours(idle=30.0) as way,
        Scripted([Receive(), Send(ONE), ReceiveEnd(), Signal("closed")]) as idle,
        Scripted([Receive(), Send(TWO), Receive(), Send(TWO), Idle()]) as busy,
    ):
        asked(way, idle.url)
        later(monkeypatch, 20)
        asked(way, busy.url)
        later(monkeypatch, 20)
        asked(way, busy.url)
        monkeypatch.undo()
        idle.wait("closed")
        assert busy.connections == 1


# -- what nobody asked for ------------------------------------------------------------------------------------------


UPGRADE = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nx"


@pytest.mark.parametrize(
    "surplus",
    [SMUGGLED, SMUGGLED[:1], SMUGGLED[:20], b"garbage", b"\0", UPGRADE],
    ids=["response", "letter", "head", "garbage", "NUL", "another protocol"],
)
def test_bytes_after_a_response_are_no_answer(our_way: Way, surplus: bytes):
    with Scripted(
        [Receive(), Send(ONE + surplus), ReceiveEnd(), Signal("closed")], [Receive(), Send(TWO), Idle()]
    ) as server:
        assert [asked(our_way, server.url) for _ in range(2)] == [b"one", b"two"]
        server.wait("closed")


@pytest.mark.parametrize("surplus", [SMUGGLED, SMUGGLED[:1], b"\r\n"], ids=["response", "letter", "blank line"])
def test_bytes_that_arrive_later_are_no_answer(our_way: Way, surplus: bytes):
    script = [Receive(), Send(ONE), WaitFor("go"), Send(surplus), ReceiveEnd(), Signal("closed")]
    with Scripted(script, [Receive(), Send(TWO), Idle()]) as server:
        assert asked(our_way, server.url) == b"one"
        server.go("go")
        arrived(server.port, our_way)
        assert asked(our_way, server.url) == b"two"
        server.wait("closed")


def test_bytes_that_arrive_while_the_next_request_is_prepared_are_no_answer(
    our_way: Way, monkeypatch: pytest.MonkeyPatch
):
    """The last moment at which it can be known that they came before the request."""
    with Scripted(
        [Receive(), Send(ONE), WaitFor("go"), Send(SMUGGLED), ReceiveEnd()], [Receive(), Send(TWO), Idle()]
    ) as server:
        assert asked(our_way, server.url) == b"one"
        (connection,) = our_way.adapter._pool.values()

        def begin_late(parser: ResponseParser) -> None:
            monkeypatch.undo()
            parser.begin()
            server.go("go")
            assert connection.stream._poll.poll(10_000), "nothing arrived"

        monkeypatch.setattr(ResponseParser, "begin", begin_late)
        assert asked(our_way, server.url) == b"two"


def test_a_body_after_204_is_no_answer(our_way: Way):
    script = [Receive(), Send(b"HTTP/1.1 204 No Content\r\nContent-Length: 47\r\n\r\n" + SMUGGLED), ReceiveEnd()]
    with Scripted(script, [Receive(), Send(TWO), Idle()]) as server:
        assert our_way.outcome(server.url).status == 204
        assert asked(our_way, server.url) == b"two"


def test_a_second_final_response_does_not_become_the_first(our_way: Way):
    with Scripted([Receive(), Send(b"HTTP/1.1 100 Continue\r\n\r\n" + ONE + SMUGGLED), ReceiveEnd()]) as server:
        assert asked(our_way, server.url) == b"one"


def test_a_head_that_repeats_is_not_parsed_again():
    """What the parser itself would make of it is compared in t/fuzz/test_transport_reply.py."""
    parser = ResponseParser(1000)
    parser.feed(ONE)
    parser.begin()
    parser.parser = None  # to parse is an error from now on
    parser.feed(TWO)
    assert (parser.complete, parser.reusable, parser.raw, parser.status) == (True, True, b"two", 200)
    parser.begin()
    with pytest.raises(AttributeError):
        parser.feed(THREE)


# -- dead ones ------------------------------------------------------------------------------------------------------


def test_one_that_died_while_idle_is_replaced(way: Way):
    with Scripted([Receive(), Send(ONE), Signal("closing")], [Receive(), Send(TWO), Idle()]) as server:
        assert asked(way, server.url) == b"one"
        server.wait("closing")
        assert asked(way, server.url) == b"two"
        assert len(server.received) == 2, "each request was heard once"


@pytest.mark.parametrize("ending", [[], [Reset()]], ids=["close", "reset"])
def test_one_that_dies_without_a_byte_is_replaced(our_way: Way, ending: list):
    """The stock adapter does not: its caller gets a ConnectionError."""
    with Scripted([Receive(), Send(ONE), Receive(), *ending], [Receive(), Send(TWO), Idle()]) as server:
        assert [asked(our_way, server.url) for _ in range(2)] == [b"one", b"two"]
        assert [number for number, _ in server.received] == [1, 1, 2]


def test_a_new_one_that_dies_is_not_replaced(way: Way):
    with Scripted([Receive()], [Receive(), Send(ONE)]) as server:
        assert way.outcome(server.url).error == "ConnectionError"
        assert server.connections == 1


def test_one_is_replaced_only_once(our_way: Way):
    with Scripted([Receive(), Send(ONE), Receive()], [Receive()], [Receive(), Send(TWO)]) as server:
        assert asked(our_way, server.url) == b"one"
        assert our_way.outcome(server.url).error == "ConnectionError"
        assert server.connections == 2


@pytest.mark.parametrize("byte", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n"], ids=["byte", "interim response"])
@pytest.mark.parametrize("ending", [[], [Reset()]], ids=["close", "reset"])
def test_nothing_is_sent_again_after_a_byte(our_way: Way, byte: bytes, ending: list):
    script = [Receive(), Send(ONE), Receive(), Send(byte), *([WaitFor("read")] if ending else []), *ending]
    with Scripted(script, [Receive(), Send(TWO)]) as server:
        assert asked(our_way, server.url) == b"one"
        server.go("read")
        assert our_way.outcome(server.url).error == "ConnectionError"
        assert server.connections == 1


def test_nothing_is_sent_again_after_a_timeout(our_way: Way):
    with Scripted([Receive(), Send(ONE), Receive(), ReceiveEnd(), Signal("closed")], [Receive(), Send(TWO)]) as server:
        assert asked(our_way, server.url) == b"one"
        assert our_way.outcome(server.url, timeout=0.2).error == "ReadTimeout"
        server.wait("closed")
        assert server.connections == 1


def test_a_late_answer_answers_nobody_else(our_way: Way):
    with Scripted([Receive(), WaitFor("late"), Send(SMUGGLED), ReceiveEnd()], [Receive(), Send(TWO), Idle()]) as server:
        assert our_way.outcome(server.url, timeout=0.2).error == "ReadTimeout"
        server.go("late")
        assert asked(our_way, server.url) == b"two"


def test_a_broken_answer_ends_the_connection(our_way: Way):
    with Scripted(
        [Receive(), Send(b"garbage"), ReceiveEnd(), Signal("closed")], [Receive(), Send(TWO), Idle()]
    ) as server:
        assert our_way.outcome(server.url).error == "ConnectionError"
        server.wait("closed")
        assert asked(our_way, server.url) == b"two"


def test_the_replacement_has_only_the_time_left(our_way: Way):
    with Scripted([Receive(), Send(ONE), Receive(), WaitFor("later")], [Receive(), Idle()]) as server:
        assert asked(our_way, server.url) == b"one"
        threading.Timer(0.3, server.go, ["later"]).start()
        started = time.monotonic()
        assert our_way.outcome(server.url, timeout=0.6).error == "ReadTimeout"
        assert 0.6 <= time.monotonic() - started < 0.85
        assert server.connections == 2


# -- early answers --------------------------------------------------------------------------------------------------

EARLY = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\n\r\nearly"
LARGE = b"x" * 30_000_000


@pytest.mark.parametrize("ending", [[Idle()], [Reset()]], ids=["kept open", "reset"])
def test_an_answer_before_the_body_was_read(our_way: Way, ending: list):
    """The stock adapter would wait until its timeout for the server to take the rest."""
    with Scripted([Receive(head_only=True), Send(EARLY), *ending], [Receive(), Send(TWO), Idle()]) as server:
        outcome = our_way.outcome(server.url, body=LARGE)
        assert (outcome.status, outcome.body, outcome.error) == (413, b"early", "")
        assert asked(our_way, server.url) == b"two", "a connection that holds half a request is not used again"


def test_interim_responses_before_the_body_was_read(our_way: Way):
    script = [Receive(head_only=True), Send(b"HTTP/1.1 100 Continue\r\n\r\n"), ReceiveEnd()]
    with Scripted(script) as server:
        assert our_way.outcome(server.url, body=LARGE[:8_000_000], timeout=1.0).error == "ReadTimeout"


def test_a_large_request_is_sent_whole(way: Way):
    with Scripted([Receive(), Send(ONE), Receive(), Send(TWO), Idle()]) as server:
        assert [asked(way, server.url, body=body) for body in (LARGE[:8_000_000], b"{}")] == [b"one", b"two"]
        assert server.received[0][1].endswith(LARGE[:8_000_000]) and server.connections == 1


# -- nothing but connections is kept --------------------------------------------------------------------------------


def test_no_cookie_is_kept():
    with_cookie = ONE.replace(b"OK\r\n", b"OK\r\nSet-Cookie: who=me; Path=/\r\n")
    with ours() as way, Scripted([Receive(), Send(with_cookie), Receive(), Send(TWO), Idle()]) as server:
        response = way.send(way.prepare(server.url))
        assert response.headers["set-cookie"] == "who=me; Path=/"
        assert not response.cookies and not way.session.cookies
        asked(way, server.url)
        assert b"ookie" not in server.received[1][1]


def test_no_redirect_is_followed():
    with ours() as way, Scripted([Receive(), Send(ONE), Idle()]) as elsewhere:
        moved = b"HTTP/1.1 302 Found\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % elsewhere.url.encode()
        with Scripted([Receive(), Send(moved), Idle()]) as server:
            response = way.send(way.prepare(server.url), redirects=True)
            assert response.status_code == 302
            assert elsewhere.connections == 0


def test_netrc_is_never_read(tmp_path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with ours() as way, Scripted([Receive(), Send(ONE), Idle()]) as server:
        asked(way, server.url)
        assert b"uthorization" not in server.received[0][1]


def test_closing_closes(our_way: Way):
    with Scripted([Receive(), Send(ONE), ReceiveEnd(), Signal("closed")]) as server:
        asked(our_way, server.url)
        our_way.close()
        server.wait("closed")


def test_a_session_notices_nothing(way: Way):
    """What callers of requests may look at is there."""
    with Scripted(
        [Receive(), Send(ONE.replace(b"OK\r\n", b"OK\r\nContent-Type: application/json\r\n")), Idle()]
    ) as server:
        response = way.send(way.prepare(server.url))
        assert (response.ok, response.reason, response.url, response.text) == (True, "OK", server.url, "one")
        assert response.headers["CONTENT-TYPE"] == "application/json"
        assert list(response.iter_content(2)) == [b"on", b"e"]
        assert response.elapsed.total_seconds() >= 0 and response.history == [] and not response.is_redirect
        response.close()


def test_connections_are_not_delayed(our_way: Way):
    """Nagle's algorithm would hold the end of a large request back until the server has acknowledged the rest."""
    with Scripted([Receive(), Send(ONE), Idle()]) as server:
        asked(our_way, server.url)
        (kept,) = our_way.adapter._pool.values()
        assert kept.stream._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert not kept.stream._sock.get_inheritable()

"""What goes over the wire: the request line, the headers, the body and its length."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kit import ports
from kit.backend import Answer, ThreadBackend
from kit.needs import needs
from kit.scripted import Idle, Receive, Scripted, Send
from kit.transports import Way, ours
from requests import exceptions

from pfxhttpd.io.transport.adapter import RenderedRequest

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def way() -> Iterator[Way]:
    with ours() as made:
        yield made


def heard(way: Way, request: RenderedRequest) -> tuple[bytes, list[bytes], bytes]:
    """Request line, headers and body, as a server hears them."""
    with Scripted([Receive(), Send(GOOD), Idle()]) as server:
        request.url = request.url.replace("server.example", f"127.0.0.1:{server.port}")
        request.render()
        assert way.send(request).content == b"ok"
        head, _, body = server.received[0][1].partition(b"\r\n\r\n")
        line, *headers = head.replace(b":%d" % server.port, b"").split(b"\r\n")
        return line, headers, body


def test_a_post(way: Way):
    line, headers, body = heard(way, way.prepare("http://server.example/path?a=b", b'{"key": "k"}', Content_Type="x/y"))
    assert line == b"POST /path?a=b HTTP/1.1"
    assert headers[0] == b"Host: 127.0.0.1"
    assert b"Content-Type: x/y" in headers and headers[-1] == b"Content-Length: 12"
    assert body == b'{"key": "k"}'
    assert sum(header.lower().startswith(b"content-length") for header in headers) == 1


@pytest.mark.parametrize(("method", "length"), [("GET", []), ("POST", [b"Content-Length: 0"])])
def test_no_body(way: Way, method: str, length: list[bytes]):
    _, headers, body = heard(way, way.prepare("http://server.example/", None, method))
    assert [header for header in headers if header.startswith(b"Content-L")] == length and body == b""


def test_a_get_with_a_body(way: Way):
    _, headers, body = heard(way, way.prepare("http://server.example/", b"x", "GET"))
    assert headers[-1] == b"Content-Length: 1" and body == b"x"


def test_text(way: Way):
    _, headers, body = heard(way, way.prepare("http://server.example/", "schön"))
    assert headers[-1] == b"Content-Length: 6" and body == "schön".encode()


def test_another_body_each_time(way: Way):
    with Scripted([Receive(), Send(GOOD), Receive(), Send(GOOD), Idle()]) as server:
        request = way.prepare(server.url)
        for body in (b"one", b"three"):
            request.body = body
            way.send(request)
        assert [data.partition(b"\r\n\r\n")[2] for _, data in server.received] == [b"one", b"three"]


@pytest.mark.parametrize("name", ["Content-Length", "transfer-encoding", "CONNECTION"])
def test_framing_is_ours(way: Way, name: str):
    request = way.prepare("http://server.example/", b"abc")
    request.headers[name] = "close" if name == "CONNECTION" else "1"
    _, headers, _ = heard(way, request)
    assert [h for h in headers if h.lower().startswith(name.lower().encode())] == (
        [b"Content-Length: 3"] if name == "Content-Length" else []
    )


def test_a_host_of_one_s_own(way: Way):
    _, headers, _ = heard(way, way.prepare("http://server.example/", host="other.example"))
    assert [h for h in headers if h.lower().startswith(b"host")] == [b"host: other.example"]


def test_characters_beyond_ascii(way: Way):
    request = way.prepare("http://server.example/")
    request.headers["X-Text"], request.headers["X-Bytes"] = "ü€", b"\xff\xfe"
    _, headers, _ = heard(way, request)
    assert "X-Text: ü€".encode() in headers and b"X-Bytes: \xff\xfe" in headers


@pytest.mark.parametrize("value", ["a\r\nX-Forged: yes", "a\nb", "a\rb", "a\0b", b"a\r\nb"])
@pytest.mark.parametrize("place", ["value", "name", "method"])
def test_no_line_can_be_forged(way: Way, value: str | bytes, place: str):
    request = way.prepare("http://server.example/")
    if place == "value":
        request.headers["X"] = value
    elif place == "name":
        request.headers[value if isinstance(value, str) else value.decode()] = "x"
    else:
        request.method = value if isinstance(value, str) else value.decode()
    with pytest.raises(exceptions.InvalidHeader):
        request.render()


@pytest.mark.parametrize(("url", "origin", "host"), [
    ("http://a.example/x", ("http", "a.example", 80), b"a.example"),
    ("https://a.example/x", ("https", "a.example", 443), b"a.example"),
    ("http://A.Example:8080", ("http", "a.example", 8080), b"a.example:8080"),
    ("http://[::1]:8080/x", ("http", "::1", 8080), b"[::1]:8080"),
    ("https://[2001:db8::1]/x", ("https", "2001:db8::1", 443), b"[2001:db8::1]"),
    ("http://user:word@a.example/x", ("http", "a.example", 80), b"a.example"),
    ("http://bücher.example/", ("http", "xn--bcher-kva.example", 80), b"xn--bcher-kva.example"),
])  # fmt: skip
def test_origins(way: Way, url: str, origin: tuple[str, str, int], host: bytes):
    request = way.prepare(url)
    assert request.origin == origin
    assert b"\r\nHost: %b\r\n" % host in request.head
    assert b"word" not in request.head.partition(b"Authorization")[0]


def test_ipv6(way: Way):
    needs("ipv6")
    with ThreadBackend(host="::1") as backend:
        backend.answer("/", Answer(body=b"six"))
        assert way.outcome(backend.url()).body == b"six"
        assert backend.requests()[0].header("host") == f"[::1]:{backend.port}"


def test_nobody_there(way: Way):
    with ports.refusing() as port:
        assert way.outcome(f"http://127.0.0.1:{port}/").error == "ConnectionError"


def test_one_more_header_for_one_request(way: Way):
    request = way.prepare("http://server.example/path", b"x", Content_Type="x/y")
    more = request.with_header("traceparent", "00-1-2-01")
    assert b"traceparent" not in request.head and request.headers.get("traceparent") is None
    line, headers, body = heard(way, more)
    assert line == b"POST /path HTTP/1.1" and body == b"x"
    assert [header for header in headers if header.startswith(b"traceparent")] == [b"traceparent: 00-1-2-01"]
    assert b"traceparent: 00-1-2-01\r\n" in more.proxy_head({"proxy-authorization": "x"})


def test_a_header_is_not_sent_twice(way: Way):
    request = way.prepare("http://server.example/path", b"x", Traceparent="configured")
    more = request.with_header("traceparent", "00-1-2-01")
    assert more.head.lower().count(b"traceparent") == 1 and b": 00-1-2-01\r\n" in more.head
    assert b"configured" in request.head

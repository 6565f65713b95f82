"""TLS to backends: whom the transport believes, and that it and requests' adapter agree about it."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator

import pytest
from kit.backend import Answer, ThreadBackend
from kit.certificates import Authority
from kit.scripted import Idle, Receive, ReceiveEnd, Reset, Scripted, Send, Signal, StartTls
from kit.server import ServerTls
from kit.transports import Way, ours, stock, trusting
from requests import Request, exceptions

from pfxhttpd.config.settings import Tls
from pfxhttpd.io import tls
from pfxhttpd.io.transport.adapter import Transport
from pfxhttpd.io.transport.session import DirectSession
from pfxhttpd.io.transport.stream import TlsStream as Line

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
WAYS = pytest.mark.parametrize("made", [ours, stock], ids=["ours", "stock"])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def untrusted(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("theirs"))


@pytest.fixture
def way(authority: Authority) -> Iterator[Way]:
    with ours(trusting(authority.certificate)) as made:
        yield made


def served(authority: Authority, *names: str, expired: bool = False, **more: str) -> ThreadBackend:
    pair = authority.server(*names, expired=expired)
    backend = ThreadBackend(ServerTls(pair.certificate, pair.key, **more))
    backend.answer("/", Answer(body=b"ok"))
    return backend


def tls_of(authority: Authority, **more: str) -> ServerTls:
    pair = authority.server()
    return ServerTls(pair.certificate, pair.key, **more)


@WAYS
@pytest.mark.parametrize("newest", ["", "1.2"], ids=["newest TLS", "TLS 1.2"])
def test_a_trusted_one(made, authority: Authority, newest: str):
    with served(authority, newest=newest) as backend, made(trusting(authority.certificate)) as way:
        for _ in range(3):
            assert way.outcome(backend.url()).body == b"ok"
        assert backend.connections() == 1, "kept alive"
        assert way.outcome(backend.url(host="localhost")).body == b"ok"
        assert [request.server_name for request in backend.requests()] == ["", "", "", "localhost"]


@WAYS
def test_a_server_of_an_untrusted_authority(made, authority: Authority, untrusted: Authority):
    with served(untrusted) as backend, made(trusting(authority.certificate)) as way:
        assert way.outcome(backend.url()).error == "SSLError"
        assert backend.count() == 0


@WAYS
def test_nobody_is_trusted_by_default(made, authority: Authority):
    with served(authority) as backend, made(trusting()) as way:
        assert way.outcome(backend.url()).error == "SSLError"


@WAYS
@pytest.mark.parametrize("names", [["elsewhere.example"], ["127.0.0.2"], ["*.localhost"]], ids=lambda names: names[0])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_another_name(made, authority: Authority, names: list[str], host: str):
    with served(authority, *names) as backend, made(trusting(authority.certificate)) as way:
        assert way.outcome(backend.url(host=host)).error == "SSLError"
        assert backend.count() == 0


@WAYS
def test_an_expired_one(made, authority: Authority):
    with served(authority, expired=True) as backend, made(trusting(authority.certificate)) as way:
        assert way.outcome(backend.url()).error == "SSLError"


def test_a_context_that_checks_nothing(untrusted: Authority):
    context = trusting()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with served(untrusted, "elsewhere.example") as backend, ours(context) as way:
        assert way.outcome(backend.url()).body == b"ok"


@WAYS
def test_an_old_version(made, authority: Authority):
    with served(authority, newest="1.1") as backend, made(trusting(authority.certificate)) as way:
        assert way.outcome(backend.url()).error == "SSLError"


@WAYS
@pytest.mark.parametrize("newest", ["", "1.2"], ids=["newest TLS", "TLS 1.2"])
def test_a_client_certificate(made, authority: Authority, newest: str):
    pair = authority.client("mail.example")
    context = trusting(authority.certificate, pair.certificate, pair.key)
    with served(authority, newest=newest, client_ca=authority.certificate) as backend, made(context) as way:
        assert way.outcome(backend.url()).body == b"ok"
        assert backend.requests()[0].peer == "mail.example"


@pytest.mark.parametrize("newest", ["", "1.2"], ids=["newest TLS", "TLS 1.2"])
def test_no_client_certificate(authority: Authority, newest: str, way: Way):
    """With TLS 1.3 the server's refusal arrives after the handshake. requests calls that a ConnectionError."""
    with served(authority, newest=newest, client_ca=authority.certificate) as backend:
        assert way.outcome(backend.url()).error == "SSLError"
        assert backend.count() == 0


@WAYS
def test_a_client_certificate_of_an_untrusted_authority(made, authority: Authority, untrusted: Authority):
    pair = untrusted.client("mail.example")
    context = trusting(authority.certificate, pair.certificate, pair.key)
    with served(authority, newest="1.2", client_ca=authority.certificate) as backend, made(context) as way:
        assert way.outcome(backend.url()).error in ("SSLError", "ConnectionError")
        assert backend.count() == 0


@WAYS
def test_a_server_without_tls(made):
    with Scripted([Send(b"HTTP/1.1 400 Bad Request\r\n\r\n")]) as server, made() as way:
        assert way.outcome(server.url.replace("http:", "https:")).error == "SSLError"


def reason(url: str, settings: Tls) -> str:
    """The error of one request with the context that the server makes of these settings."""
    session = DirectSession(Transport(tls.context(settings)))
    with pytest.raises(exceptions.ConnectionError) as caught:
        session.send(session.prepare_request(Request("POST", url, data=b"{}")), timeout=5.0)
    session.close()
    return str(caught.value)


def test_the_reason_names_a_target_of_the_wrong_scheme(authority: Authority):
    with ThreadBackend() as plain:
        text = reason(plain.url().replace("http:", "https:"), Tls())
        assert text == "the port does not speak TLS (a target without TLS begins with http:)"
    with served(authority) as secure:
        text = reason(secure.url().replace("https:", "http:"), Tls())
        assert text.endswith(
            "closed the connection without an answer; if it expects TLS, the target has to begin with https:"
        )
        assert "without an answer; if" in text
    with Scripted([Receive(), Send(b"\x15\x03\x01\x00\x02\x02\x46")]) as alerting:
        assert reason(alerting.url, Tls()) == "the port speaks TLS (the target has to begin with https:)"


def test_the_reason_names_the_authorities_that_are_trusted(authority: Authority, untrusted: Authority):
    with served(untrusted) as backend:
        said = "certificate verification failed: unable to get local issuer certificate; "
        assert (
            reason(backend.url(), Tls(True, root_ca=authority.certificate))
            == f"{said}trusted is {authority.certificate}"
        )
        assert reason(backend.url(), Tls()).startswith(f"{said}trusted is the system's store /")
        assert reason(backend.url(), Tls(root_ca=untrusted.certificate)).startswith(
            f"{said}server.tls.root_ca is not used, because server.tls.enabled is not true; trusted is the system's store /"
        )


@pytest.mark.parametrize("newest", ["", "1.2"], ids=["newest TLS", "TLS 1.2"])
def test_the_reason_names_a_client_certificate_that_is_demanded(
    authority: Authority, untrusted: Authority, newest: str
):
    with served(authority, newest=newest, client_ca=authority.certificate) as backend:
        text = reason(backend.url(), Tls(True, root_ca=authority.certificate))
        assert "demands a client certificate (" in text and text.endswith("; none is configured (server.tls.cert)")
        pair = untrusted.client("x")
        text = reason(backend.url(), Tls(True, False, authority.certificate, pair.certificate, pair.key))
        assert text.startswith("the server does not accept our client certificate (")
        assert text.endswith(f"; sent was {pair.certificate}")


@WAYS
def test_a_close_in_the_handshake(made):
    with Scripted([]) as server, made() as way:
        assert way.outcome(server.url.replace("http:", "https:")).error in ("SSLError", "ConnectionError")


def test_a_reset_in_the_handshake():
    """Which it is depends on who comes first: the reset, or the first bytes that it answers."""
    with Scripted([Reset()]) as server, ours() as way:
        assert way.outcome(server.url.replace("http:", "https:")).error in ("ConnectionError", "SSLError")


@WAYS
def test_a_body_that_ends_without_goodbye(made, authority: Authority):
    """The end of a connection without TLS's close_notify still ends a body; a length tells whether it was whole."""
    said = b"HTTP/1.1 200 OK\r\n\r\nok"
    with (
        Scripted([Receive(), Send(said)], tls=tls_of(authority)) as server,
        made(trusting(authority.certificate)) as way,
    ):
        assert way.outcome(server.url).body == b"ok"
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"
    with (
        Scripted([Receive(), Send(cut)], tls=tls_of(authority)) as server,
        made(trusting(authority.certificate)) as way,
    ):
        assert way.outcome(server.url).error == "ChunkedEncodingError"


def test_a_kept_one_that_died_is_replaced(authority: Authority, way: Way):
    for ending in ([Signal("closing")], [Receive()], [Receive(), Reset()]):
        with Scripted(
            [Receive(), Send(GOOD), *ending], [Receive(), Send(GOOD), Idle()], tls=tls_of(authority)
        ) as server:
            assert way.outcome(server.url).body == b"ok"
            if ending == [Signal("closing")]:
                server.wait("closing")
            assert way.outcome(server.url).body == b"ok"
            assert server.connections == 2
        way.close()


def test_bytes_after_a_response_are_no_answer(authority: Authority, way: Way):
    for said in ([Send(GOOD + GOOD)], [Send(GOOD), Send(GOOD)]):
        script = [Receive(), *said, ReceiveEnd(), Signal("closed")]
        with Scripted(script, [Receive(), Send(GOOD.replace(b"ok", b"no")), Idle()], tls=tls_of(authority)) as server:
            assert way.outcome(server.url).body == b"ok"
            if len(said) == 2:
                (kept,) = way.adapter._pool.values()
                assert kept.stream._incoming.pending or kept.stream._transport._poll.poll(10_000)
            assert way.outcome(server.url).body == b"no"
            server.wait("closed")
        way.close()


class Peer:
    """A line with a TLS server at its other end, in memory: what it says arrives all at once."""

    def __init__(self, tls: ServerTls) -> None:
        self._to, self._from = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = tls.context().wrap_bio(self._to, self._from, server_side=True)
        self.flushed, self.is_idle = True, True

    def write(self, data: bytes) -> None:
        self._to.write(data)
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()

    def read(self, deadline: float) -> bytes:
        return self._from.read()

    def close(self) -> None:
        pass


def test_a_record_behind_a_response_is_not_quiet(authority: Authority):
    """It has left the socket already, so the socket says nothing of it."""
    peer = Peer(tls_of(authority))
    line = Line(peer, trusting(authority.certificate), "localhost")
    line.handshake(0.0)
    peer.tls.write(b"tickets and all")
    assert line.read(0.0) == b"tickets and all" and line.is_idle
    peer.tls.write(b"first")
    peer.tls.write(b"second")
    assert line.read(0.0) == b"first" and not line.is_idle
    assert line.read(0.0) == b"second" and line.is_idle


def test_large_bodies(authority: Authority, way: Way):
    large = bytes(range(256)) * 4096 * 8
    said = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(large) + large
    with Scripted([Receive(), Send(said), Receive(), Send(GOOD), Idle()], tls=tls_of(authority)) as server:
        outcome = way.outcome(server.url, body=large)
        assert outcome.body == large
        assert way.outcome(server.url).body == b"ok"
        assert server.connections == 1 and server.received[0][1].endswith(large)


def test_an_early_answer(authority: Authority, way: Way):
    early = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\n\r\nearly"
    script = [Receive(head_only=True), Send(early), Idle()]
    with Scripted(script, [Receive(), Send(GOOD), Idle()], tls=tls_of(authority)) as server:
        assert way.outcome(server.url, body=b"x" * 30_000_000).body == b"early"
        assert way.outcome(server.url).body == b"ok"


def test_only_one_protocol_is_offered(authority: Authority, way: Way):
    """A server that knows HTTP/2, too, must not choose it."""
    tls, chosen = tls_of(authority), []
    context = tls.context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.sni_callback = None

    class Recording(ServerTls):
        def context(self) -> ssl.SSLContext:
            return context

    def wrap(*args: object, **more: object) -> ssl.SSLSocket:
        made = ssl.SSLContext.wrap_socket(context, *args, **more)
        chosen.append(made.selected_alpn_protocol())
        return made

    context.wrap_socket = wrap  # type: ignore[method-assign]
    recording = Recording(tls.certificate, tls.key)
    with Scripted([StartTls(recording), Receive(), Send(GOOD), Idle()]) as server:
        assert way.outcome(server.url.replace("http:", "https:")).body == b"ok"
    assert chosen == ["http/1.1"]

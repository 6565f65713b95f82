"""Responses with random faults, in random pieces: they are understood or refused, and the pieces do not matter."""

from __future__ import annotations

import gzip
import itertools

from hypothesis import example, given
from hypothesis import strategies as st
from requests import PreparedRequest, exceptions

from pfxhttpd.io.transport.response import ParsedResponse, ResponseParser

LIMIT = 5000
WHOLE = [
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n" + b'{"result": "x"}',
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\n12345\r\n2\r\n67\r\n0\r\nX-After: y\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\nHTTP/1.0 404 Not Found\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"abc" * 1000, mtime=0),
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
]
PIECES = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b":",
    b" ",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"0\r\n\r\n",
    b"ffffffff\r\n",
    b"HTTP/1.1 101 x\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"Upgrade: x\r\nConnection: upgrade\r\n",
    b"\xff",
]


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    """A response with a few places cut out, doubled or filled with something else."""
    data = draw(st.sampled_from(WHOLE))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 20)))
        filling = draw(
            st.one_of(st.just(b""), st.sampled_from(PIECES), st.binary(max_size=4), st.just(data[start:end] * 2))
        )
        data = data[:start] + filling + data[end:]
    return data


def outcome(pieces: list[bytes]) -> tuple[object, ...]:
    """What the reply is when the peer sends the pieces and closes: the response, or the class of the error."""
    reply, request = ResponseParser(LIMIT), PreparedRequest()
    try:
        for piece in pieces:
            if piece and not reply.complete:
                reply.feed(piece)
        if not reply.complete:
            reply.feed_eof()
        heard = ParsedResponse(reply, request)
    except exceptions.RequestException as error:
        return (type(error),)
    assert 200 <= heard.status_code <= 999 and len(heard.content) <= LIMIT
    return heard.status_code, heard.content, dict(heard.headers), heard.reason


@given(responses(), st.lists(st.integers(0, 300), max_size=5))
@example(WHOLE[5], [])
def test_pieces_do_not_matter(data: bytes, cuts: list[int]):
    at = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    whole = outcome([data])
    assert outcome([data[start:end] for start, end in itertools.pairwise(at)]) == whole
    assert outcome([data[place : place + 1] for place in range(len(data))]) == whole


def parsed(reply: ResponseParser, data: bytes) -> tuple[object, ...]:
    """What becomes of a response that arrives in one piece."""
    try:
        reply.feed(data)
        return (
            reply.complete, reply.status, reply.headers, bytes(reply.raw), reply.coding, reply.reusable, reply.surplus,
            reply.received,
        )  # fmt: skip
    except exceptions.RequestException as error:
        return (type(error), str(error))


@st.composite
def connections(draw: st.DrawFn) -> list[bytes]:
    """Responses on one connection, some of which begin with the same bytes as others and have the same size."""
    few = draw(st.lists(responses(), min_size=1, max_size=3))
    alike = [data[: len(data) - cut] + bytes([byte]) * cut for data in few for cut, byte in ((1, 0x78), (5, 0x0A))]
    return draw(st.lists(st.sampled_from(few + alike), min_size=2, max_size=8))


@given(connections())
@example([WHOLE[0]] * 3)
@example([WHOLE[0], WHOLE[0].replace(b"x", b"y"), WHOLE[2], WHOLE[0], WHOLE[4][:50] + b"\r\n\r\n" + WHOLE[0]])
@example([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc\r\n\r\n0\r\n\r\n"] * 2)
def test_what_was_parsed_before_does_not_matter(connection: list[bytes]):
    """A parser remembers the last head. Each response comes out as with a parser of its own."""
    reply = ResponseParser(LIMIT)
    for data in connection:
        outcome = parsed(reply, data)
        assert outcome == parsed(ResponseParser(LIMIT), data)
        if not reply.reusable or reply.surplus:
            break
        reply.begin()


@given(st.binary(max_size=300))
def test_noise_is_refused_or_understood(data: bytes):
    outcome([data])

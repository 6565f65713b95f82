"""The transport beside requests' own adapter: the same bytes from the server, and what each makes of them.

Each exchange says what ours makes of it; the stock adapter must make the same of it, unless the exchange says what
else it makes, which then is a documented difference (see the transport's package docstring).
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from kit.scripted import Idle, Receive, Reset, Script, Scripted, Send
from kit.transports import Outcome, ours, stock

OK = b"HTTP/1.1 200 OK\r\n"
BODY = b'{"result": "x"}'
PACKED = gzip.compress(BODY)
LIMIT = 10 * 1024 * 1024


def sized(body: bytes, *more: bytes, status: bytes = b"200 OK") -> bytes:
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *more, b"", b""]
    return b"\r\n".join(lines) + body


def chunked(*pieces: bytes, trailers: bytes = b"", extension: bytes = b"", more: bytes = b"") -> bytes:
    coded = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    return OK + b"Transfer-Encoding: chunked\r\n" + more + b"\r\n" + coded + b"0\r\n" + trailers + b"\r\n"


def packed(coding: bytes, body: bytes) -> bytes:
    return sized(body, b"Content-Encoding: " + coding)


def unpacked(start: bytes) -> bytes:
    """What is to be had of gzip's first bytes."""
    return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(start)


def good(body: bytes = BODY, status: int = 200) -> Outcome:
    return Outcome(status, body)


def bad(error: str) -> Outcome:
    return Outcome(error=error)


@dataclass(frozen=True, slots=True)
class Exchange:
    """What the server says to a request; what comes of it with ours; what with the stock adapter, if not the same."""

    name: str
    said: bytes
    ours: Outcome
    stock: Outcome | None = None
    end: str = "stay"
    """What the server does then: "stay" (keeps the connection open), "close" or "reset"."""
    headers: dict[str, str] = field(default_factory=dict)
    """Some that both must report."""


CHUNKED, CONNECTION, DECODING, TOO_LARGE = (
    bad(name) for name in ("ChunkedEncodingError", "ConnectionError", "ContentDecodingError", "TooLarge")
)

EXCHANGES = [
    # How long a body is.
    Exchange("a body of a given length", sized(BODY), good()),
    Exchange("an empty body", sized(b""), good(b"")),
    Exchange("a body that the end of the connection ends", OK + b"\r\n" + BODY, good(), end="close"),
    Exchange("no body by the end of the connection", OK + b"\r\n", good(b""), end="close"),
    Exchange("a length and Connection: close", sized(BODY, b"Connection: close"), good(), end="close"),
    Exchange("a length, and the connection stays open after all", sized(BODY, b"Connection: close"), good()),
    Exchange("a chunk", chunked(BODY), good()),
    Exchange("chunks", chunked(*(BODY[at : at + 1] for at in range(len(BODY)))), good()),
    Exchange("no chunk", chunked(), good(b"")),
    Exchange("a chunk's extensions", chunked(BODY, extension=b';a=b;c="d;e"'), good()),
    Exchange("chunk sizes in capitals, with zeros before", OK + b"Transfer-Encoding: chunked\r\n\r\n"
             b"000A\r\n0123456789\r\n0\r\n\r\n", good(b"0123456789")),
    Exchange("trailers", chunked(BODY, trailers=b"X-After: yes\r\nETag: x\r\n"), good()),
    Exchange("a trailer that would be a coding", chunked(BODY, trailers=b"Content-Encoding: gzip\r\n"), good()),
    Exchange("Transfer-Encoding: Chunked in capitals", OK + b"TRANSFER-ENCODING: CHUNKED\r\n\r\n0\r\n\r\n", good(b"")),
    Exchange("HTTP/1.0, ended by the connection", b"HTTP/1.0 200 OK\r\n\r\n" + BODY, good(), end="close"),
    Exchange("HTTP/1.0 with a length", b"HTTP/1.0 200 OK\r\nContent-Length: 15\r\n\r\n" + BODY, good(), end="close"),
    Exchange("HTTP/1.0, kept alive", b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 15\r\n\r\n" + BODY,
             good()),
    Exchange("204", b"HTTP/1.1 204 No Content\r\n\r\n", good(b"", 204)),
    Exchange("204 that announces a body", sized(b"", status=b"204 No Content").replace(b": 0", b": 5"), good(b"", 204)),
    Exchange("304 with the length of what it stands for", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n",
             good(b"", 304)),
    Exchange("a body with NUL and CR LF in it", sized(b"\0\r\n\r\n\xff"), good(b"\0\r\n\r\n\xff")),
    # Statuses.
    Exchange("404", sized(BODY, status=b"404 Not Found"), good(status=404)),
    Exchange("500", sized(BODY, status=b"500 Internal Server Error"), good(status=500)),
    Exchange("no reason", sized(BODY, status=b"200"), good()),
    Exchange("an empty reason", sized(BODY, status=b"200 "), good()),
    Exchange("a reason that is no ASCII", sized(BODY, status="200 schön".encode()), good()),
    Exchange("999", sized(BODY, status=b"999 Beyond"), good(status=999)),
    Exchange("000", sized(BODY, status=b"000 Nothing"), CONNECTION),
    Exchange("99", sized(BODY, status=b"99 Short"), CONNECTION),
    Exchange("1000", sized(BODY, status=b"1000 Long"), CONNECTION),
    Exchange("no number", sized(BODY, status=b"abc Letters"), CONNECTION),
    Exchange("100 first", b"HTTP/1.1 100 Continue\r\nX-Interim: yes\r\n\r\n" + sized(BODY), good()),
    Exchange("100 twice", b"HTTP/1.1 100 Continue\r\n\r\n" * 2 + sized(BODY), good()),
    Exchange("100, then a close", b"HTTP/1.1 100 Continue\r\n\r\n", CONNECTION, end="close"),
    Exchange("103 first", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + sized(BODY), good(), stock=good(b"", 103)),
    Exchange("102 first", b"HTTP/1.1 102 Processing\r\n\r\n" + sized(BODY), good(), stock=good(b"", 102)),
    Exchange("101", b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", CONNECTION,
             stock=good(b"", 101)),
    Exchange("a redirect", sized(BODY, b"Location: http://127.0.0.1:1/", status=b"302 Found"), good(status=302)),
    Exchange("a redirect to nonsense", sized(BODY, b"Location: http://[", status=b"307 Temporary Redirect"),
             good(status=307), stock=bad("ValueError")),
    # Headers.
    Exchange("a header twice", sized(BODY, b"X-Two: a", b"X-Two: b"), good(), headers={"x-two": "a, b"}),
    Exchange("blanks around a value", sized(BODY, b"X-Blank: \t a b \t "), good(), headers={"x-blank": "a b"}),
    Exchange("an empty value", sized(BODY, b"X-Empty:"), good(), headers={"x-empty": ""}),
    Exchange("a value that is no ASCII", sized(BODY, "X-Name: Jörg".encode()), good(),
             headers={"x-name": "Jörg".encode().decode("latin-1")}),
    Exchange("a long value", sized(BODY, b"X-Long: " + b"v" * 20_000), good(), headers={"x-long": "v" * 20_000}),
    Exchange("99 headers", sized(BODY, *(b"X-%d: v" % number for number in range(98))), good(), headers={"x-97": "v"}),
    Exchange("300 headers", sized(BODY, *(b"X-%d: v" % number for number in range(300))), good(), stock=CONNECTION),
    Exchange("a head over the bound", sized(BODY, *(b"X-%d: %b" % (number, b"v" * 1000) for number in range(98))),
             TOO_LARGE, stock=good()),
    Exchange("headers without end", OK + b"X: y\r\n" * 100_000, TOO_LARGE, stock=CONNECTION),
    Exchange("a line without end", OK + b"X: " + b"y" * 600_000, TOO_LARGE, stock=CONNECTION),
    Exchange("a status line without end", b"HTTP/1.1 200 " + b"y" * 600_000, TOO_LARGE, stock=CONNECTION),
    Exchange("a folded line", OK + b"X-Fold: a\r\n  b\r\nContent-Length: 0\r\n\r\n", CONNECTION, stock=good(b"")),
    Exchange("a blank before the colon", OK + b"Content-Length : 2\r\n\r\nab", CONNECTION, stock=good(b"ab"), end="close"),
    Exchange("a line without a colon", OK + b"garbage\r\nContent-Length: 0\r\n\r\n", CONNECTION, stock=good(b""),
             end="close"),
    Exchange("a NUL in a value", sized(BODY, b"X: a\0b"), CONNECTION, stock=good()),
    Exchange("a lone CR in a value", sized(BODY, b"X: a\rb: c"), CONNECTION, stock=good()),
    Exchange("lone line feeds", sized(BODY).replace(b"\r\n", b"\n"), CONNECTION, stock=good()),
    # Framing that two readers read differently.
    Exchange("two lengths", OK + b"Content-Length: 15\r\nContent-Length: 5\r\n\r\n" + BODY, CONNECTION,
             stock=bad("InvalidHeader")),
    Exchange("the same length twice", OK + b"Content-Length: 15\r\nContent-Length: 15\r\n\r\n" + BODY, CONNECTION,
             stock=good()),
    Exchange("a list of lengths", OK + b"Content-Length: 15, 15\r\n\r\n" + BODY, CONNECTION, stock=good(), end="close"),
    Exchange("a negative length", OK + b"Content-Length: -1\r\n\r\n" + BODY, CONNECTION, stock=good(), end="close"),
    Exchange("a signed length", OK + b"Content-Length: +15\r\n\r\n" + BODY, CONNECTION, stock=good()),
    Exchange("a length that is no number", OK + b"Content-Length: 0x0f\r\n\r\n" + BODY, CONNECTION, stock=good(),
             end="close"),
    Exchange("a length beyond 64 bits", OK + b"Content-Length: 99999999999999999999\r\n\r\n" + BODY, CONNECTION,
             stock=CHUNKED, end="close"),
    Exchange("a length and chunks", OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", CONNECTION,
             stock=good(b"")),
    Exchange("chunks and a length", OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", CONNECTION,
             stock=good(b"")),
    Exchange("a transfer coding that is no chunking", OK + b"Transfer-Encoding: gzip\r\n\r\n" + BODY, CHUNKED,
             stock=good(), end="close"),
    Exchange("chunks in an unknown coding", OK + b"Transfer-Encoding: chunked, x\r\n\r\n0\r\n\r\n", CHUNKED,
             stock=good(b""), end="close"),
    Exchange("a chunk size that is no number", OK + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\nabc\r\n0\r\n\r\n", CHUNKED),
    Exchange("a negative chunk size", OK + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n", CHUNKED,
             stock=CONNECTION),
    Exchange("a chunk size in another notation", OK + b"Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
             CHUNKED, stock=good(b"abc")),
    Exchange("a chunk size beyond 64 bits", OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\nabc", CHUNKED,
             end="close"),
    Exchange("a chunk longer than its size", OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", CHUNKED),
    # No HTTP at all.
    Exchange("nothing", b"", CONNECTION, end="close"),
    Exchange("a reset", b"", CONNECTION, end="reset"),
    Exchange("HTTP/0.9: a body and no head", BODY, CONNECTION, end="close"),
    Exchange("an HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", CONNECTION, end="close"),
    Exchange("HTTP/2 frames", b"\0\0\x12\x04\0\0\0\0\0" + b"\0\x03\0\0\0\x80" * 3, CONNECTION, end="close"),
    Exchange("HTTP/2.0 in the status line", b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", CONNECTION),
    Exchange("HTTP/0.9 in the status line", b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n", CONNECTION, stock=good(b"")),
    Exchange("HTTP/1.2 in the status line", b"HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n", CONNECTION, stock=good(b"")),
    Exchange("another protocol", b"220 mail.example.com ESMTP\r\n", CONNECTION, end="close"),
    Exchange("garbage before a response", b"xx" + sized(BODY), CONNECTION),
    Exchange("blank lines before a response", b"\r\n\r\n" + sized(BODY), good(), stock=CONNECTION),
    Exchange("garbage after a response", sized(BODY) + b"garbage", good()),
    Exchange("a response after a response", sized(BODY) + sized(b"other"), good()),
    # Cut short.
    Exchange("a close in the status line", b"HTTP/1.1 20", CONNECTION, end="close"),
    Exchange("a close in the head", OK + b"Content-Le", CONNECTION, stock=good(b""), end="close"),
    Exchange("a close in the body", OK + b"Content-Length: 15\r\n\r\n{", CHUNKED, end="close"),
    Exchange("a reset in the body", OK + b"Content-Length: 15\r\n\r\n{", CONNECTION, stock=CHUNKED, end="reset"),
    Exchange("a close before the body", OK + b"Content-Length: 15\r\n\r\n", CHUNKED, end="close"),
    Exchange("a close in a chunk", chunked(BODY)[:-15], CHUNKED, end="close"),
    Exchange("a close before the last chunk", chunked(BODY)[:-5], CHUNKED, end="close"),
    Exchange("a close before the last line", chunked(BODY)[:-2], CHUNKED, stock=good(), end="close"),
    Exchange("a body that never comes", OK + b"Content-Length: 15\r\n\r\n", bad("ReadTimeout"), stock=CONNECTION),
    Exchange("a last chunk that never comes", chunked(BODY)[:-5], bad("ReadTimeout"), stock=CONNECTION),
    Exchange("an answer that never comes", b"", bad("ReadTimeout")),
    # Codings.
    Exchange("gzip", packed(b"gzip", PACKED), good()),
    Exchange("x-gzip, in capitals", packed(b"X-GZIP", PACKED), good()),
    Exchange("gzip in chunks", chunked(PACKED[:9], PACKED[9:], more=b"Content-Encoding: gzip\r\n"), good()),
    Exchange("gzip without a length", OK + b"Content-Encoding: gzip\r\n\r\n" + PACKED, good(), end="close"),
    Exchange("gzip in two streams", packed(b"gzip", PACKED + PACKED), good(BODY + BODY)),
    Exchange("gzip with zeros after it", packed(b"gzip", PACKED + b"\0" * 20), good()),
    Exchange("gzip, then a stream cut short", packed(b"gzip", PACKED + PACKED[:20]), DECODING,
             stock=good(BODY + unpacked(PACKED[:20]))),
    Exchange("gzip cut short", packed(b"gzip", PACKED[:-10]), DECODING, stock=good(unpacked(PACKED[:-10]))),
    Exchange("gzip with a wrong checksum", packed(b"gzip", PACKED[:-8] + b"\0" * 8), DECODING),
    Exchange("gzip that is none", packed(b"gzip", BODY), DECODING),
    Exchange("gzip of nothing", packed(b"gzip", gzip.compress(b"")), good(b"")),
    Exchange("gzip, but no body", packed(b"gzip", b""), good(b"")),
    Exchange("more gzip streams than anybody sends", packed(b"gzip", PACKED * 200), DECODING, stock=good(BODY * 200)),
    Exchange("deflate", packed(b"deflate", zlib.compress(BODY)), good()),
    Exchange("deflate without its envelope", packed(b"deflate", zlib.compress(BODY, wbits=-15)), good()),
    Exchange("deflate that is none", packed(b"deflate", b"\xff" * 20), DECODING),
    Exchange("identity", packed(b"identity", BODY), good()),
    Exchange("a coding that nobody knows", packed(b"x-odd", BODY), good()),
    # Too much.
    Exchange("a length over the bound", OK + b"Content-Length: %d\r\n\r\n" % (LIMIT + 1), TOO_LARGE, stock=CONNECTION),
]  # fmt: skip

LARGE: dict[str, Callable[[str], Exchange]] = {
    "3 MB": lambda name: Exchange(name, sized(b"x" * 3_000_000), good(b"x" * 3_000_000)),
    "3 MB in chunks": lambda name: Exchange(name, chunked(*[b"x" * 1000] * 3000), good(b"x" * 3_000_000)),
    "the largest body": lambda name: Exchange(name, sized(b"x" * LIMIT), good(b"x" * LIMIT)),
    "chunks over the bound": lambda name: Exchange(
             name, chunked(*[b"x" * 100_000] * 105), TOO_LARGE, stock=good(b"x" * 10_500_000)),
    "no end over the bound": lambda name: Exchange(
             name, OK + b"\r\n" + b"x" * (LIMIT + 1), TOO_LARGE, stock=good(b"x" * (LIMIT + 1)), end="close"),
    "a bomb": lambda name: Exchange(
             name, packed(b"gzip", gzip.compress(bytes(LIMIT + 1))), TOO_LARGE, stock=good(bytes(LIMIT + 1))),
    "almost a bomb": lambda name: Exchange(name, packed(b"gzip", gzip.compress(bytes(LIMIT))), good(bytes(LIMIT))),
    "a deflated bomb": lambda name: Exchange(
             name, packed(b"deflate", zlib.compress(bytes(LIMIT + 1))), TOO_LARGE, stock=good(bytes(LIMIT + 1))),
    "extensions that outweigh their chunks": lambda name: Exchange(
             name, OK + b"Transfer-Encoding: chunked\r\n\r\n"
             + (b"1;" + b"e" * 1000 + b"\r\nx\r\n") * 22_000 + b"0\r\n\r\n", TOO_LARGE, stock=good(b"x" * 22_000)),
}  # fmt: skip
"""Name -> how it is made, which is done by its test alone: each takes many megabytes."""

ENDS: dict[str, Script] = {"stay": [Idle()], "close": [], "reset": [Reset()]}


@pytest.mark.parametrize("name", LARGE)
def test_large_exchange(name: str):
    test_exchange(LARGE[name](name))


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.name)
def test_exchange(exchange: Exchange):
    slow = exchange.ours.error == "ReadTimeout" or (exchange.stock == CONNECTION and exchange.end == "stay")
    timeout = 0.3 if slow else 10.0
    outcomes = []
    for way in (ours, stock):
        with Scripted([Receive(), Send(exchange.said), *ENDS[exchange.end]]) as server, way() as asking:
            try:
                outcomes.append(asking.outcome(server.url, timeout))
            except ValueError:
                outcomes.append(bad("ValueError"))
            assert server.connections == 1, "there was nothing to try again"
    mine, theirs = outcomes
    assert (mine.error, mine.status, mine.body) == (exchange.ours.error, exchange.ours.status, exchange.ours.body)
    wanted = exchange.stock or exchange.ours
    assert (theirs.error, theirs.status, theirs.body) == (wanted.error, wanted.status, wanted.body), "the stock adapter"
    if not exchange.stock and mine.headers is not None:
        assert mine.headers == {name: value.rstrip(" \t") for name, value in theirs.headers.items()}
        assert exchange.headers.items() <= mine.headers.items()

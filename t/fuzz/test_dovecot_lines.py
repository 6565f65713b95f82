"""Any bytes, in any pieces, given to the line parser and to a SaslSession."""

from __future__ import annotations

import base64
import marshal
from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as some
from kit.examples import examples

from pfxhttpd.wire import ProtocolError
from pfxhttpd.wire.dovecot import SaslSession
from pfxhttpd.wire.dovecot_lines import LINE_LIMIT, decode_base64, encode, escape, is_complete, take_line, unescape
from pfxhttpd.wire.mechanisms import (
    PASSWORD_MECHANISMS,
    TOKEN_MECHANISMS,
    BadMessage,
    parse_oauthbearer,
    parse_plain,
    parse_xoauth2,
)

ALL = PASSWORD_MECHANISMS + TOKEN_MECHANISMS

fields = some.one_of(
    some.sampled_from(
        [
            b"VERSION",
            b"CPID",
            b"AUTH",
            b"CONT",
            b"CANCEL",
            b"1",
            b"2",
            b"0",
            b"PLAIN",
            b"LOGIN",
            b"XOAUTH2",
            b"OAUTHBEARER",
            b"resp=",
            b"resp==",
            b"resp=AHUAcA==",
            b"AHUAcA==",
            b"secured",
            b"rip=\x01t",
            b"AQ==",
            b"",
        ]
    ),
    some.binary(max_size=20).map(base64.b64encode),
    some.binary(max_size=20),
)
lines = some.lists(fields, max_size=6).map(b"\t".join)
streams = some.one_of(
    some.binary(max_size=400),
    some.lists(lines, max_size=12).map(lambda parts: b"VERSION\t1\t2\nCPID\t1\n" + b"\n".join(parts) + b"\n"),
)


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


def serve(parts: list[bytes], park: bool) -> list[bytes | str]:
    """What the session sends and hands out. Attempts with an even serial succeed, the others fail."""
    session, buffer, out = SaslSession(ALL), bytearray(), []
    for part in parts:
        buffer += part
        while True:
            taken = take_line(buffer)
            assert is_complete(buffer) is (taken is not None)
            if taken is None:
                break
            if park:
                session = SaslSession.thaw(marshal.loads(marshal.dumps(session.freeze())), ALL)
            result = session.receive_line(taken[0])
            del buffer[: taken[1]]
            out += [result.send, result.close]
            if result.close:
                return out
            if result.attempt:
                out.append(f"{result.attempt.mechanism} {result.attempt.user} {result.attempt.secret}")
                answer = (
                    session.fail(result.attempt, "no")
                    if result.attempt.serial % 2
                    else session.succeed(result.attempt, result.attempt.user or "x")
                )
                assert answer.count(b"\n") == 1
                out.append(answer)
    return out


@given(
    streams,
    some.lists(some.integers(min_value=0), max_size=20),
    some.binary(max_size=30).filter(lambda tail: b"\n" not in tail),
)
@settings(max_examples=examples(300), deadline=None)
def test_pieces_parking_and_trailing_bytes_change_nothing(stream, cuts, tail):
    if not stream.endswith(b"\n"):
        tail = b""  # it would complete the unfinished line and change its meaning
    expected = serve([stream], False)
    assert serve(pieces(stream, cuts), True) == expected
    assert serve([stream[at : at + 1] for at in range(len(stream))], False) == expected
    assert serve([stream + tail], True) == expected
    for item in expected:
        if isinstance(item, bytes) and item:
            verb, key, *_ = item.removesuffix(b"\n").split(b"\t")
            assert item.endswith(b"\n") and verb in (b"OK", b"FAIL", b"CONT") and 1 <= int(key) < 2**32


@given(some.binary(max_size=200), some.integers(0, 3))
def test_a_line_ends_at_the_first_line_feed(data, more):
    data += b"\n" * more
    taken = take_line(data)
    if b"\n" in data:
        line, used = taken
        assert line == data.split(b"\n")[0] and used == len(line) + 1
    else:
        assert taken is None


@given(some.integers(LINE_LIMIT - 2, LINE_LIMIT + 3), some.booleans())
def test_the_limit_is_exact(length, ended):
    data = b"x" * length + b"\n" * ended
    try:
        taken = take_line(data)
    except ProtocolError:
        assert length > LINE_LIMIT
    else:
        assert length <= LINE_LIMIT and taken == ((data[:-1], len(data)) if ended else None)


@given(some.lists(some.binary(max_size=50), min_size=1, max_size=5))
def test_escaping_keeps_fields_apart_and_is_reversible(parts):
    line = encode(*parts)
    assert line.count(b"\n") == 1 and line.endswith(b"\n") and b"\x00" not in line and b"\r" not in line
    assert [unescape(part) for part in line[:-1].split(b"\t")] == parts
    assert unescape(escape(line)) == line


@given(some.binary(max_size=100))
def test_unescape_accepts_any_bytes(data):
    assert len(unescape(data)) <= len(data)


Parsed = TypeVar("Parsed")


def parsed(parse: Callable[[bytes], Parsed], data: bytes) -> Parsed | None:
    """What `parse` returns for the data, or None if it refuses them."""
    try:
        return parse(data)
    except BadMessage as error:
        refusal = error
    assert refusal.reason.isprintable()
    return None


@given(
    some.one_of(
        some.binary(max_size=100),
        some.lists(
            some.sampled_from(
                [b"user=", b"auth=Bearer ", b"n,a=", b"n,,", b",", b"\x01", b"\0", b"x", b"=2C", b"\xff", b"host=h"]
            ),
            max_size=10,
        ).map(b"".join),
    )
)
@settings(max_examples=examples(300))
def test_a_message_is_parsed_or_refused(message):
    for parse in (parse_plain, parse_xoauth2, parse_oauthbearer):
        credentials = parsed(parse, message)
        if credentials is not None:
            assert credentials.secret and "\0" not in credentials.user
            assert credentials.user or parse is parse_oauthbearer


@given(some.one_of(some.binary(max_size=100), some.text("QUJD+/=", max_size=12).map(str.encode)))
def test_base64_is_decoded_exactly_or_refused(text):
    message = parsed(decode_base64, text)
    if message is not None:
        assert base64.b64decode(text, validate=True) == message

"""The socketmap protocol: requests in, replies out (socketmap_table(5))."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as some
from kit.feeding import completes_at, feed_every_split, is_decided

from pfxhttpd.wire import ProtocolError, netstring, socketmap
from pfxhttpd.wire.socketmap import BadQuery, Query, SocketMapReply

LIMIT = 100_000
ANY_TEXT = some.text(some.characters(exclude_categories=()), max_size=40)


def parse_one(payload: bytes) -> Query | BadQuery:
    encoded = netstring.encode(payload)
    query, used = socketmap.parse(encoded + b"9:trailing")
    assert used == len(encoded)
    return query


@pytest.mark.parametrize(
    ("payload", "name", "key"),
    [
        (b"demo_map user@example.com", "demo_map", "user@example.com"),
        (b"demo two words  and blanks ", "demo", "two words  and blanks "),
        (b"demo  x", "demo", " x"),
        (b"demo ", "demo", ""),
        (b" key", "", "key"),
        (b'demo "<>"', "demo", "<>"),
        (b"demo <>", "demo", "<>"),
        (b'demo "<>" ', "demo", '"<>" '),
        (b'demo "quoted"', "demo", '"quoted"'),
        (b"demo a,b:c\n\x00d", "demo", "a,b:c\n\x00d"),
        ("grün 日本".encode(), "grün", "日本"),
    ],
)
def test_the_name_ends_at_the_first_space(payload: bytes, name: str, key: str) -> None:
    assert parse_one(payload) == Query(name, key)
    assert type(parse_one(payload)) is Query


@pytest.mark.parametrize(
    ("payload", "reply"),
    [
        (b"", b"22:PERM malformed request,"),
        (b"demo", b"22:PERM malformed request,"),
        (b"\xff\xff", b"22:PERM malformed request,"),
        (b"demo \xff", b"9:NOTFOUND ,"),
        (b"demo caf\xe9", b"9:NOTFOUND ,"),
        (b"demo \xed\xa0\x80", b"9:NOTFOUND ,"),
        (b"d\xffmo key", b"16:PERM no such map,"),
        (b"d\xffmo \xff", b"16:PERM no such map,"),
    ],
)
def test_a_request_that_cannot_be_looked_up_carries_its_reply(payload: bytes, reply: bytes) -> None:
    query = parse_one(payload)
    assert type(query) is BadQuery
    assert socketmap.encode(query.reply, LIMIT) == reply


@pytest.mark.parametrize(
    "data", [b"-1:,", b"+5:a b c,", b" 5:a b c,", b"007:a b c d,", b"100001:", b"5:a b c;", b"GET /"]
)
def test_invalid_framing_raises_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        socketmap.parse(data)
    assert socketmap.is_complete(data)


def test_the_longest_request() -> None:
    query, used = socketmap.parse(netstring.encode(b"m " + b"k" * (LIMIT - 2)))
    assert query == Query("m", "k" * (LIMIT - 2)) and used == LIMIT + 8


PAYLOADS = (
    some.tuples(some.text("ab_é", max_size=4), ANY_TEXT).map(lambda pair: " ".join(pair).encode(errors="replace"))
    | some.binary(max_size=12)
    | some.just(b'm "<>"')
)


@given(some.lists(PAYLOADS, max_size=4), some.binary(max_size=4))
def test_the_split_of_pipelined_requests_does_not_matter(payloads: list[bytes], trailing: bytes) -> None:
    data = b"".join([netstring.encode(payload) for payload in payloads])
    expected = [parse_one(payload) for payload in payloads]
    assert feed_every_split(socketmap.parse, data) == (expected, b"", False)
    assert feed_every_split(socketmap.parse, data + trailing).messages[: len(payloads)] == expected


@given(
    some.text("0123456789:, x", max_size=14).map(str.encode) | some.binary(max_size=14) | PAYLOADS.map(netstring.encode)
)
def test_is_complete_agrees_with_parse(data: bytes) -> None:
    expected = next((size for size in range(len(data) + 1) if is_decided(socketmap.parse, data[:size])), None)
    assert completes_at(socketmap.is_complete, data) == expected
    assert socketmap.is_complete(data) == is_decided(socketmap.parse, data)


@pytest.mark.parametrize(
    ("reply", "encoded"),
    [
        (SocketMapReply("OK", "value"), b"8:OK value,"),
        (SocketMapReply("OK", "grün"), b"8:OK gr\xc3\xbcn,"),
        (SocketMapReply("OK", " kept as is "), b"15:OK  kept as is ,"),
        (SocketMapReply("OK", "a\nb\r\tc\x7f\x85d\u2028e"), b"14:OK a b  c  d e,"),
        (SocketMapReply("OK", "a\ud800"), b"7:OK a\xef\xbf\xbd,"),
        (SocketMapReply("NOTFOUND", ""), b"9:NOTFOUND ,"),
        (SocketMapReply("NOTFOUND", "never a text"), b"9:NOTFOUND ,"),
        (SocketMapReply("TEMP", "down"), b"9:TEMP down,"),
        (SocketMapReply("TIMEOUT", "late"), b"12:TIMEOUT late,"),
        (SocketMapReply("PERM", "no\nsuch\x00thing \n"), b"18:PERM no such thing,"),
        (SocketMapReply("PERM", ""), b"5:PERM ,"),
        (SocketMapReply("TEMP", "\ud800x"), b"6:TEMP x,"),
    ],
)
def test_encoded_replies(reply: SocketMapReply, encoded: bytes) -> None:
    assert socketmap.encode(reply, LIMIT) == encoded


def test_ok_without_a_value_is_never_sent() -> None:
    assert socketmap.encode(SocketMapReply("OK", ""), LIMIT).startswith(b"16:TEMP ")


def test_a_reply_over_the_limit_becomes_an_error() -> None:
    fits = socketmap.encode(SocketMapReply("OK", "x" * (LIMIT - 3)), LIMIT)
    assert netstring.parse(fits, LIMIT) == (b"OK " + b"x" * (LIMIT - 3), LIMIT + 8)
    assert socketmap.encode(SocketMapReply("OK", "x" * (LIMIT - 2)), LIMIT) == b"22:PERM reply is too long,"
    assert socketmap.encode(SocketMapReply("OK", "ü" * 50_000), LIMIT) == b"22:PERM reply is too long,"
    assert socketmap.encode(SocketMapReply("OK", "x" * 200_000), 300_000).startswith(b"200003:OK x")
    assert socketmap.encode(SocketMapReply("TEMP", "x" * 100), 50) == b"22:PERM reply is too long,"


@given(some.sampled_from(["OK", "NOTFOUND", "TEMP", "TIMEOUT", "PERM"]), ANY_TEXT)
@example("PERM", "x" * 1000)
@example("TEMP", "\u2029" * 300)
def test_every_reply_is_valid_for_postfix(status: str, text: str) -> None:
    encoded = socketmap.encode(SocketMapReply(status, text), LIMIT)
    payload, used = netstring.parse(encoded, LIMIT)
    assert used == len(encoded)
    shown = re.fullmatch(r"(OK (?=.)|NOTFOUND (?!.)|TEMP |TIMEOUT |PERM )(.*)", payload.decode())
    assert shown
    assert len(payload.decode().splitlines()) == 1
    assert shown[1] == "OK " or (len(shown[2]) <= 200 and shown[2].isprintable())

"""Netstrings: valid ones, incomplete ones, and bytes that cannot become one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some
from kit.feeding import feed_every_split, is_decided

from pfxhttpd.wire import ProtocolError, netstring

LIMIT = 100_000


def parse(buffer: bytes) -> tuple[bytes, int] | None:
    return netstring.parse(buffer, LIMIT)


def is_malformed(buffer: bytes, limit: int) -> bool:
    """Whether no netstring can start with these bytes, by the definition, byte by byte."""
    length = ""
    for position, byte in enumerate(buffer):
        letter = chr(byte)
        if letter == ":" and length:
            end = position + 1 + int(length)
            return end < len(buffer) and buffer[end] != ord(",")
        if letter not in "0123456789" or length == "0" or int(length + letter) > limit:
            return True
        length += letter
    return False


@pytest.mark.parametrize(
    ("buffer", "payload", "used"),
    [
        (b"0:,", b"", 3),
        (b"5:hello,", b"hello", 8),
        (b"5:hello,5:world,", b"hello", 8),
        (b"3:a:b,", b"a:b", 6),
        (b"3:,,,,", b",,,", 6),
        (b"10:0123456789,", b"0123456789", 14),
        (b"1:\x00,", b"\x00", 4),
    ],
)
def test_a_netstring(buffer: bytes, payload: bytes, used: int) -> None:
    assert parse(buffer) == (payload, used)


@pytest.mark.parametrize(
    "buffer", [b"", b"0", b"0:", b"5", b"5:", b"5:hell", b"5:hello", b"99999", b"100000", b"100000:x"]
)
def test_more_bytes_are_needed(buffer: bytes) -> None:
    assert parse(buffer) is None


@pytest.mark.parametrize(
    ("buffer", "reason"),
    [
        (b"-1:,", "plain decimal"),
        (b"-", "plain decimal"),
        (b"+5:hello,", "plain decimal"),
        (b" 5:hello,", "plain decimal"),
        (b"5 :hello,", "plain decimal"),
        (b"0x5:hello,", "plain decimal"),
        (b"1_0:0123456789,", "plain decimal"),
        (b"\xb2:xx,", "plain decimal"),
        (b"\xd9\xa5:hello,", "plain decimal"),
        (b":,", "plain decimal"),
        (b"\n", "plain decimal"),
        (b"G", "plain decimal"),
        (b"GET / HTTP/1.1\r\n\r\n", "plain decimal"),
        (b"007:1234567,", "leading zero"),
        (b"00:,", "leading zero"),
        (b"01", "leading zero"),
        (b"100001", "over 100000"),
        (b"100001:", "over 100000"),
        (b"999999", "over 100000"),
        (b"99999999999999999999", "over 100000"),
        (b"5:hello;", "comma"),
        (b"5:hello\n", "comma"),
        (b"0:x", "comma"),
    ],
)
def test_malformed_bytes_are_refused_at_once(buffer: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        parse(buffer)


def test_the_limit_is_that_of_the_payload() -> None:
    assert netstring.parse(b"3:abc,", 3) == (b"abc", 6)
    with pytest.raises(ProtocolError):
        netstring.parse(b"3:abc,", 2)
    assert netstring.parse(b"0:,", 0) == (b"", 3)
    with pytest.raises(ProtocolError):
        netstring.parse(b"1", 0)
    largest = netstring.encode(b"x" * LIMIT)
    assert parse(largest) == (b"x" * LIMIT, len(largest))


def test_no_memory_is_allocated_for_a_length() -> None:
    assert netstring.parse(b"999999999:", 10**9) is None


@given(some.lists(some.binary(max_size=30), max_size=4), some.binary(max_size=5))
def test_the_split_of_netstrings_in_a_row_does_not_matter(payloads: list[bytes], trailing: bytes) -> None:
    data = b"".join([netstring.encode(payload) for payload in payloads])
    parsed = feed_every_split(parse, data)
    assert parsed == (payloads, b"", False)
    with_trailing = feed_every_split(parse, data + trailing)
    assert with_trailing.messages[: len(payloads)] == payloads


ALMOST_VALID = some.text("0123456789:,-+ x", max_size=14).map(str.encode) | some.binary(max_size=14)


@given(ALMOST_VALID, some.sampled_from([0, 1, 3, 10, 99, 12345]))
def test_malformed_bytes_are_refused_and_no_others(buffer: bytes, limit: int) -> None:
    try:
        netstring.parse(buffer, limit)
        refused = False
    except ProtocolError:
        refused = True
    assert refused == is_malformed(buffer, limit)


@given(ALMOST_VALID)
def test_the_split_of_malformed_netstrings_does_not_matter(data: bytes) -> None:
    feed_every_split(parse, data)


@given(some.binary(max_size=2000))
def test_an_encoded_payload_is_parsed_again(payload: bytes) -> None:
    encoded = netstring.encode(payload)
    assert parse(encoded) == (payload, len(encoded))
    assert not any(is_decided(parse, encoded[:size]) for size in range(len(encoded)))

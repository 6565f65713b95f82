from __future__ import annotations

import pytest

from pfxhttpd.wire import ProtocolError
from pfxhttpd.wire.dovecot_lines import (
    LARGEST_ID,
    LINE_LIMIT,
    encode,
    escape,
    is_complete,
    request_id,
    take_line,
    unescape,
)


@pytest.mark.parametrize(
    ("buffer", "taken"),
    [
        (b"", None),
        (b"CPID\t1", None),
        (b"\n", (b"", 1)),
        (b"CPID\t1\n", (b"CPID\t1", 7)),
        (b"CPID\t1\nAUTH", (b"CPID\t1", 7)),
        (b"a\r\nb\n", (b"a\r", 3)),
        (b"\x00\x01\n", (b"\x00\x01", 3)),
        (b"x" * LINE_LIMIT, None),
        (b"x" * LINE_LIMIT + b"\n", (b"x" * LINE_LIMIT, LINE_LIMIT + 1)),
    ],
)
def test_takes_one_line_or_waits(buffer, taken):
    assert take_line(buffer) == taken
    assert take_line(bytearray(buffer)) == taken
    assert is_complete(buffer) is (taken is not None)


@pytest.mark.parametrize("buffer", [b"x" * (LINE_LIMIT + 1), b"x" * (LINE_LIMIT + 1) + b"\n", b"x" * (2 * LINE_LIMIT)])
def test_too_long_is_known_at_the_first_byte_too_many(buffer):
    with pytest.raises(ProtocolError):
        take_line(buffer)
    assert is_complete(buffer)


def test_a_long_second_line_does_not_spoil_the_first():
    assert take_line(b"a\n" + b"x" * (2 * LINE_LIMIT)) == (b"a", 2)


@pytest.mark.parametrize(
    ("plain", "escaped"),
    [
        (b"", b""),
        (b"user=a b", b"user=a b"),
        (b"a\tb", b"a\x01tb"),
        (b"a\nb", b"a\x01nb"),
        (b"a\rb", b"a\x01rb"),
        (b"a\x00b", b"a\x010b"),
        (b"a\x01b", b"a\x011b"),
        (b"\x01t", b"\x011t"),
        ("ü".encode(), "ü".encode()),
    ],
)
def test_escapes_as_dovecot_does_and_back(plain, escaped):
    assert escape(plain) == escaped
    assert unescape(escaped) == plain


@pytest.mark.parametrize(
    ("escaped", "plain"), [(b"a\x01xb", b"axb"), (b"a\x01", b"a"), (b"\x01\x01t", b"\x01t"), (b"\x01\n", b"\n")]
)
def test_unescapes_what_nobody_should_write(escaped, plain):
    assert unescape(escaped) == plain


def test_no_field_can_end_a_line_or_begin_a_field():
    assert encode(b"OK", b"1\t2", b"user=a\nFAIL") == b"OK\t1\x01t2\tuser=a\x01nFAIL\n"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"1", 1),
        (b"42", 42),
        (b"4294967295", LARGEST_ID),
        (b"", None),
        (b"0", None),
        (b"00", None),
        (b"01", None),
        (b"-1", None),
        (b"+1", None),
        (b" 1", None),
        (b"1 ", None),
        (b"1\x00", None),
        (b"4294967296", None),
        (b"99999999999999999999", None),
        (b"0x1", None),
        (b"1.0", None),
        ("١".encode(), None),
        (b"1_0", None),
    ],
)
def test_reads_ids(field, value):
    assert request_id(field) == value

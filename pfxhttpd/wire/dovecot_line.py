"""The lines of Dovecot's auth protocol: tab-separated fields, a line feed at the end, control bytes escaped with \\001.

Cutting, escaping and numbers live here, away from what the lines mean, because everything that is written to a client
must pass through the one encoder, and because the process that holds silent clients has to know when a whole line is
there without knowing anything else about the protocol.
"""

from __future__ import annotations

import re

from pfxhttpd.wire.malformed import Malformed

LIMIT = 65536
"""Longest line, in bytes, without its line feed. A longer one closes the connection."""

LARGEST_ID = 2**32 - 1
"""Request ids are 32 bit unsigned; 0 is nobody's."""

_ESCAPES = {0x00: b"\x010", 0x01: b"\x011", 0x09: b"\x01t", 0x0A: b"\x01n", 0x0D: b"\x01r"}
_MEANINGS = {b"0": b"\x00", b"1": b"\x01", b"t": b"\t", b"n": b"\n", b"r": b"\r"}
_ESCAPED = re.compile(rb"\x01(.?)")


def take_line(buffer: bytes) -> tuple[bytes, int] | None:
    """The first line of `buffer` without its line feed, and the bytes used with it; None when more is needed.

    Raises Malformed as soon as more than LIMIT bytes are there without a line feed among the first LIMIT + 1.
    """
    end = buffer.find(b"\n", 0, LIMIT + 1)
    if end >= 0:
        return bytes(buffer[:end]), end + 1
    if len(buffer) > LIMIT:
        raise Malformed(f"line longer than {LIMIT} bytes")
    return None


def whole(buffer: bytes) -> bool:
    """Whether `take_line` would have an answer, good or bad: then a worker should see this client."""
    return len(buffer) > LIMIT or b"\n" in buffer


def escape(field: bytes) -> bytes:
    """`field` as it may stand between two tabs (Dovecot's str_tabescape)."""
    if field.isascii() and field.decode("ascii").isprintable():
        return field
    return b"".join(_ESCAPES.get(byte) or bytes((byte,)) for byte in field)


def unescape(field: bytes) -> bytes:
    """The inverse of `escape`. As in Dovecot, an unknown escape means its second byte, and a lone \\001 at the end nothing."""
    return _ESCAPED.sub(lambda found: _MEANINGS.get(found[1], found[1]), field)


def encode(*fields: bytes) -> bytes:
    """One line out of its fields, each escaped."""
    return b"\t".join(map(escape, fields)) + b"\n"


def number(field: bytes) -> int | None:
    """The request id that `field` writes in plain decimal, 1 to LARGEST_ID; None for anything else (0, signs, leading zeros)."""
    if not 1 <= len(field) <= 10 or not field.isdigit() or field.startswith(b"0"):
        return None
    value = int(field)
    return value if value <= LARGEST_ID else None

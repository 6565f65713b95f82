"""Netstrings, the framing of the socketmap protocol: `<length>:<payload>,` (https://cr.yp.to/proto/netstrings.txt).

Memory is never allocated for a length that a client sent: the payload is a slice of bytes that have been received.
"""

from __future__ import annotations

from pfxhttpd.wire import ProtocolError

_COLON_WITHIN = 10
"""The colon must be among so many bytes. A length has at most 9 digits, so `limit` must be below 10^9."""

_COMMA = ord(",")
_ZERO = ord("0")


def parse(buffer: bytes, limit: int) -> tuple[bytes, int] | None:
    """The payload of the netstring at the start of `buffer`, and the number of bytes used including the framing.

    Returns None if more bytes are needed. `limit` is the greatest length of a payload, in bytes. Raises ProtocolError
    as soon as the bytes cannot be the start of a valid netstring: the length is not a plain decimal number (it has a
    sign, a space, a leading zero or a letter) or is over `limit`, or no comma follows the payload.
    """
    colon = buffer.find(b":", 0, _COLON_WITHIN)
    digits = buffer[: colon if colon >= 0 else _COLON_WITHIN]
    if not digits.isdigit():
        if not buffer:
            return None
        raise ProtocolError("length of the netstring is not a plain decimal number")
    if digits[0] == _ZERO and len(digits) > 1:
        raise ProtocolError("length of the netstring has a leading zero")
    length = int(digits)
    if length > limit:
        raise ProtocolError(f"length of the netstring is over {limit}")
    if colon < 0:
        return None
    start = colon + 1
    end = start + length
    if len(buffer) <= end:
        return None
    if buffer[end] != _COMMA:
        raise ProtocolError("netstring does not end in a comma")
    return buffer[start:end], end + 1


def encode(payload: bytes) -> bytes:
    """The payload as a netstring."""
    return b"%d:%b," % (len(payload), payload)

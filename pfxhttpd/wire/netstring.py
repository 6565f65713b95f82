"""Netstrings, the framing of the socketmap protocol: `<length>:<payload>,` (cr.yp.to/proto/netstrings.txt).

Nothing is reserved for a length that a client wrote: the payload is cut out of bytes that are already here.
"""

from __future__ import annotations

from pfxhttpd.wire import ProtocolError

_HEAD = 10
"""Bytes looked at for the colon. A valid length is shorter: it cannot pass `limit`, which is checked digit by digit."""

_COMMA = ord(",")
_ZERO = ord("0")


def parse(buffer: bytes, limit: int) -> tuple[bytes, int] | None:
    """The payload of the netstring at the start of `buffer` and the number of bytes it used, framing included.

    None means that more bytes are needed. `limit` bounds the payload's length in bytes.
    Raises Malformed as soon as the bytes seen cannot begin a valid netstring: a length that is no plain decimal
    (sign, blank, leading zero, letters), a length over `limit`, or no comma behind the payload.
    """
    colon = buffer.find(b":", 0, _HEAD)
    digits = buffer[: colon if colon >= 0 else _HEAD]
    if not digits.isdigit():
        if not buffer:
            return None
        raise ProtocolError("length of the netstring is no plain decimal number")
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

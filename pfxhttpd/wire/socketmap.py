"""Postfix's socketmap protocol: one netstring `<name> <key>` asks, one netstring `<status> <text>` answers.

Source: socketmap_table(5). Diagnostics: a request with sound framing always has a reply, if need be a `BadQuery`'s
own; only broken framing raises Malformed. Postfix never closes a connection by itself after a reply that it
cannot parse, and takes `OK` with nothing behind it for a configuration error, so `encode` can produce neither.
"""

from __future__ import annotations

from typing import NamedTuple

from pfxhttpd.wire import ProtocolError, netstring
from pfxhttpd.wire.text import clean, one_line

REQUEST_LIMIT = 100_000
"""Bytes in a request's payload. Postfix's own limit for both directions."""

OK, NOTFOUND, TEMP, TIMEOUT, PERM = "OK", "NOTFOUND", "TEMP", "TIMEOUT", "PERM"


class SocketMapReply(NamedTuple):
    """A status and its text: the value for OK, nothing for NOTFOUND, otherwise a reason. `encode` cleans the text."""

    status: str
    text: str


class Query(NamedTuple):
    """The key that a client looks up, and the name of the map to look in."""

    name: str
    key: str


class BadQuery(NamedTuple):
    """A request with sound framing that cannot be looked up. `reply` is what it gets; the connection is kept."""

    reply: SocketMapReply


NOT_FOUND = SocketMapReply(NOTFOUND, "")

_NO_SPACE = BadQuery(SocketMapReply(PERM, "malformed request"))
_NO_SUCH_MAP = BadQuery(SocketMapReply(PERM, "no such map"))
_KEY_NOT_UTF8 = BadQuery(NOT_FOUND)
_NULL_SENDER = b'"<>"'
_ENCODED_NOT_FOUND = netstring.encode(b"NOTFOUND ")
_ENCODED_TOO_LONG = netstring.encode(b"PERM reply is too long")
_ENCODED_EMPTY = netstring.encode(b"TEMP empty value")


def parse(buffer: bytes) -> tuple[Query | BadQuery, int] | None:
    """The request at the start of `buffer` and the number of bytes it used; None when more bytes are needed.

    The name ends at the first space; the key is all that follows. A key of `"<>"`, quotes included, is the null
    sender, given as `<>`. Raises Malformed when the framing is broken.
    """
    framed = netstring.parse(buffer, REQUEST_LIMIT)
    if framed is None:
        return None
    payload, used = framed
    name, space, key = payload.partition(b" ")
    if not space:
        return _NO_SPACE, used
    try:
        map_name = name.decode()
    except UnicodeDecodeError:
        return _NO_SUCH_MAP, used
    if key == _NULL_SENDER:
        return Query(map_name, "<>"), used
    try:
        return Query(map_name, key.decode()), used
    except UnicodeDecodeError:
        return _KEY_NOT_UTF8, used


def is_complete(buffer: bytes, seen: int = 0) -> bool:
    """Whether somebody has to look at `buffer`: it begins with a whole request, or it is malformed already.

    Cheap enough to ask again after every byte, so `seen` (see `policy.whole`) makes no difference here.
    """
    try:
        return netstring.parse(buffer, REQUEST_LIMIT) is not None
    except ProtocolError:
        return True


def encode(reply: SocketMapReply, limit: int) -> bytes:
    """The reply as it goes onto the wire. `limit` bounds the netstring's payload in bytes.

    A value's control characters become spaces; a reason becomes one printable line of at most 200 characters.
    A reply that is too long becomes PERM. An empty value, which no verdict produces, becomes TEMP.
    """
    status, text = reply
    if status == OK:
        if not text:
            return _ENCODED_EMPTY
        payload = ("OK " + clean(text)).encode()
    elif status == NOTFOUND:
        return _ENCODED_NOT_FOUND
    else:
        payload = f"{status} {one_line(text)}".encode()
    size = len(payload)
    if size > limit:
        return _ENCODED_TOO_LONG
    return b"%d:%b," % (size, payload)

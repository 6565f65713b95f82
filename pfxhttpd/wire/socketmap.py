"""Postfix's socketmap protocol. A request is a netstring `<name> <key>`, a reply a netstring `<status> <text>`.

Source: socketmap_table(5). A request with valid framing always gets a reply: a `BadQuery` carries its own. Only invalid
framing raises ProtocolError. Postfix does not close the connection after a reply that it cannot parse, and treats `OK`
without a value as a configuration error, so `encode` produces neither.
"""

from __future__ import annotations

from typing import NamedTuple

from pfxhttpd.wire import ProtocolError, netstring
from pfxhttpd.wire.sanitize import clean, one_line

REQUEST_LIMIT = 100_000
"""Size of the largest request's payload in bytes. Postfix's own limit, for requests and replies."""

OK, NOTFOUND, TEMP, TIMEOUT, PERM = "OK", "NOTFOUND", "TEMP", "TIMEOUT", "PERM"


class SocketMapReply(NamedTuple):
    """A status and its text, which is the value for OK, empty for NOTFOUND and otherwise a reason."""

    status: str
    text: str


class Query(NamedTuple):
    """A lookup of `key` in the map `name`."""

    name: str
    key: str


class BadQuery(NamedTuple):
    """A request with valid framing that cannot be looked up. `reply` answers it, and the connection is kept."""

    reply: SocketMapReply


NOT_FOUND = SocketMapReply(NOTFOUND, "")

_NO_SPACE = BadQuery(SocketMapReply(PERM, "malformed request"))
_NO_SUCH_MAP = BadQuery(SocketMapReply(PERM, "no such map"))
_KEY_NOT_UTF8 = BadQuery(NOT_FOUND)
_NULL_SENDER = b'"<>"'
_make = tuple.__new__  # the constructor of a NamedTuple is a function in Python, which takes twice as long
_ENCODED_NOT_FOUND = netstring.encode(b"NOTFOUND ")
_ENCODED_TOO_LONG = netstring.encode(b"PERM reply is too long")
_ENCODED_EMPTY = netstring.encode(b"TEMP empty value")


def parse(buffer: bytes) -> tuple[Query | BadQuery, int] | None:
    """The request at the start of `buffer`, and the number of bytes used; None if more bytes are needed.

    The name ends at the first space, and everything after that is the key. A key of `"<>"`, with the quotes, is the
    null sender and is returned as `<>`. Raises ProtocolError if the framing is invalid.
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
        return _make(Query, (map_name, key.decode())), used
    except UnicodeDecodeError:
        return _KEY_NOT_UTF8, used


def is_complete(buffer: bytes, seen: int = 0) -> bool:
    """Whether `parse` would return a request or raise ProtocolError.

    The check is cheap however often it is repeated, so `seen` (see `policy.is_complete`) is ignored.
    """
    try:
        return netstring.parse(buffer, REQUEST_LIMIT) is not None
    except ProtocolError:
        return True


def encode(reply: SocketMapReply, limit: int) -> bytes:
    """The reply as a netstring. `limit` is the greatest length of its payload, in bytes.

    Control characters in a value are replaced by spaces. A reason becomes one printable line of at most 200 characters.
    A reply over the limit is replaced by PERM, and an empty value, which no caller should pass, by TEMP.
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

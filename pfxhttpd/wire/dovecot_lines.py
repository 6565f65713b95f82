"""The lines of Dovecot's auth protocol, read and written: tab-separated fields that end in a line feed.

Everything that is written to a client is escaped by the one encoder in this file. The process that holds silent
connections uses `is_complete` and needs to know nothing else about the protocol.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pfxhttpd.wire import ProtocolError
from pfxhttpd.wire.mechanisms import BadMessage, Mechanism, decode
from pfxhttpd.wire.mechanisms import encode as base64
from pfxhttpd.wire.text import clean, one_line

KEPT = frozenset(
    {
        "service",
        "rip",
        "rport",
        "lip",
        "lport",
        "client_hostname",
        "secured",
        "ssl_protocol",
        "ssl_cipher",
        "client_id",
    }
)
"""Dovecot's names of the parameters that are kept; all others (nologin, session, forward_…) are ignored."""

VALUE_LIMIT = 1024
"""Longest value that is kept, in bytes. A longer one, one with a control character or one that is not UTF-8 counts as not given."""

_EMPTY_RESPONSES = (b"", b"=")


@dataclass(frozen=True, slots=True)
class AuthRequest:
    """`mechanism` in capitals. `response` is the decoded first message, None when there is none or an empty one.

    An empty one (`resp=`, `resp==`) means that the client is to be asked, as with Dovecot: Exim writes `resp=` for a
    client that sent no initial response, and no mechanism here has an empty message.
    """

    mechanism: str
    parameters: Mapping[str, str]
    response: bytes | None = field(default=None, repr=False)


def read_auth(fields: Sequence[bytes]) -> AuthRequest:
    """The fields of an AUTH line after the id. Raises BadMessage: no mechanism, bad base64, anything after `resp=`.

    `resp=` must be the last field: a client that passes on its user's bytes unchecked could otherwise be made to
    add parameters (`secured`, another `rip`) that its user wrote.
    """
    if not fields or not fields[0]:
        raise BadMessage("no mechanism")
    response = None
    parameters: dict[str, str] = {}
    for place, item in enumerate(fields[1:], 2):
        key, _, value = item.partition(b"=")
        if key == b"resp":
            if place != len(fields):
                raise BadMessage("parameters after resp")
            response = None if value in _EMPTY_RESPONSES else decode(value)
        else:
            _keep(parameters, key.decode("ascii", "replace"), value)
    return AuthRequest(fields[0].decode("ascii", "replace").upper(), parameters, response)


def _keep(parameters: dict[str, str], key: str, value: bytes) -> None:
    if key not in KEPT:
        return
    parameters.pop(key, None)
    if len(value) > VALUE_LIMIT:
        return
    try:
        text = unescape(value).decode()
    except UnicodeDecodeError:
        return
    if clean(text) == text:
        parameters[key] = text


LINE_LIMIT = 65536
"""Longest line, in bytes, without its line feed. A longer one closes the connection."""

LARGEST_ID = 2**32 - 1
"""Request ids are 32 bit unsigned; 0 is nobody's."""

_ESCAPES = {0x00: b"\x010", 0x01: b"\x011", 0x09: b"\x01t", 0x0A: b"\x01n", 0x0D: b"\x01r"}
_MEANINGS = {b"0": b"\x00", b"1": b"\x01", b"t": b"\t", b"n": b"\n", b"r": b"\r"}
_ESCAPED = re.compile(rb"\x01(.?)")


def take_line(buffer: bytes) -> tuple[bytes, int] | None:
    """The first line of `buffer` without its line feed, and the bytes used with it; None when more is needed.

    Raises ProtocolError as soon as more than LINE_LIMIT bytes are there without a line feed.
    """
    end = buffer.find(b"\n", 0, LINE_LIMIT + 1)
    if end >= 0:
        return bytes(buffer[:end]), end + 1
    if len(buffer) > LINE_LIMIT:
        raise ProtocolError(f"line longer than {LINE_LIMIT} bytes")
    return None


def is_complete(buffer: bytes) -> bool:
    """Whether `take_line` would have an answer, good or bad: then a worker should see this client."""
    return len(buffer) > LINE_LIMIT or b"\n" in buffer


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


def request_id(field: bytes) -> int | None:
    """The request id that `field` writes in plain decimal, 1 to LARGEST_ID; None for anything else (0, signs, leading zeros)."""
    if not 1 <= len(field) <= 10 or not field.isdigit() or field.startswith(b"0"):
        return None
    value = int(field)
    return value if value <= LARGEST_ID else None


MAJOR, MINOR = 1, 2


def greeting(mechanisms: Iterable[Mechanism], spid: int, cuid: int, cookie: str) -> bytes:
    """What the server says first. Every mechanism is flagged `plaintext`, so that Postfix's `noplaintext` holds for it.

    `spid` is the server's process id, `cuid` tells this connection from all others of that process, `cookie` is 128
    random bits in hex.
    """
    lines = [encode(b"VERSION", b"%d" % MAJOR, b"%d" % MINOR)]
    lines += [encode(b"MECH", mechanism.name.encode(), b"plaintext") for mechanism in mechanisms]
    lines += [
        encode(b"SPID", b"%d" % spid),
        encode(b"CUID", b"%d" % cuid),
        encode(b"COOKIE", cookie.encode()),
        encode(b"DONE"),
    ]
    return b"".join(lines)


def ok(key: int, account: str) -> bytes:
    """OK id user=ACCOUNT. Whoever calls has found no flaw in the account."""
    return encode(b"OK", b"%d" % key, b"user=" + account.encode())


def fail(key: int, reason: str, *, temp: bool = False, code: str = "") -> bytes:
    """FAIL id [temp] [code=CODE] [reason=REASON]; the reason is made one printable line."""
    fields = [b"FAIL", b"%d" % key]
    if temp:
        fields.append(b"temp")
        code = code or "temp_fail"
    if code:
        fields.append(b"code=" + one_line(code).encode())
    text = one_line(reason)
    if text:
        fields.append(b"reason=" + text.encode())
    return encode(*fields)


def cont(key: int, message: bytes) -> bytes:
    """CONT id MESSAGE in base64; with an empty one the line ends in its tab, which Exim needs."""
    return encode(b"CONT", b"%d" % key, base64(message))

"""The lines of Dovecot's auth protocol: splitting and escaping, the AUTH request, and the server's replies.

A line consists of tab-separated fields and ends in a line feed. Every field that is written passes through `escape`.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pfxhttpd.wire import ProtocolError
from pfxhttpd.wire.mechanisms import BadMessage, Mechanism
from pfxhttpd.wire.sanitize import account_error, clean, one_line

MAJOR, MINOR = 1, 2
"""The version of the protocol."""

# Lines and their fields

LINE_LIMIT = 65536
"""Length of the longest line, in bytes, without its line feed. A longer line closes the connection."""

LARGEST_ID = 2**32 - 1
"""Request ids are unsigned 32-bit numbers; 0 is not used."""

_ESCAPES = {0x00: b"\x010", 0x01: b"\x011", 0x09: b"\x01t", 0x0A: b"\x01n", 0x0D: b"\x01r"}
_UNESCAPES = {b"0": b"\x00", b"1": b"\x01", b"t": b"\t", b"n": b"\n", b"r": b"\r"}
_ESCAPED = re.compile(rb"\x01(.?)")


def take_line(buffer: bytes) -> tuple[bytes, int] | None:
    """The first line of `buffer` without its line feed, and the number of bytes used; None if more bytes are needed.

    Raises ProtocolError as soon as more than LINE_LIMIT bytes are there without a line feed.
    """
    end = buffer.find(b"\n", 0, LINE_LIMIT + 1)
    if end >= 0:
        return bytes(buffer[:end]), end + 1
    if len(buffer) > LINE_LIMIT:
        raise ProtocolError(f"line longer than {LINE_LIMIT} bytes")
    return None


def is_complete(buffer: bytes) -> bool:
    """Whether `take_line` would return a line or raise ProtocolError."""
    return len(buffer) > LINE_LIMIT or b"\n" in buffer


def escape(field: bytes) -> bytes:
    """`field` as it may stand between two tabs, like Dovecot's str_tabescape()."""
    if field.isascii() and field.decode("ascii").isprintable():
        return field
    return b"".join(_ESCAPES.get(byte) or bytes((byte,)) for byte in field)


def unescape(field: bytes) -> bytes:
    """The inverse of `escape`. As in Dovecot, an unknown escape stands for its second byte, if it has one."""
    return _ESCAPED.sub(lambda match: _UNESCAPES.get(match[1], match[1]), field)


def encode(*fields: bytes) -> bytes:
    """The line made of `fields`, each of them escaped, with its line feed."""
    return b"\t".join(map(escape, fields)) + b"\n"


def parse_request_id(field: bytes) -> int | None:
    """The request id in `field`, a decimal number from 1 to LARGEST_ID without leading zeros; otherwise None."""
    if not 1 <= len(field) <= 10 or not field.isdigit() or field.startswith(b"0"):
        return None
    value = int(field)
    return value if value <= LARGEST_ID else None


def decode_base64(text: bytes) -> bytes:
    """The bytes that `text` encodes in base64 (RFC 4648 section 4), with padding and without any other characters.

    Raises BadMessage for anything else.
    """
    if len(text) % 4 or text.endswith(b"==="):  # superfluous padding, which Python accepts before 3.13
        raise BadMessage("bad base64")
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        raise BadMessage("bad base64") from None


def encode_base64(message: bytes) -> bytes:
    """`message` in base64, on one line."""
    return binascii.b2a_base64(message, newline=False)


# The AUTH request

AUTH_PARAMETERS = frozenset(
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
"""The parameters of an AUTH line that are used. All others (nologin, session, forward_*) are ignored."""

VALUE_LIMIT = 1024
"""Length of the longest parameter value, in bytes.

A longer value counts as not given, and so does one with a control character or one that is not UTF-8.
"""

_EMPTY_RESPONSES = (b"", b"=")


@dataclass(frozen=True, slots=True)
class AuthRequest:
    """An AUTH line. `mechanism` is in upper case. `response` is the decoded initial response, or None.

    An empty initial response (`resp=` or `resp==`) is taken for none, so the client is prompted, as Dovecot does: Exim
    sends `resp=` for a client without an initial response, and no mechanism here has an empty message.
    """

    mechanism: str
    parameters: Mapping[str, str]
    response: bytes | None = field(default=None, repr=False)


def parse_auth(fields: Sequence[bytes]) -> AuthRequest:
    """The request in the fields of an AUTH line after its id.

    Raises BadMessage for a missing mechanism, invalid base64 and any field after `resp=`. `resp=` must be the last
    field: if a client passed on its own user's bytes unchecked, that user could otherwise add parameters such as
    `secured` or another `rip`.
    """
    if not fields or not fields[0]:
        raise BadMessage("no mechanism")
    response = None
    parameters: dict[str, str] = {}
    for position, item in enumerate(fields[1:], 2):
        name, _, value = item.partition(b"=")
        if name == b"resp":
            if position != len(fields):
                raise BadMessage("parameters after resp")
            response = None if value in _EMPTY_RESPONSES else decode_base64(value)
        else:
            _set_parameter(parameters, name.decode("ascii", "replace"), value)
    return AuthRequest(fields[0].decode("ascii", "replace").upper(), parameters, response)


def _set_parameter(parameters: dict[str, str], name: str, value: bytes) -> None:
    """Sets a known parameter. The last value of a repeated one counts, even if it is not valid."""
    if name not in AUTH_PARAMETERS:
        return
    parameters.pop(name, None)
    if len(value) > VALUE_LIMIT:
        return
    try:
        text = unescape(value).decode()
    except UnicodeDecodeError:
        return
    if clean(text) == text:
        parameters[name] = text


# The server's lines


def greeting(mechanisms: Iterable[Mechanism], spid: int, cuid: int, cookie: str) -> bytes:
    """The lines that the server sends first.

    Every mechanism is flagged `plaintext`, so that Postfix's `noplaintext` security option excludes it. `spid` is the
    server's process id, `cuid` distinguishes the connections of that process, `cookie` is 128 random bits in
    hexadecimal.
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
    """`OK id user=ACCOUNT`. The caller has checked the account with `text.account_error`."""
    return encode(b"OK", b"%d" % key, b"user=" + account.encode())


def fail(key: int, reason: str, *, user: str = "", temp: bool = False, code: str = "") -> bytes:
    """`FAIL id [user=USER] [temp] [code=CODE] [reason=REASON]`.

    Postfix logs `user`, which is left out where it has an error (`text.account_error`). `code` is one of Dovecot's, with
    `temp` by default temp_fail.
    """
    fields = [b"FAIL", b"%d" % key]
    if not account_error(user):
        fields.append(b"user=" + user.encode())
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
    """`CONT id MESSAGE`, the message in base64. With an empty message the line ends in a tab, which Exim requires."""
    return encode(b"CONT", b"%d" % key, encode_base64(message))

"""What the server writes in Dovecot's auth protocol. Every byte that a client gets is encoded here, field by field."""

from __future__ import annotations

from collections.abc import Iterable

from pfxhttpd.wire.dovecot_line import encode
from pfxhttpd.wire.mechanisms import Mechanism
from pfxhttpd.wire.mechanisms import encode as base64
from pfxhttpd.wire.text import one_line

MAJOR, MINOR = 1, 2


def greeting(mechanisms: Iterable[Mechanism], spid: int, cuid: int, cookie: str) -> bytes:
    """What the server says first. Every mechanism is flagged `plaintext`, so that Postfix's `noplaintext` holds for it.

    `spid` is the server's process id, `cuid` tells this connection from all others of that process, `cookie` is 128
    random bits in hex.
    """
    lines = [encode(b"VERSION", b"%d" % MAJOR, b"%d" % MINOR)]
    lines += [encode(b"MECH", mechanism.name.encode(), b"plaintext") for mechanism in mechanisms]
    lines += [encode(b"SPID", b"%d" % spid), encode(b"CUID", b"%d" % cuid), encode(b"COOKIE", cookie.encode()), encode(b"DONE")]
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

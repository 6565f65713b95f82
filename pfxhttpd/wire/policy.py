"""Postfix's policy delegation protocol: `name=value` lines and an empty line ask, `action=<action>` and an empty line answer.

Source: SMTPD_POLICY_README, access(5). Lines end in LF alone: a CR is part of the value that it stands in, and
one in a reply would hang Postfix. Nothing can be answered to a malformed request; the connection is closed.
"""

from __future__ import annotations

import re

from pfxhttpd.wire import ProtocolError
from pfxhttpd.wire.text import clean

REQUEST_LIMIT = 64 * 1024
"""Bytes in a request, its final empty line included."""

ATTRIBUTE_LIMIT = 1000
"""Lines in a request; a repeated name counts each time."""

DUNNO = "DUNNO"

_NOTHING = "request without attributes"
_NO_EQUALS = "line without an equals sign"
_NO_NAME = "attribute without a name"

_ACTION = re.compile(r"[A-Za-z]|[45][0-9]{2}[ \t]+[^ \t]")


def parse(buffer: bytes) -> tuple[dict[str, str], int] | None:
    """The attributes of the request at the start of `buffer` and the number of bytes it used; None: need more bytes.

    The order is that of reception. A repeated name keeps its first place and has its last value. Bytes that are no
    UTF-8 become U+FFFD. Raises Malformed as soon as the bytes seen cannot become a valid request: a line without
    `=` or without a name, no attribute at all, more than 64 KiB or 1000 lines.
    """
    end = buffer.find(b"\n\n", 0, REQUEST_LIMIT)
    if end < 0:
        _refuse_hopeless(buffer, 0)
        return None
    lines = buffer[:end].decode("utf-8", "replace").split("\n")
    if len(lines) > ATTRIBUTE_LIMIT:
        raise ProtocolError(f"more than {ATTRIBUTE_LIMIT} attributes")
    try:
        attributes = dict([line.split("=", 1) for line in lines])
    except ValueError:
        raise ProtocolError(_NO_EQUALS if lines[0] else _NOTHING) from None
    if "" in attributes:
        raise ProtocolError(_NO_NAME)
    return attributes, end + 2


def is_complete(buffer: bytes, seen: int = 0) -> bool:
    """Whether somebody has to look at `buffer`: it begins with a whole request, or it is malformed already.

    `seen` is the number of bytes for which an earlier call has answered False already; only what came since is
    examined, so that a client that sends byte by byte costs no more than one that does not.
    """
    if buffer.find(b"\n\n", max(0, seen - 1), REQUEST_LIMIT) >= 0:
        return True
    try:
        _refuse_hopeless(buffer, buffer.rfind(b"\n", 0, seen) + 1)
    except ProtocolError:
        return True
    return False


def _refuse_hopeless(buffer: bytes, start: int) -> None:
    """Raises Malformed if the bytes of a request without its end, whose lines before `start` are sound, cannot become one."""
    if len(buffer) >= REQUEST_LIMIT:
        raise ProtocolError(f"request is over {REQUEST_LIMIT} bytes")
    last = buffer.rfind(b"\n", start)
    if last < 0:
        return
    for line in buffer[start:last].split(b"\n"):
        equals = line.find(b"=")
        if equals < 0:
            raise ProtocolError(_NO_EQUALS if line else _NOTHING)
        if equals == 0:
            raise ProtocolError(_NO_NAME)
    if buffer.count(b"\n") > ATTRIBUTE_LIMIT:
        raise ProtocolError(f"more than {ATTRIBUTE_LIMIT} attributes")


def valid_action(action: str) -> bool:
    """Whether Postfix takes the action for what it says: it begins with a word, or with a 4xx/5xx code and a text.

    Postfix takes an empty action and one of digits only, `450` included, for a permission (access(5)). To a word that it
    does not know it answers 451; the words cannot be listed here, for the names of restriction classes are among them.
    """
    return _ACTION.match(action) is not None


def encode(action: str) -> bytes:
    """The reply that carries the action, its control characters turned into spaces.

    Raises ValueError for an action that is not valid: Postfix would take many of those for a permission.
    """
    line = clean(action)
    if not valid_action(line):
        raise ValueError("not an action that Postfix understands")
    return b"action=%b\n\n" % line.encode()

"""Postfix's policy delegation protocol. A request is `name=value` lines, a reply `action=<action>`, each with an empty
line at its end.

Sources: SMTPD_POLICY_README, access(5). Lines end in LF alone. A CR in a request is part of the value; a CR in a reply
would make Postfix wait until its timeout. A malformed request cannot be answered, so the connection has to be closed.
"""

from __future__ import annotations

import re

from pfxhttpd.wire import ProtocolError
from pfxhttpd.wire.recognize import SOCKETMAP, recognize
from pfxhttpd.wire.sanitize import clean

REQUEST_LIMIT = 64 * 1024
"""Size of the largest request in bytes, including the empty line at its end."""

ATTRIBUTE_LIMIT = 1000
"""Number of lines in the longest request. A repeated name counts each time."""

DUNNO = "DUNNO"

_NO_ATTRIBUTES = "request without attributes"
_NO_EQUALS = "line without an equals sign"
_NO_NAME = "attribute without a name"

_ACTION = re.compile(r"[A-Za-z]|[45][0-9]{2}[ \t]+[^ \t]")


def parse(buffer: bytes) -> tuple[dict[str, str], int] | None:
    """The attributes of the request at the start of `buffer`, and the number of bytes used; None if it is incomplete.

    Attributes are in the order received. A repeated name keeps its first position and takes its last value. Bytes that
    are not UTF-8 become U+FFFD. Raises ProtocolError as soon as the bytes cannot be the start of a valid request: a
    line without `=` or without a name, no attributes, more than REQUEST_LIMIT bytes or ATTRIBUTE_LIMIT lines. So does a
    netstring, which a socketmap client sends and which would otherwise be the start of a line for ever.
    """
    end = buffer.find(b"\n\n", 0, REQUEST_LIMIT)
    if end < 0:
        _check_incomplete(buffer, 0)
        return None
    lines = buffer[:end].decode("utf-8", "replace").split("\n")
    if len(lines) > ATTRIBUTE_LIMIT:
        raise ProtocolError(f"more than {ATTRIBUTE_LIMIT} attributes")
    try:
        attributes = dict([line.split("=", 1) for line in lines])
    except ValueError:
        raise ProtocolError(_NO_EQUALS if lines[0] else _NO_ATTRIBUTES) from None
    if "" in attributes:
        raise ProtocolError(_NO_NAME)
    return attributes, end + 2


def is_complete(buffer: bytes, seen: int = 0) -> bool:
    """Whether `parse` would return a request or raise ProtocolError.

    `seen` is the number of bytes for which an earlier call has returned False. Only the bytes after them are examined,
    so a client that sends single bytes costs no more than others.
    """
    if buffer.find(b"\n\n", max(0, seen - 1), REQUEST_LIMIT) >= 0:
        return True
    try:
        _check_incomplete(buffer, buffer.rfind(b"\n", 0, seen) + 1)
    except ProtocolError:
        return True
    return False


def _check_incomplete(buffer: bytes, start: int) -> None:
    """Raises ProtocolError if `buffer`, an incomplete request, is malformed. The lines before `start` are valid."""
    if len(buffer) >= REQUEST_LIMIT:
        raise ProtocolError(f"request is over {REQUEST_LIMIT} bytes")
    last = buffer.rfind(b"\n", start)
    if last < 0:
        if not start and buffer.endswith(b",") and recognize(buffer) == SOCKETMAP:
            raise ProtocolError(_NO_EQUALS)
        return
    for line in buffer[start:last].split(b"\n"):
        equals = line.find(b"=")
        if equals < 0:
            raise ProtocolError(_NO_EQUALS if line else _NO_ATTRIBUTES)
        if equals == 0:
            raise ProtocolError(_NO_NAME)
    if buffer.count(b"\n") > ATTRIBUTE_LIMIT:
        raise ProtocolError(f"more than {ATTRIBUTE_LIMIT} attributes")


def valid_action(action: str) -> bool:
    """Whether the action begins with a word, or with a 4xx or 5xx code followed by text.

    Postfix treats an empty action and an all-numerical one, even `450`, as permission (access(5)), so those are not
    valid. It answers 451 to a word that it does not know. The known words cannot be listed here, because the names of
    its restriction classes are among them.
    """
    return _ACTION.match(action) is not None


def encode(action: str) -> bytes:
    """The reply with the action, in which control characters are replaced by spaces.

    Raises ValueError if the action is not valid (`valid_action`), because Postfix could treat it as permission.
    """
    line = clean(action)
    if not valid_action(line):
        raise ValueError("not an action that Postfix understands")
    return b"action=%b\n\n" % line.encode()

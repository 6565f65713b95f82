"""The client's half of the three protocols: the requests that Postfix sends, and how it reads the replies.

wire/ has the server's half. This one is for `query`, which sends a single request. A `..._request` is the bytes to
send. A `..._reply` takes the bytes received so far and returns the reply, or None while it is incomplete. It raises
`wire.ProtocolError` for a reply that Postfix could not read either.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass

from pfxhttpd.wire import ProtocolError, netstring

FOUND, NOT_FOUND, PERMANENT, TEMPORARY = os.EX_OK, 1, os.EX_UNAVAILABLE, os.EX_TEMPFAIL
"""What a reply can mean, as exit codes."""

MAX_REPLY = 16 << 20
"""Bytes in a reply, more than any server may be configured to send. Bounds the memory for what another server sends."""

_SOCKETMAP = {"OK": FOUND, "NOTFOUND": NOT_FOUND, "TEMP": TEMPORARY, "TIMEOUT": TEMPORARY, "PERM": PERMANENT}
"""Status of a socketmap reply -> its meaning."""

_POLICY = {
    "DUNNO": NOT_FOUND,
    "REJECT": PERMANENT,
    "DEFER": TEMPORARY,
    "DEFER_IF_PERMIT": TEMPORARY,
    "DEFER_IF_REJECT": TEMPORARY,
}
"""First word of an action of access(5) -> its meaning. All others are FOUND."""

_SASL = {"OK": FOUND, "FAIL": NOT_FOUND, "CONT": PERMANENT}
"""Command of a SASL reply -> its meaning."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply of the server: its text as it is printed, and its meaning."""

    text: str
    exit_code: int


def socketmap_request(name: bytes, key: bytes) -> bytes:
    """socketmap_table(5): a netstring of the map's name, a space and the key."""
    return netstring.encode(name + b" " + key)


def socketmap_reply(buffer: bytes) -> Reply | None:
    """socketmap_table(5): a netstring of a status, a space and a value or a reason."""
    parsed = netstring.parse(buffer, MAX_REPLY)
    if parsed is None:
        return None
    text = parsed[0].decode("utf-8", "replace")
    status = text.partition(" ")[0]
    if status not in _SOCKETMAP:
        raise ProtocolError(f"no socketmap reply: {text[:100]!r}")
    return Reply(text.rstrip(" "), _SOCKETMAP[status])


def policy_request(attributes: Sequence[bytes]) -> bytes:
    """SMTPD_POLICY_README: `name=value` lines and an empty one."""
    return b"".join(attribute + b"\n" for attribute in attributes) + b"\n"


def policy_reply(buffer: bytes) -> Reply | None:
    """SMTPD_POLICY_README: one line `action=...` and an empty one."""
    if len(buffer) > MAX_REPLY:
        raise ProtocolError("a policy reply without end")
    head, end, _ = buffer.partition(b"\n\n")
    if not end:
        return None
    text = head.decode("utf-8", "replace")
    name, _, action = text.partition("=")
    if name != "action" or "\n" in text:
        raise ProtocolError(f"no policy reply: {text[:100]!r}")
    return Reply(text, _action_meaning(action))


def _action_meaning(action: str) -> int:
    word = action.partition(" ")[0].upper()
    if len(word) == 3 and word.isdigit():
        return {"4": TEMPORARY, "5": PERMANENT}.get(word[0], FOUND)
    return _POLICY.get(word, FOUND)


def sasl_greeting(buffer: bytes) -> tuple[str, ...] | None:
    """Dovecot's authentication protocol: the mechanisms that the server's lines up to DONE offer."""
    if len(buffer) > MAX_REPLY:
        raise ProtocolError("a greeting without end")
    if b"\nDONE\n" not in b"\n" + buffer:
        return None
    lines = [line.split("\t") for line in buffer.decode("utf-8", "replace").split("\n")]
    if not any(line[:2] == ["VERSION", "1"] for line in lines):
        raise ProtocolError("no greeting of Dovecot's protocol, version 1")
    return tuple(sorted(line[1] for line in lines if line[0] == "MECH" and len(line) > 1))


def plain_message(user: str, password: str) -> str:
    """RFC 4616 section 2."""
    return f"\0{user}\0{password}"


def xoauth2_message(user: str, token: str) -> str:
    """Google's "OAuth 2.0 Mechanism"."""
    return f"user={user}\1auth=Bearer {token}\1\1"


def oauthbearer_message(user: str, token: str) -> str:
    """RFC 7628 section 3.1, with the GS2 header of RFC 5801 section 4."""
    name = user.replace("=", "=3D").replace(",", "=2C")
    return f"n,a={name},\1auth=Bearer {token}\1\1"


SASL_MESSAGES = {"PLAIN": plain_message, "XOAUTH2": xoauth2_message, "OAUTHBEARER": oauthbearer_message}
"""Mechanism -> its message, made of the user and a password or a token."""


def sasl_request(mechanism: str, user: str, secret: str, pid: int) -> bytes:
    """A handshake and one exchange, as smtpd sends it for an encrypted session."""
    message = SASL_MESSAGES[mechanism](user, secret).encode("utf-8", "surrogateescape")
    request = f"AUTH\t1\t{mechanism}\tservice=smtp\tnologin\tsecured\tresp=".encode("ascii")
    return b"VERSION\t1\t2\nCPID\t%d\n" % pid + request + base64.b64encode(message) + b"\n"


SASL_ACKNOWLEDGEMENT = b"CONT\t1\tAQ==\n"
"""The client's response to an error challenge (RFC 7628 section 3.2.3)."""


def sasl_reply(buffer: bytes) -> Reply | None:
    """The reply to `sasl_request`, from the bytes after the greeting. FAIL is TEMPORARY with `temp`, else NOT_FOUND. CONT
    is PERMANENT, and is shown with its challenge decoded."""
    if len(buffer) > MAX_REPLY:
        raise ProtocolError("a reply without end")
    lines = buffer.decode("utf-8", "replace").split("\n")[:-1]
    for command, *fields in (line.split("\t") for line in lines):
        if command in _SASL and fields[:1] == ["1"]:
            shown = [_decoded(field) for field in fields[1:]] if command == "CONT" else fields[1:]
            return Reply(" ".join([command, *shown]), TEMPORARY if "temp" in fields else _SASL[command])
    return None


def _decoded(challenge: str) -> str:
    try:
        return base64.b64decode(challenge, validate=True).decode("utf-8", "replace")
    except ValueError:
        return challenge

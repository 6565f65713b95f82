"""The client's half of the three protocols: what Postfix writes, and how it reads the replies.

wire/ holds the server's half. This one is small because it only ever asks one question; `query` is its only user.
Questions are bytes to send; a `..._reply` takes the bytes received so far and gives the reply, or None while it is
not whole. A reply that Postfix could not read either raises `wire.ProtocolError`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pfxhttpd.wire import ProtocolError, netstring

FOUND, NOT_FOUND, PERMANENT, TEMPORARY = 0, 1, 69, 75
"""What a reply means, as the exit code that tells it."""

MAX_REPLY = 16 << 20
"""Longer than any server may be configured to answer; it only keeps a stranger from filling the memory."""

_SOCKETMAP = {"OK": FOUND, "NOTFOUND": NOT_FOUND, "TEMP": TEMPORARY, "TIMEOUT": TEMPORARY, "PERM": PERMANENT}

_POLICY = {
    "DUNNO": NOT_FOUND,
    "REJECT": PERMANENT,
    "DEFER": TEMPORARY,
    "DEFER_IF_PERMIT": TEMPORARY,
    "DEFER_IF_REJECT": TEMPORARY,
}
"""The first word of an action -> its meaning; every other word means that the policy had something to say."""


@dataclass(frozen=True, slots=True)
class ServerReply:
    """What the server said, as it is shown, and what that means."""

    text: str
    meaning: int


def socketmap_question(name: bytes, key: bytes) -> bytes:
    """socketmap_table(5): a netstring of the map's name, a space and the key."""
    return netstring.encode(name + b" " + key)


def socketmap_reply(buffer: bytes) -> ServerReply | None:
    taken = netstring.parse(buffer, MAX_REPLY)
    if taken is None:
        return None
    text = taken[0].decode("utf-8", "replace")
    status = text.partition(" ")[0]
    if status not in _SOCKETMAP:
        raise ProtocolError(f"no socketmap reply: {text[:100]!r}")
    return ServerReply(text.rstrip(" "), _SOCKETMAP[status])


def policy_question(attributes: Sequence[bytes]) -> bytes:
    """SMTPD_POLICY_README: `name=value` lines and an empty one."""
    return b"".join(attribute + b"\n" for attribute in attributes) + b"\n"


def policy_reply(buffer: bytes) -> ServerReply | None:
    if len(buffer) > MAX_REPLY:
        raise ProtocolError("a policy reply without end")
    head, end, _ = buffer.partition(b"\n\n")
    if not end:
        return None
    text = head.decode("utf-8", "replace")
    name, _, action = text.partition("=")
    if name != "action" or "\n" in text:
        raise ProtocolError(f"no policy reply: {text[:100]!r}")
    return ServerReply(text, _meaning_of_action(action))


def _meaning_of_action(action: str) -> int:
    word = action.partition(" ")[0].upper()
    if len(word) == 3 and word.isdigit():
        return {"4": TEMPORARY, "5": PERMANENT}.get(word[0], FOUND)
    return _POLICY.get(word, FOUND)


def sasl_greeting(buffer: bytes) -> ServerReply | None:
    """Dovecot's auth-client protocol: the server's lines up to DONE. Its meaning is FOUND when PLAIN is offered."""
    if len(buffer) > MAX_REPLY:
        raise ProtocolError("a greeting without end")
    if b"\nDONE\n" not in b"\n" + buffer:
        return None
    lines = [line.split("\t") for line in buffer.decode("utf-8", "replace").split("\n")]
    if not any(line[:2] == ["VERSION", "1"] for line in lines):
        raise ProtocolError("no greeting of Dovecot's protocol, version 1")
    names = sorted(line[1] for line in lines if line[0] == "MECH" and len(line) > 1)
    return ServerReply("MECH " + " ".join(names), FOUND if "PLAIN" in names else PERMANENT)


def sasl_question(user: str, password: str, pid: int) -> bytes:
    """A handshake and one PLAIN exchange (RFC 4616), as smtpd sends it over an encrypted session."""
    secret = base64.b64encode(f"\0{user}\0{password}".encode("utf-8", "surrogateescape"))
    return b"VERSION\t1\t2\nCPID\t%d\n" % pid + b"AUTH\t1\tPLAIN\tservice=smtp\tnologin\tsecured\tresp=%s\n" % secret


def sasl_reply(buffer: bytes) -> ServerReply | None:
    """The answer to `sasl_question`, from the bytes after the greeting. FAIL means NOT_FOUND, or TEMPORARY with temp."""
    if len(buffer) > MAX_REPLY:
        raise ProtocolError("a reply without end")
    lines = buffer.decode("utf-8", "replace").split("\n")[:-1]
    for word, *fields in (line.split("\t") for line in lines):
        if word in _SASL and fields[:1] == ["1"]:
            return ServerReply(" ".join([word, *fields[1:]]), TEMPORARY if "temp" in fields else _SASL[word])
    return None


_SASL: Mapping[str, int] = {"OK": FOUND, "FAIL": NOT_FOUND, "CONT": PERMANENT}

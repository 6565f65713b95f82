"""What an AUTH line asks for: a mechanism, what the client tells about its own client, and perhaps a first message.

Only the parameters that somebody uses are kept, and only sound ones: this is state of a connection, it waits in another
process between two lines, and no client may decide how much of it there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pfxhttpd.wire.dovecot_line import unescape
from pfxhttpd.wire.mechanisms import BadMessage, decode
from pfxhttpd.wire.text import clean

KEPT = frozenset({
    "service", "rip", "rport", "lip", "lport", "client_hostname", "secured", "ssl_protocol", "ssl_cipher", "client_id",
})
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


def read(fields: Sequence[bytes]) -> AuthRequest:
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

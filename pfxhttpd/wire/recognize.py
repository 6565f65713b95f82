"""Which protocol a client speaks, told from its first bytes, for a client that is connected to the wrong listener.

The usual cause is an address in the wrong parameter of Postfix's main.cf.
"""

from __future__ import annotations

import re

SOCKETMAP, POLICY, DOVECOT = "socketmap", "policy", "Dovecot SASL"
"""The protocols of the listeners."""

_PATTERNS = {
    "TLS": re.compile(rb"\x16\x03[\x00-\x04]"),
    "HTTP": re.compile(rb"(?:GET|HEAD|POST|PUT|DELETE|OPTIONS|CONNECT|PRI) \S+ HTTP/"),
    SOCKETMAP: re.compile(rb"[1-9][0-9]{0,5}:[^ =\n]+ [^\n]*,"),
    DOVECOT: re.compile(rb"(?:VERSION\t[0-9]+\t[0-9]+|CPID\t[0-9]+)\n"),
    POLICY: re.compile(rb"[a-z_]+=[^\n]*\n"),
    "tcp_table": re.compile(rb"(?:get|put) [^\n]*\n"),
    "SMTP": re.compile(rb"(?:EHLO|HELO|LHLO) [^\n]*\n", re.IGNORECASE),
}


def recognize(data: bytes) -> str:
    """The name of the protocol that a client speaks who begins with `data`; "" for none that is known."""
    return next((name for name, pattern in _PATTERNS.items() if pattern.match(data)), "")

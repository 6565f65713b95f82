"""The socketmap, policy and Dovecot auth protocols: bytes to values and back, without sockets, clocks or logging."""

from __future__ import annotations


class ProtocolError(ValueError):
    """The bytes received violate the framing of the protocol, and no further bytes can make them valid.

    The error's text is one line and quotes a short piece of the bytes at most. No reply is possible, because the start
    of the next message is unknown, so the connection has to be closed.
    """

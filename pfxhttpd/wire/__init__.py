"""The three protocols: bytes to values and back, without sockets, clocks or logging."""

from __future__ import annotations


class ProtocolError(ValueError):
    """A client broke the framing of its protocol; no further bytes can make the message valid.

    The message is one line for the log. It quotes at most a few of the client's bytes, so it cannot contain a secret.
    Nothing can be answered, because the start of the next message is unknown. The connection has to be closed.
    """

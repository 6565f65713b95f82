"""The one exception of this floor: bytes that can never become a valid message, whatever follows them."""

from __future__ import annotations


class Malformed(ValueError):
    """A client broke the framing of its protocol.

    The message is one line for the log. It quotes at most a few of the client's bytes, so it can hold no secret.
    Nothing can be answered: where the next message would begin is unknown, so the connection has to be closed.
    """

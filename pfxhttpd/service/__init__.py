"""How a request of each protocol is answered, from query to reply. One protocol per file."""

from __future__ import annotations


class CloseConnection(Exception):
    """Raised by a service to have the connection closed without a reply. `reason` is for the log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

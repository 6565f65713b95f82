"""The decision to end a connection, taken by a service and carried out by whoever holds it."""

from __future__ import annotations


class HangUp(Exception):
    """Close this connection without a reply; `reason` is for the log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

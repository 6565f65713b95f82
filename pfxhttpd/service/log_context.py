"""Under what a client's log lines can be found: its session, and a sub-session for each request.

Both are made only when a line is written; 8 random bytes cost as much as parsing a request.
"""

from __future__ import annotations

import os

from pfxhttpd.io.handoff import Connection


def session(client: Connection) -> str:
    """16 hex digits, the same as long as the connection lives, whichever workers serve it."""
    if not client.session:
        client.session = os.urandom(8).hex()
    return client.session


def fields(client: Connection) -> dict[str, str]:
    return {"session": session(client), "client": client.peer}


class LogContext:
    """A request's log fields: one sub-session for all its lines."""

    __slots__ = ("_client", "_fields")

    def __init__(self, client: Connection) -> None:
        self._client = client
        self._fields: dict[str, str] | None = None

    @property
    def fields(self) -> dict[str, str]:
        if self._fields is None:
            self._fields = {
                "session": session(self._client),
                "sub_session": os.urandom(8).hex(),
                "client": self._client.peer,
            }
        return self._fields

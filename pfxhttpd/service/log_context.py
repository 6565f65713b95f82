"""The log fields by which the lines of a connection and of a request can be found.

Identifiers are made only when a line is written: 8 random bytes cost as much as parsing a request.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pfxhttpd.io.handoff import Connection

if TYPE_CHECKING:
    from pfxhttpd.io.otlp.tracer import RequestTrace


def session_id(connection: Connection) -> str:
    """16 hex digits, the same as long as the connection lives, whichever workers serve it."""
    if not connection.session:
        connection.session = os.urandom(8).hex()
    return connection.session


def connection_fields(connection: Connection) -> dict[str, str]:
    """The fields of a line about the connection itself."""
    return {"session": session_id(connection), "client": connection.peer}


class LogContext:
    """The fields of all lines about one request: the connection's, a `sub_session` of the request's own, and the
    identifiers of its trace if it is traced."""

    __slots__ = ("_connection", "_fields", "_trace")

    def __init__(self, connection: Connection, trace: RequestTrace | None = None) -> None:
        self._connection, self._trace = connection, trace
        self._fields: dict[str, str] | None = None

    @property
    def fields(self) -> dict[str, str]:
        if self._fields is None:
            self._fields = {
                "session": session_id(self._connection),
                "sub_session": os.urandom(8).hex(),
                "client": self._connection.peer,
            }
            if self._trace is not None:
                self._fields.update(self._trace.ids)
        return self._fields

"""What any process does with a client's connection: receive, send, close, and log its end."""

from __future__ import annotations

import os
import select

from pfxhttpd.io.handoff import Connection
from pfxhttpd.io.log import Logger
from pfxhttpd.service import CloseConnection
from pfxhttpd.service.listener_metrics import ListenerMetrics
from pfxhttpd.service.log_context import connection_fields

READ_SIZE = 65536
"""Bytes that one read takes at most."""


def receive(fd: int, connection: Connection) -> bool:
    """Append what the client has sent to `connection.unread`; False if there was nothing.

    Raises CloseConnection at the end of the connection, with "" as the reason if the client may end it there.
    """
    try:
        data = os.read(fd, READ_SIZE)
    except BlockingIOError:
        return False
    except OSError as error:
        raise CloseConnection(error.strerror or "connection lost") from error
    if not data:
        raise CloseConnection("in the middle of a request" if connection.unread else "")
    connection.unread = connection.unread + data if connection.unread else data
    return True


def has_ended(fd: int) -> bool:
    """Whether the client has ended the connection, or at least its own direction."""
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)
    return bool(poll.poll(0))


def send(fd: int, connection: Connection, reply: bytes = b"") -> None:
    """Send what is unsent and then `reply`, in one write; keep what the client does not take in `connection.unsent`.

    Raises CloseConnection.
    """
    data = connection.unsent + reply if connection.unsent else reply
    if not data:
        return
    try:
        sent = os.write(fd, data)
    except BlockingIOError:
        sent = 0
    except OSError as error:
        raise CloseConnection(error.strerror or "connection lost") from error
    connection.unsent = data[sent:]


def close(
    fd: int, connection: Connection, reason: str, metrics: ListenerMetrics, logger: Logger, error: bool = False
) -> None:
    """Close the connection; `error` logs the reason as a defect of ours."""
    metrics.closed(connection, reason)
    log = logger.error if error else logger.info
    if log:
        log("Connection closed", **connection_fields(connection), reason=reason or None)
    os.close(fd)

"""The local syslog: a datagram socket, usually /dev/log (RFC 3164, syslog(3))."""

from __future__ import annotations

import os
import socket

FACILITIES = {
    "kern": 0,
    "user": 1,
    "mail": 2,
    "daemon": 3,
    "auth": 4,
    "syslog": 5,
    "lpr": 6,
    "news": 7,
    "uucp": 8,
    "cron": 9,
    "authpriv": 10,
    "ftp": 11,
    "local0": 16,
    "local1": 17,
    "local2": 18,
    "local3": 19,
    "local4": 20,
    "local5": 21,
    "local6": 22,
    "local7": 23,
}
"""Facility names and numbers, syslog(3)."""


class SyslogSink:
    """Sends lines as datagrams. The socket is connected early, since a process in a chroot cannot reach its path."""

    __slots__ = ("_path", "_socket")

    def __init__(self, path: str) -> None:
        """Connect. Raises `OSError` when no process receives at `path`."""
        self._path = path
        self._socket = self._connected()

    def _connected(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            sock.connect(self._path)
        except OSError:
            sock.close()
            raise
        return sock

    def send(self, line: bytes, priority: int) -> bool:
        """Send a line, whose newline is left out. `priority` is facility and severity (RFC 3164 section 4.1.1).

        Returns whether it was sent; it is lost otherwise.
        """
        text = b"<%d>pfxhttpd[%d]: %s" % (priority, os.getpid(), line[:-1])
        try:
            self._socket.send(text, socket.MSG_NOSIGNAL)
            return True
        except BlockingIOError:
            return False
        except OSError:
            pass  # syslogd has been restarted: connect to its new socket
        try:
            sock = self._connected()
            self._socket.close()
            self._socket = sock
            sock.send(text, socket.MSG_NOSIGNAL)
            return True
        except OSError:
            return False

    def descriptors(self) -> tuple[int, ...]:
        """What has to stay open when a process closes the descriptors that it does not need."""
        return (self._socket.fileno(),) if self._socket.fileno() >= 0 else ()

    def close(self) -> None:
        self._socket.close()

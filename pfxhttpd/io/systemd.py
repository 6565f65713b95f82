"""Tells systemd how the service is: sd_notify(3), from inside the jail as well.

The socket is connected when the object is made, before the jail. Without NOTIFY_SOCKET every call does nothing, and
none ever waits or raises. A change of state that could not be sent goes out with the next message.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping

from pfxhttpd.wire.text import one_line

_STATUS_LENGTH = 200


class Notifier:
    """The service manager's ear. `watchdog_interval`: seconds within which it wants to hear `watchdog()`; 0: never."""

    __slots__ = ("_socket", "_unsent", "watchdog_interval")

    def __init__(self, environ: MutableMapping[str, str], pid: int | None = None) -> None:
        """Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID and removes them, so that no child answers for us.

        `pid` is the process that the watchdog must be meant for, this one if not given.
        """
        address = environ.pop("NOTIFY_SOCKET", "")
        microseconds = environ.pop("WATCHDOG_USEC", "")
        watched = environ.pop("WATCHDOG_PID", "")
        self._socket = _connected(address)
        self._unsent = ""
        self.watchdog_interval = 0.0
        if self._socket and microseconds.isdecimal() and watched in ("", str(pid or os.getpid())):
            self.watchdog_interval = int(microseconds) / 1_000_000

    def ready(self, status: str = "", main_pid: int = 0) -> bool:
        """Start or reload is done. `main_pid` names the serving process when it is not the one that was started."""
        main = f"MAINPID={main_pid}\n" if main_pid else ""
        return self._change("READY=1\n" + main + _status(status))

    def reloading(self, status: str = "") -> bool:
        """A reload has begun, at this moment: `Type=notify-reload` compares the time with its own (systemd.service(5))."""
        moment = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        return self._change(f"RELOADING=1\nMONOTONIC_USEC={moment}\n" + _status(status))

    def stopping(self, status: str = "") -> bool:
        """The service is going down."""
        return self._change("STOPPING=1\n" + _status(status))

    def status(self, text: str) -> bool:
        """One line for `systemctl status`."""
        return self._send(_status(text))

    def watchdog(self) -> bool:
        """Still alive. To be called at least every half of `watchdog_interval`."""
        return self._send("WATCHDOG=1\n")

    def descriptors(self) -> tuple[int, ...]:
        """What must stay open when a process closes what it does not need."""
        return (self._socket.fileno(),) if self._socket else ()

    def close(self) -> None:
        """Gives the socket back, as every process but the master should; calls after it do nothing."""
        if self._socket:
            self._socket.close()
        self._socket = None

    def _change(self, message: str) -> bool:
        self._unsent = ""  # the newest state is the only one that counts
        if self._send(message):
            return True
        self._unsent = message
        return False

    def _send(self, message: str) -> bool:
        """Whether the message was handed over; an unsent change of state goes first, in the same datagram."""
        if not self._socket:
            return False
        try:
            self._socket.send((self._unsent + message).encode("utf-8", "replace"), socket.MSG_NOSIGNAL)
        except OSError:
            return False
        self._unsent = ""
        return True


def _status(text: str) -> str:
    return f"STATUS={one_line(text, _STATUS_LENGTH)}\n" if text else ""


def _connected(address: str) -> socket.socket | None:
    """The connected socket, None where there is none to be had. `@` stands for an abstract name's first byte."""
    if address[:1] not in ("/", "@"):
        return None
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        channel.connect("\0" + address[1:] if address[0] == "@" else address)
    except OSError:
        channel.close()
        return None
    return channel

"""What systemd passes to the service, and what it is notified of: sd_listen_fds(3) and sd_notify(3).

The notification socket is connected when the `Notifier` is made, before the chroot, so it works inside it.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, MutableMapping

from pfxhttpd.config.settings import Listener
from pfxhttpd.io import SetupError
from pfxhttpd.wire.sanitize import one_line

FIRST_DESCRIPTOR = 3
"""The first descriptor that systemd passes, sd_listen_fds(3)."""
MAX_DESCRIPTORS = 4095
"""Passed descriptors at most; a larger number is a mistake."""

_STATUS_LENGTH = 200


def passed_count(environ: Mapping[str, str], pid: int) -> int:
    """The number of descriptors that systemd has passed to process `pid`: LISTEN_FDS, 0 if LISTEN_PID is not `pid`.

    Raises `SetupError` when LISTEN_FDS cannot be a number of descriptors.
    """
    count = environ.get("LISTEN_FDS", "")
    if not count or environ.get("LISTEN_PID") != str(pid):
        return 0
    if not (count.isascii() and count.isdecimal() and len(count) <= 10 and 0 < int(count) <= MAX_DESCRIPTORS):
        raise SetupError(
            f"LISTEN_FDS={one_line(count, 40)!r} is no count of sockets: 1 to {MAX_DESCRIPTORS} can be passed"
        )
    return int(count)


def passed_sockets(environ: MutableMapping[str, str], pid: int) -> dict[str, list[socket.socket]]:
    """The sockets that systemd has passed to this process, by name. The variables are removed from `environ`.

    Empty when there are none, or when they are meant for another process. Raises `SetupError` when a passed descriptor
    is not a socket.
    """
    try:
        count = passed_count(environ, pid)
        names = environ.get("LISTEN_FDNAMES", "")
    finally:
        for variable in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"):
            environ.pop(variable, None)
    if not count:
        return {}
    labels = names.split(":") if names else ["unknown"] * count
    if len(labels) != count:
        raise SetupError(f"LISTEN_FDS={count} does not fit LISTEN_FDNAMES={one_line(names, 200)!r}")
    found: dict[str, list[socket.socket]] = {}
    for descriptor, label in enumerate(labels, FIRST_DESCRIPTOR):
        try:
            passed = socket.socket(fileno=descriptor)
        except OSError as error:
            raise SetupError(
                f"systemd passed {label!r} as descriptor {descriptor}, which is no socket: {error.strerror}"
            ) from error
        passed.setblocking(False)
        passed.set_inheritable(False)
        found.setdefault(label, []).append(passed)
    return found


def check_fit(listener: Listener, passed: socket.socket) -> None:
    """Raise `SetupError` unless a socket that systemd has passed can serve as `listener`."""
    families = {"unix": (socket.AF_UNIX,), "tcp6": (socket.AF_INET6,)}.get(
        listener.type, (socket.AF_INET, socket.AF_INET6)
    )
    if passed.family not in families:
        family = getattr(passed.family, "name", str(passed.family))
        raise SetupError(f"{listener.endpoint} is of family {family}, which does not fit type {listener.type}")
    if passed.type != socket.SOCK_STREAM:
        raise SetupError(f"{listener.endpoint} is no stream socket: use ListenStream= in the socket unit")
    if not passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise SetupError(f"{listener.endpoint} does not listen: use Accept=no in the socket unit")


class Notifier:
    """Sends the service's state to systemd. Without NOTIFY_SOCKET every method does nothing; none waits or raises.

    A change of state that could not be sent goes out with the next message. `watchdog_interval` is the number of
    seconds within which systemd expects a call of `watchdog`, 0 when it expects none.
    """

    __slots__ = ("_socket", "_unsent", "watchdog_interval")

    def __init__(self, environ: MutableMapping[str, str], pid: int | None = None) -> None:
        """Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID and removes them, so that no child process uses them.

        `pid` is the process that the watchdog has to be meant for; the default is this process.
        """
        address = environ.pop("NOTIFY_SOCKET", "")
        microseconds = environ.pop("WATCHDOG_USEC", "")
        watched = environ.pop("WATCHDOG_PID", "")
        self._socket = _connected(address)
        self._unsent = ""
        self.watchdog_interval = 0.0
        valid = microseconds.isascii() and microseconds.isdecimal() and len(microseconds) <= 20
        if self._socket and valid and watched in ("", str(pid or os.getpid())):
            self.watchdog_interval = int(microseconds) / 1_000_000

    def ready(self, status: str = "", main_pid: int = 0) -> bool:
        """The start or a reload is complete. `main_pid` is the serving process if it is not the one that was started."""
        main = f"MAINPID={main_pid}\n" if main_pid else ""
        return self._change("READY=1\n" + main + _status(status))

    def reloading(self, status: str = "") -> bool:
        """A reload begins now. `Type=notify-reload` compares the time with its own (systemd.service(5))."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        return self._change(f"RELOADING=1\nMONOTONIC_USEC={microseconds}\n" + _status(status))

    def stopping(self, status: str = "") -> bool:
        """The service is stopping."""
        return self._change("STOPPING=1\n" + _status(status))

    def status(self, text: str) -> bool:
        """Set the line that `systemctl status` shows."""
        return self._send(_status(text))

    def watchdog(self) -> bool:
        """The service is alive. To be called at least once every half of `watchdog_interval`."""
        return self._send("WATCHDOG=1\n")

    def sockets(self) -> list[socket.socket]:
        """The socket, for a child process that has to close it."""
        return [self._socket] if self._socket else []

    def descriptors(self) -> tuple[int, ...]:
        """What has to stay open when a process closes the descriptors that it does not need."""
        return (self._socket.fileno(),) if self._socket else ()

    def close(self) -> None:
        """Close the socket; every process but the master does so. Later calls do nothing."""
        if self._socket:
            self._socket.close()
        self._socket = None

    def _change(self, message: str) -> bool:
        self._unsent = ""  # only the newest state counts
        if self._send(message):
            return True
        self._unsent = message
        return False

    def _send(self, message: str) -> bool:
        """Send a message, preceded by an unsent change of state in the same datagram. Returns whether it was sent."""
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
    """A socket connected to `address`, None if that is not possible. `@` stands for the first byte of an abstract name."""
    if address[:1] not in ("/", "@"):
        return None
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sock.connect("\0" + address[1:] if address[0] == "@" else address)
    except (OSError, ValueError):
        sock.close()
        return None
    return sock

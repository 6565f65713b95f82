"""Opens the door to SASL clients and greets them: they say nothing before the greeting, and must have it within a second
whatever the workers are doing. So this is parking's business."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time

from pfxhttpd.config.settings import DOVECOT_SASL
from pfxhttpd.io import listen
from pfxhttpd.io.handoff import Connection
from pfxhttpd.io.log import Logger
from pfxhttpd.process.parking_config import ParkingConfig
from pfxhttpd.service import log_context
from pfxhttpd.wire.dovecot_lines import greeting
from pfxhttpd.wire.mechanisms import PASSWORD_MECHANISMS, TOKEN_MECHANISMS

_AT_ONCE = struct.pack("ii", 1, 0)
_MECHANISMS = {mechanism.name: mechanism for mechanism in (*PASSWORD_MECHANISMS, *TOKEN_MECHANISMS)}


class SaslAcceptor:
    """The doors of a plan, in its order; `epoll` is parking's."""

    def __init__(self, doors: list[socket.socket], plan: ParkingConfig, epoll: select.epoll, logger: Logger) -> None:
        self._epoll, self._log = epoll, logger
        self._doors = dict(zip((sock.fileno() for sock in doors), zip(doors, plan.doors)))
        self._open = False
        self._greeted = 0

    def __contains__(self, fd: int) -> bool:
        return fd in self._doors

    @property
    def kept_out(self) -> bool:
        """Whether clients wait outside, and nobody will tell when they may come in."""
        return bool(self._doors) and not self._open

    def change(self, doors: list[socket.socket], plan: ParkingConfig, logger: Logger) -> None:
        """The doors of another plan; those of the last are closed here, not where others have them."""
        self._log = logger
        self._shut()
        for sock, _ in self._doors.values():
            sock.close()
        self._doors = dict(zip((sock.fileno() for sock in doors), zip(doors, plan.doors)))

    def mind(self, room: bool) -> None:
        """Accept while there is `room` for one more connection."""
        if room and not self._open:
            for fd in self._doors:
                self._epoll.register(fd, select.EPOLLIN)
            self._open = True
        elif not room:
            self._shut()

    def _shut(self) -> None:
        for fd in self._doors if self._open else ():
            self._epoll.unregister(fd)
        self._open = False

    def accept(self, fd: int) -> tuple[int, Connection] | None:
        """A new client, with the greeting among what is still to be sent to it; None if it is gone already, or if the
        door is: the master shuts those of a listener that it removes, and all when it stops.

        Whoever of us closes it, by will or by dying, resets it. After a plain close over TCP Postfix writes its next
        request into the dead connection, and one more user gets a 454 (seen with Postfix 3.7).
        """
        sock, door = self._doors[fd]
        try:
            accepted, address = sock.accept()
        except OSError as error:
            if error.errno == errno.EINVAL:
                self._epoll.unregister(fd)
                del self._doors[fd]
                sock.close()
            return None
        accepted.setblocking(False)
        if accepted.family != socket.AF_UNIX:
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self._greeted += 1
        client = Connection(
            DOVECOT_SASL, door.name, door.endpoint, listen.peer_name(accepted, address), time.monotonic()
        )
        offered = [_MECHANISMS[name] for name in door.mechanisms]
        client.unsent = greeting(offered, os.getpid(), self._greeted, os.urandom(16).hex())
        if self._log.info:
            self._log.info("New connection established", **log_context.fields(client), listener=door.name)
        return accepted.detach(), client

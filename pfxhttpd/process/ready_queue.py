"""A pool's ready queue, from parking's side: clients go into the kernel's queue, where the next free worker finds them, and
those that it has no room for wait behind it, in order."""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections import deque
from fcntl import ioctl

from pfxhttpd.io import handoff
from pfxhttpd.io.handoff import Connection
from pfxhttpd.io.log import Logger
from pfxhttpd.io.scoreboard import PoolRow
from pfxhttpd.service import log_context

SIOCOUTQ = 0x5411
CERTAIN = 1.0
"""Seconds after which a worker that took a client has said so, or is dead."""


class ReadyQueue:
    """One pool's. `epoll` is parking's: it tells when the kernel has room again."""

    def __init__(self, sender: socket.socket, row: PoolRow, epoll: select.epoll, logger: Logger) -> None:
        self._sender, self._row, self._epoll, self._log = sender, row, epoll, logger
        self._kept: deque[tuple[int, Connection]] = deque()
        self._full = False
        self._doubted: tuple[int, float] | None = None
        """What workers had taken when the queue was first seen empty against the count, and since when."""

    @property
    def fd(self) -> int:
        return self._sender.fileno()

    @property
    def waiting(self) -> int:
        """Clients that no worker has taken yet."""
        return self._row.waiting

    def add(self, fd: int, client: Connection) -> None:
        """A client that a worker has to look at."""
        self._kept.append((fd, client))
        if len(self._kept) == 1:
            self.deliver()

    def tend(self) -> None:
        """Try again what failed for another reason than a full queue, and count anew what only the kernel knows."""
        if self._kept and not self._full:
            self.deliver()
        elif not self._kept and self._row.waiting:
            self._count_anew()

    def _count_anew(self) -> None:
        """Between taking a client and saying so, a worker looks like one that died with it; so the count is put right
        only when an empty queue and a count that says otherwise have stood beside each other for a while."""
        self._row.publish(0)
        if int.from_bytes(ioctl(self._sender, SIOCOUTQ, bytes(4)), "little", signed=True):
            self._doubted = None
            return
        now, taken = time.monotonic(), self._row.taken
        if self._doubted is None or self._doubted[0] != taken:
            self._doubted = (taken, now)
        elif now - self._doubted[1] >= CERTAIN:
            self._row.reset(0)
            self._doubted = None

    def deliver(self) -> None:
        """Put clients where the next free worker finds them, as many as the kernel takes."""
        kept, full = self._kept, False
        while kept:
            fd, client = kept[0]
            try:
                handoff.send(self._sender, fd, client.pack())
            except BlockingIOError:
                full = True
                break
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    break  # too many descriptors in flight: some worker takes one soon
                if self._log.error:
                    self._log.error(
                        "Connection closed", **log_context.fields(client), reason="net.core.wmem_max is too small"
                    )
            else:
                self._row.count_sent()
            kept.popleft()
            os.close(fd)
        self._row.publish(len(kept))
        if full is not self._full:
            self._full = full
            if full:
                self._epoll.register(self._sender.fileno(), select.EPOLLOUT)
            else:
                self._epoll.unregister(self._sender.fileno())

    def close(self) -> list[tuple[int, Connection]]:
        """The pool is no more; returns the clients that still waited here."""
        if self._full:
            self._epoll.unregister(self._sender.fileno())
        self._sender.close()
        return list(self._kept)

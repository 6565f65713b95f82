"""A pool's ready queue, as parking sees it: connections go into the kernel's queue, where the next free worker finds
them. Those for which the kernel has no space wait behind it, in order."""

from __future__ import annotations

import os
import select
import socket
import time
from collections import deque
from fcntl import ioctl

from pfxhttpd.io import handoff
from pfxhttpd.io.handoff import Connection, IdleConnection
from pfxhttpd.io.scoreboard import PoolRow

SIOCOUTQ = 0x5411
COUNT_DELAY = 1.0
"""Seconds after which a worker that took a connection has counted it, or is dead."""


class ReadyQueue:
    """The queue of one pool. `epoll` is parking's; it reports when the kernel has space again."""

    def __init__(self, sender: socket.socket, row: PoolRow, epoll: select.epoll) -> None:
        self._sender, self._row, self._epoll = sender, row, epoll
        self._overflow: deque[tuple[int, Connection | IdleConnection]] = deque()
        self._full = self._changed = False
        self._miscounted: tuple[int, float] | None = None
        """How many connections the workers had taken when an empty queue was first seen with another count, and when."""

    @property
    def fd(self) -> int:
        return self._sender.fileno()

    @property
    def waiting(self) -> int:
        """Connections that no worker has taken yet."""
        return self._row.waiting

    def add(self, fd: int, connection: Connection | IdleConnection) -> None:
        """Append a connection that a worker has to look at."""
        self._changed = True
        self._overflow.append((fd, connection))
        if len(self._overflow) == 1:
            self.deliver()

    def publish(self) -> None:
        """Publish the queue's length if connections came or went. The sum over all workers that this takes is not worth
        its cost for each connection."""
        if self._changed or self._row.waiting:
            self._row.publish(len(self._overflow))
            self._changed = False

    def maintain(self) -> None:
        """Try again what failed for another reason than a full queue, and correct the count of an empty one."""
        if self._overflow and not self._full:
            self.deliver()
        elif not self._overflow and self._row.waiting:
            self._correct_count()

    def _correct_count(self) -> None:
        """A worker that has taken a connection and not counted it yet looks like one that died with it. So the count is
        corrected only when the queue has been empty, and the count has been another, for a while."""
        self._row.publish(0)
        if int.from_bytes(ioctl(self._sender, SIOCOUTQ, bytes(4)), "little", signed=True):
            self._miscounted = None
            return
        now, taken = time.monotonic(), self._row.taken
        if self._miscounted is None or self._miscounted[0] != taken:
            self._miscounted = (taken, now)
        elif now - self._miscounted[1] >= COUNT_DELAY:
            self._row.reset(0)
            self._miscounted = None

    def deliver(self) -> None:
        """Put as many connections as the kernel takes where the next free worker finds them."""
        overflow, full = self._overflow, False
        while overflow:
            fd, connection = overflow[0]
            try:
                handoff.send(self._sender, fd, connection.pack())
            except BlockingIOError:
                full = True
                break
            except OSError:
                break  # too many descriptors in flight: some worker takes one soon
            self._row.count_sent()
            overflow.popleft()
            os.close(fd)
        self._changed = True
        if full is not self._full:
            self._full = full
            if full:
                self._epoll.register(self._sender.fileno(), select.EPOLLOUT)
            else:
                self._epoll.unregister(self._sender.fileno())

    def wake(self, workers: int) -> None:
        """Wake so many of the pool's idle workers."""
        for _ in range(workers):
            handoff.wake(self._sender)

    def close(self) -> list[tuple[int, Connection | IdleConnection]]:
        """The pool was removed; returns the connections that are still waiting here."""
        if self._full:
            self._epoll.unregister(self._sender.fileno())
        self._sender.close()
        return list(self._overflow)

"""The master's children: how they are born, what is known of each, and when a dead one is replaced.

A child is in one of these states; the master moves it along the table as it hears from it:

    STARTING --"ready"--> WAITING --"go"--> SERVING --told to leave--> LEAVING --> gone
"""

from __future__ import annotations

import enum
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

READY, MAX_REQUESTS, CONFIG_APPLIED = b"ready", b"tired", b"planned"
"""What a child tells the master: it can serve; it has served enough; it goes by the new plan."""

GO, RETIRE, DRAIN = b"go", b"retire", b"dissolve"
"""What the master tells a child: begin; leave; leave, and put back all who wait, for your pool is no more."""

PAUSES = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Seconds before a child that died young is replaced, by how often in a row."""
YOUNG = 10.0
"""Seconds after which a death no longer counts as one at start."""

_SIGNALS = (
    signal.SIGHUP,
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGCHLD,
)


class State(enum.Enum):
    STARTING = "starting"
    WAITING = "waiting"
    SERVING = "serving"
    LEAVING = "leaving"


@dataclass(eq=False, slots=True)
class Child:
    """A process of ours. `row` is a worker's on the scoreboard, -1 for the others; `born` is monotonic seconds."""

    name: str
    pid: int
    channel: socket.socket
    born: float
    row: int = -1
    state: State = State.STARTING

    def tell(self, word: bytes) -> None:
        """A word over the channel; a child that is gone or deaf is the supervision's business, not the caller's."""
        try:
            self.channel.send(word)
        except OSError:
            pass

    def go(self) -> None:
        self.state = State.SERVING
        self.tell(GO)

    def leave(self, word: bytes) -> None:
        self.state = State.LEAVING
        self.tell(word)

    def dismiss(self) -> None:
        """The channel's end of file: there is nothing more to do."""
        if self.state is not State.LEAVING:
            self.state = State.LEAVING
            self.channel.shutdown(socket.SHUT_RDWR)

    def kill(self) -> None:
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


@dataclass(eq=False, slots=True)
class Slot:
    """A post that is always to be filled: a worker's number in its pool, parking, the cache.

    `successor` takes over from `child` once it is ready; `tired` is a child that asks for one. `deaths` counts those in a
    row that came early.
    """

    name: str
    child: Child | None = None
    successor: Child | None = None
    tired: bool = False
    deaths: int = 0
    due: float = 0.0

    @property
    def vacant(self) -> bool:
        """Whether somebody is to be found: there is nobody, or he is tired and has no successor yet."""
        return self.child is None or (self.tired and self.successor is None)

    def take(self, child: Child) -> None:
        if self.child is None:
            self.child = child
        else:
            self.successor = child

    def succeed(self) -> Child:
        """The successor takes over; returns who is to leave."""
        old, self.child, self.successor, self.tired = self.child, self.successor, None, False
        return old

    def lost(self, child: Child, now: float) -> None:
        """The child is gone; if nobody is to follow, the next one is due after a pause that grows."""
        if self.successor is child:
            self.successor = None
        elif self.child is child:
            self.child, self.successor, self.tired = self.successor, None, False
        self.deaths = self.deaths if now - child.born < YOUNG else -1
        self.failed(now)

    def failed(self, now: float) -> None:
        """Nobody could be had, or not for long."""
        self.deaths += 1
        self.due = now + PAUSES[min(self.deaths, len(PAUSES) - 1)]


def fork(
    name: str,
    live: Callable[[socket.socket], None],
    close: Callable[[], Iterable[socket.socket]],
    failed: Callable[[str], None],
) -> Child:
    """A child that lives `live(channel)` and then ends; `close` gives the master's sockets that are not the child's,
    and `failed` is told, in the child, of a defect that ends it.

    Nothing of the child's runs beyond `live`: no exit handler, no buffered output of the master's twice over.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    theirs.setblocking(False)
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        pid = os.fork()
        if pid == 0:
            _be_child(live, theirs, lambda: [ours, *close()], failed)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    theirs.close()
    return Child(name, pid, ours, time.monotonic())


def _be_child(
    live: Callable[[socket.socket], None],
    channel: socket.socket,
    foreign: Callable[[], Iterable[socket.socket]],
    failed: Callable[[str], None],
) -> None:
    code = os.EX_SOFTWARE
    try:
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        for sock in foreign():
            sock.close()
        live(channel)
        code = os.EX_OK
    except BaseException as error:  # this is the bottom of a process: what is not told here is never told
        failed(error_location(error))
    finally:
        os._exit(code)


def error_location(error: BaseException) -> str:
    """Where a defect showed, without the values that may be secret: the exception's class, file and line."""
    trail = error.__traceback__
    while trail is not None and trail.tb_next is not None:
        trail = trail.tb_next
    place = f" at {os.path.basename(trail.tb_frame.f_code.co_filename)}:{trail.tb_lineno}" if trail else ""
    return f"{type(error).__name__}{place}"

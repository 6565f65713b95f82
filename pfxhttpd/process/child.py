"""The master's children: how they are forked, what is known of each, and when a dead one is replaced.

A child is in one of these states; the master moves it along when it gets the child's messages:

    STARTING --READY--> WAITING --START--> SERVING --RETIRE, DRAIN--> LEAVING --> exit
"""

from __future__ import annotations

import enum
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pfxhttpd.io.jail import kernel
from pfxhttpd.io.scoreboard.entry_counters import EntryCounters
from pfxhttpd.process.metric_totals import ProcessMetrics

READY, MAX_REQUESTS, CONFIG_APPLIED, METRICS_WANTED = b"ready", b"max requests", b"config applied", b"metrics wanted"
"""Messages to the master: the child can serve; it has answered its number of requests; it uses the new configuration; it
needs a snapshot for the metrics, which the master sends with the same message."""

START, RETIRE, DRAIN = b"start", b"retire", b"drain"
"""Messages to a child: serve; leave; leave, and return the pool's queue to parking, because the pool was removed."""

ROLES = ("worker", "parking", "cache", "metrics")

PAUSES = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Seconds until a child that died early is replaced, by the number of early deaths in a row."""
EARLY = 10.0
"""Seconds of life within which a death counts as early."""

PARENT_DEATH_SIGNAL = signal.SIGUSR2
"""What the kernel sends a child when the master dies (PR_SET_PDEATHSIG, prctl(2))."""
ORPHAN_TIME = 1.0
"""Seconds that an orphan may take to finish its request."""

_SIGNALS = (
    signal.SIGHUP,
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
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
    """A child process. `row` is a worker's row on the scoreboard, -1 for other processes, and `counters` where it
    counts the outcomes of requests; `metrics` is where it counts for the metrics; `started_at` is monotonic."""

    name: str
    pid: int
    channel: socket.socket
    started_at: float
    row: int = -1
    counters: EntryCounters | None = None
    metrics: ProcessMetrics | None = None
    state: State = State.STARTING

    @property
    def role(self) -> str:
        """What the process is: one of ROLES."""
        return self.name.partition(" ")[0]

    def send(self, message: bytes) -> None:
        """Send a message. A child that is gone or does not read is the supervisor's concern, not the caller's."""
        try:
            self.channel.send(message)
        except OSError:
            pass

    def start(self) -> None:
        self.state = State.SERVING
        self.send(START)

    def retire(self, message: bytes = RETIRE) -> None:
        self.state = State.LEAVING
        self.send(message)

    def dismiss(self) -> None:
        """Close the channel, which ends a child that has nothing left to do."""
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
    """A place that always has a child: a worker's number in its pool, parking, the cache.

    `successor` takes over from `child` once it is ready. `replace` is true while `child` waits for a successor.
    `early_deaths` counts those in a row. A vacant slot is not filled before `due` (monotonic seconds).
    """

    name: str
    child: Child | None = None
    successor: Child | None = None
    replace: bool = False
    early_deaths: int = 0
    due: float = 0.0

    @property
    def vacant(self) -> bool:
        """Whether a child has to be forked for this slot."""
        return self.child is None or (self.replace and self.successor is None)

    @property
    def children(self) -> list[Child]:
        return [child for child in (self.child, self.successor) if child is not None]

    def add(self, child: Child) -> None:
        if self.child is None:
            self.child = child
        else:
            self.successor = child

    def promote(self) -> Child | None:
        """Put the successor in its predecessor's place; returns the predecessor, which has to leave."""
        predecessor, self.child, self.successor, self.replace = self.child, self.successor, None, False
        return predecessor

    def on_exit(self, child: Child, now: float) -> None:
        """The child has exited. If that leaves the slot vacant, the next one is due after a pause that grows."""
        if self.successor is child:
            self.successor = None
        elif self.child is child:
            self.promote()
        self.early_deaths = self.early_deaths if now - child.started_at < EARLY else -1
        self.on_failure(now)

    def on_failure(self, now: float) -> None:
        """No child could be forked, or it did not live long."""
        self.early_deaths += 1
        self.due = now + PAUSES[min(self.early_deaths, len(PAUSES) - 1)]


def fork(
    name: str,
    run: Callable[[socket.socket], None],
    unwanted: Callable[[], Iterable[socket.socket]],
    on_error: Callable[[str], None],
    on_orphaned: Callable[[], None],
) -> Child:
    """Fork a child that calls `run(channel)` and then exits.

    In the child, `unwanted` gives the master's sockets that it has to close, and `on_error` is called with the place of a
    defect that ends it. `on_orphaned` is called at once when the master dies, at whatever point the child is; the child
    then has ORPHAN_TIME to notice the channel's end of file and to leave. Nothing of the child runs after `run`: no exit handler, and no second flush of the master's
    buffered output.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    theirs.setblocking(False)
    master = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        pid = os.fork()
        if pid == 0:
            _run_child(run, theirs, lambda: [ours, *unwanted()], on_error, lambda: _watch_parent(master, on_orphaned))
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    theirs.close()
    return Child(name, pid, ours, time.monotonic())


def _run_child(
    run: Callable[[socket.socket], None],
    channel: socket.socket,
    unwanted: Callable[[], Iterable[socket.socket]],
    on_error: Callable[[str], None],
    watch_parent: Callable[[], None],
) -> None:
    code = os.EX_SOFTWARE
    try:
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        watch_parent()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        for sock in unwanted():
            sock.close()
        run(channel)
        code = os.EX_OK
    except BaseException as error:  # the bottom of a process: what is not reported here is never reported
        on_error(error_location(error))
    finally:
        os._exit(code)


def _watch_parent(master: int, on_orphaned: Callable[[], None]) -> None:
    """Unlike other handlers, this one acts: a worker may be waiting for a backend for a minute, and until it has given up
    the listeners no new server can start. SIGALRM, whose default is to end the process, bounds the rest of its life."""

    def handle(*_: object) -> None:
        on_orphaned()
        signal.setitimer(signal.ITIMER_REAL, ORPHAN_TIME)

    signal.signal(PARENT_DEATH_SIGNAL, handle)
    kernel.set_parent_death_signal(PARENT_DEATH_SIGNAL)
    if os.getppid() != master:  # it died before the kernel was asked to report that
        handle()


def error_location(error: BaseException) -> str:
    """The class of an exception with its file and line, without the values in its message, which may be secret."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return type(error).__name__
    file = os.path.basename(traceback.tb_frame.f_code.co_filename)
    return f"{type(error).__name__} at {file}:{traceback.tb_lineno}"

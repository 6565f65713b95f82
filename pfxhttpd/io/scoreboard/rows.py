"""The scoreboard's rows as their writers see them: a worker's, a pool's, the cache's and a target's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pfxhttpd.io.scoreboard.byte_lock import ByteLock
from pfxhttpd.io.scoreboard.cells import Cells
from pfxhttpd.rules.breaker import MAX_KEYS

FREE, STARTING, IDLE, BUSY, LEAVING = range(5)
"""The states of a worker's row; FREE is a row without a worker."""
STATES = ("free", "starting", "idle", "busy", "leaving")
"""Their names, as `status` shows them."""


class WorkerRow:
    """A worker's own row. Once the worker runs, it is the only writer."""

    PID, GENERATION, POOL, SLOT, STATE, SINCE, DEADLINE, REQUESTS, HELD, TAKEN, GIVEN = range(11)

    def __init__(self, cells: Cells, base: int) -> None:
        self._cells, self._base = cells, base
        self._ints, self._floats = cells.ints, cells.floats
        self._state, self._since, self._deadline = base + self.STATE, base + self.SINCE, base + self.DEADLINE
        self._requests, self._held, self._taken = base + self.REQUESTS, base + self.HELD, base + self.TAKEN
        self._given = base + self.GIVEN

    def name(self, entry: bytes) -> None:
        """The next requests are for this entry, a name that is `padded`."""
        self._cells.write_name(self._base, entry)

    def busy(self, now: float, deadline: float) -> None:
        """A request has begun. The master kills a worker that is still busy well past `deadline` (monotonic seconds)."""
        self._floats[self._since] = now
        self._floats[self._deadline] = deadline
        self._ints[self._state] = BUSY

    def idle(self) -> None:
        self._ints[self._state] = IDLE

    def beat(self, now: float) -> None:
        """The heartbeat of a worker without a request (monotonic seconds)."""
        self._floats[self._since] = now

    def count_request(self) -> int:
        """One more request has been answered; returns how many have."""
        self._ints[self._requests] = count = self._ints[self._requests] + 1
        return count

    def leaving(self) -> None:
        self._ints[self._state] = LEAVING

    def set_held(self, connections: int) -> None:
        """The worker holds so many client connections."""
        self._ints[self._held] = connections

    def count_taken(self) -> None:
        """One more connection has been taken from the pool's ready queue."""
        self._ints[self._taken] += 1

    def count_parked(self) -> None:
        """One more connection has been passed to parking."""
        self._ints[self._given] += 1

    @property
    def requests(self) -> int:
        return self._ints[self._requests]


class PoolRow:
    """A pool's ready queue: how many connections wait for a worker. Parking writes it.

    The queue is a socket's buffer in the kernel, with a list in parking's memory behind it. The length of the first is
    not known directly: it is what parking has sent less what the pool's workers have taken, both since the start.
    """

    WAITING, SENT, GONE = range(3)

    def __init__(self, cells: Cells, base: int, taken: Callable[[], int]) -> None:
        """`taken` returns how many connections the pool's living workers have taken from the queue."""
        self._ints, self._taken = cells.ints, taken
        self._waiting, self._sent, self._gone = base + self.WAITING, base + self.SENT, base + self.GONE

    @property
    def waiting(self) -> int:
        return self._ints[self._waiting]

    @property
    def taken(self) -> int:
        return self._taken()

    def count_sent(self) -> None:
        """Parking has put one more connection into the kernel's queue."""
        self._ints[self._sent] += 1

    def publish(self, kept: int) -> None:
        """Publish the queue's length: what is in the kernel's queue, and `kept` connections that parking still has."""
        queued = self._ints[self._sent] - self._ints[self._gone] - self._taken()
        self._ints[self._waiting] = kept + max(0, queued)

    def reset(self, kept: int) -> None:
        """The kernel's queue is known to be empty. Correct what workers that died had taken without counting it."""
        self._ints[self._gone] = self._ints[self._sent] - self._taken()
        self._ints[self._waiting] = kept


class CacheRow:
    """What the cache holds, and its hits and misses. The cache process is the only writer while it runs."""

    NAMES = ("entries", "bytes", "hits", "misses", "evictions")
    CHANGES = len(NAMES)

    def __init__(self, cells: Cells, base: int) -> None:
        self._ints = cells.ints[base : base + len(self.NAMES) + 1]
        self._changes_before = self.changes

    def write(self, *counts: int) -> None:
        """Write the counts in the order of `NAMES`, then the table's changes since `clear`."""
        for cell, count in enumerate(counts[: self.CHANGES]):
            self._ints[cell] = count
        self._ints[self.CHANGES] = self._changes_before + counts[self.CHANGES]

    def clear(self) -> None:
        """The table is empty, because it is new or its process has ended. That counts as a change."""
        self._changes_before = self.changes + 1
        self.write(0, 0, 0, 0, 0, 0)

    @property
    def changes(self) -> int:
        """Grows whenever an item that a worker has stored may have been removed."""
        return self._ints[self.CHANGES]

    def read(self) -> dict[str, int]:
        return dict(zip(self.NAMES, self._ints))


FAILURES, STATUS_CODES = range(2)
"""The kinds of problems with a target that are logged one by one at first, then as a count: failures of the backend, and
status codes that are not expected."""
LOG_INTERVAL = 60.0
"""Seconds without a problem of a kind after which the next one counts as the first, and between two counts."""


class TargetRow(ByteLock):
    """A target's circuit breaker: numbers that change together, written by whichever process holds the `lock`.

    A reader without the lock may see some of them changed and some not, never half a number. The row also holds which
    problems with the target have been logged, since a problem that all workers meet is to be logged once.
    """

    STATE, FAILURES, SINCE, KEYS = range(4)
    """The hashes of keys are in MAX_KEYS cells from KEYS on; 0 means that a cell is not used."""
    LOGGED = KEYS + MAX_KEYS
    """For each kind of problem two cells: when a line was written (monotonic seconds; 0: none is known), and how many
    problems there have been since."""

    def __init__(self, cells: Cells, base: int, lock_file: int, index: int) -> None:
        super().__init__(lock_file, index)
        self._ints, self._floats = cells.ints, cells.floats
        self._state, self._failures, self._since = base + self.STATE, base + self.FAILURES, base + self.SINCE
        self._keys = cells.ints[base + self.KEYS : base + self.KEYS + MAX_KEYS]
        self._logged = base + self.LOGGED

    @property
    def state(self) -> int:
        return self._ints[self._state]

    @property
    def healthy(self) -> bool:
        """Whether the breaker is closed and counts no failure."""
        return not self._ints[self._state] and not self._ints[self._failures]

    def read(self) -> tuple[int, int, float, tuple[int, ...]]:
        """State, failures, the time of the last change (monotonic seconds), and the hashes of the keys that failed."""
        keys = tuple(key for key in self._keys if key)
        return self._ints[self._state], self._ints[self._failures], self._floats[self._since], keys

    def write(self, state: int, failures: int, since: float, keys: Sequence[int] = ()) -> None:
        """Write what `read` returns, with at most MAX_KEYS keys."""
        for cell in range(MAX_KEYS):
            self._keys[cell] = keys[cell] if cell < len(keys) else 0
        self._floats[self._since] = since
        self._ints[self._failures] = failures
        self._ints[self._state] = state

    def is_first(self, kind: int, now: float) -> bool:
        """A problem of this kind has occurred. True if it is to be logged by itself; otherwise it is counted."""
        cell = self._logged + 2 * kind
        if not self.lock():
            return False
        try:
            logged_at = self._floats[cell]
            if not logged_at or (now - logged_at >= LOG_INTERVAL and not self._ints[cell + 1]):
                self._floats[cell] = now
                return True
            self._ints[cell + 1] += 1
            return False
        finally:
            self.unlock()

    def take_count(self, kind: int, now: float) -> int:
        """How many problems of this kind have been counted since the last line; 0 if a line is not due yet."""
        cell = self._logged + 2 * kind
        if not self._ints[cell + 1] or now - self._floats[cell] < LOG_INTERVAL or not self.lock():
            return 0
        try:
            count = self._ints[cell + 1]
            self._ints[cell + 1], self._floats[cell] = 0, now
            return count
        finally:
            self.unlock()

    def clear(self) -> None:
        """The row is for another target from now on."""
        self.write(0, 0, 0.0)
        for kind in (FAILURES, STATUS_CODES):
            self._floats[self._logged + 2 * kind] = 0.0
            self._ints[self._logged + 2 * kind + 1] = 0

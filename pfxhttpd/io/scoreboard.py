"""What every process is doing, in shared memory: written by its owner alone, read by all for nothing.

The master makes the board before its first fork; an anonymous mapping is then the same memory in every child.
It is a grid of 64-bit cells, so that one store is one machine word: a reader may see a row half a request old,
never half a number. Each row has one writer (a worker its own, parking the pools' queues, the cache its own, the master the
rest), which is why they need no lock. The targets' rows alone are written by whichever worker sees a change; for those
there is a lock that the kernel takes back when its holder dies (fcntl(2)).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from dataclasses import dataclass

CELLS = 16
_NAME_CELL, _NAME_BYTES = 11, 40

FREE, STARTING, IDLE, BUSY, LEAVING = range(5)
STATES = ("free", "starting", "idle", "busy", "leaving")

WORKERS, POOLS, TARGETS = 4096, 256, 1024


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One worker as `status` shows it. Times are seconds on the monotonic clock."""

    row: int
    pid: int
    generation: int
    pool: int
    slot: int
    state: str
    since: float
    deadline: float
    requests: int
    held: int
    entry: str


class Grid:
    """The shared cells, seen as integers, as floats and as bytes."""

    def __init__(self, rows: int) -> None:
        self.memory = mmap.mmap(-1, rows * CELLS * 8)
        self.ints = memoryview(self.memory).cast("q")
        self.floats = memoryview(self.memory).cast("d")

    def write_name(self, base: int, name: bytes) -> None:
        start = (base + _NAME_CELL) * 8
        self.memory[start : start + _NAME_BYTES] = name

    def read_name(self, base: int) -> str:
        start = (base + _NAME_CELL) * 8
        return self.memory[start : start + _NAME_BYTES].rstrip(b"\0").decode("utf-8", "replace")


def padded(name: str) -> bytes:
    """`name` as it stands in a row: 40 bytes, cut or filled with NUL. Made once per entry, not per request."""
    return name.encode("utf-8", "replace")[:_NAME_BYTES].ljust(_NAME_BYTES, b"\0")


class WorkerRow:
    """A worker's own row; it alone writes it once it runs."""

    PID, GENERATION, POOL, SLOT, STATE, SINCE, DEADLINE, REQUESTS, HELD, TAKEN, GIVEN = range(11)

    def __init__(self, grid: Grid, base: int) -> None:
        self._grid, self._base = grid, base
        self._ints, self._floats = grid.ints, grid.floats
        self._state, self._since, self._deadline = base + self.STATE, base + self.SINCE, base + self.DEADLINE
        self._requests, self._held, self._taken = base + self.REQUESTS, base + self.HELD, base + self.TAKEN
        self._given = base + self.GIVEN

    def busy(self, entry: bytes, now: float, deadline: float) -> None:
        """A request is in hand; the master kills a worker that is still busy well past `deadline`."""
        self._floats[self._since] = now
        self._floats[self._deadline] = deadline
        self._grid.write_name(self._base, entry)
        self._ints[self._state] = BUSY

    def idle(self) -> None:
        self._ints[self._state] = IDLE

    def count_request(self) -> None:
        """One more request has been answered."""
        self._ints[self._requests] += 1

    def leaving(self) -> None:
        self._ints[self._state] = LEAVING

    def set_held(self, clients: int) -> None:
        self._ints[self._held] = clients

    def count_taken(self) -> None:
        """One client was taken from the pool's ready queue."""
        self._ints[self._taken] += 1

    def count_parked(self) -> None:
        """One client was given to parking."""
        self._ints[self._given] += 1

    @property
    def requests(self) -> int:
        return self._ints[self._requests]


class PoolRow:
    """A pool's queue, as parking sees it: how many ready clients wait for a worker."""

    WAITING, SENT, GONE = range(3)

    def __init__(self, board: Scoreboard, index: int) -> None:
        self._ints, self._board, self.index = board.grid.ints, board, index
        base = (2 + index) * CELLS
        self._waiting, self._sent, self._gone = base + self.WAITING, base + self.SENT, base + self.GONE

    @property
    def waiting(self) -> int:
        return self._ints[self._waiting]

    def count_sent(self) -> None:
        """Parking has put one more client into the kernel's queue."""
        self._ints[self._sent] += 1

    def publish(self, kept: int) -> None:
        """Publish the length: what the kernel's queue holds, and `kept` clients that parking keeps behind it."""
        queued = self._ints[self._sent] - self._ints[self._gone] - self._board.taken(self.index)
        self._ints[self._waiting] = kept + max(0, queued)

    @property
    def taken(self) -> int:
        """Clients that the workers say they have taken."""
        return self._board.taken(self.index)

    def reset(self, kept: int) -> None:
        """The kernel's queue is known to be empty: forget what workers that died had taken uncounted."""
        self._ints[self._gone] = self._ints[self._sent] - self._board.taken(self.index)
        self._ints[self._waiting] = kept


class CacheRow:
    """What the cache holds and how it fares; the cache's process alone writes it, while there is one."""

    NAMES = ("entries", "bytes", "hits", "misses", "evictions")
    CHANGES = len(NAMES)

    def __init__(self, grid: Grid, base: int) -> None:
        self._cells = grid.ints[base : base + len(self.NAMES) + 1]
        self._before = self.changes

    def write(self, *counts: int) -> None:
        """The counts by `NAMES`, then the changes since `clear`."""
        for cell, count in enumerate(counts[: self.CHANGES]):
            self._cells[cell] = count
        self._cells[self.CHANGES] = self._before + counts[self.CHANGES]

    def clear(self) -> None:
        """There is nothing: the table is a new one, or gone. That is a change like any other."""
        self._before = self.changes + 1
        self.write(0, 0, 0, 0, 0, 0)

    @property
    def changes(self) -> int:
        """Differs from what it was when something that a worker has stored may not be there any more."""
        return self._cells[self.CHANGES]

    def read(self) -> dict[str, int]:
        return dict(zip(self.NAMES, self._cells))


class TargetRow:
    """A target's breaker: three numbers that change together, in the hands of whoever has `lock`ed them.

    Whoever only looks may see them in the middle of a change, never half a number.
    """

    STATE, FAILURES, SINCE = range(3)
    TRIES, PAUSE = 20, 0.001
    """How often, and after how many seconds each, a lock that somebody has is tried again. It is held for microseconds
    unless its holder was stopped, and nobody is to stop with him."""

    def __init__(self, grid: Grid, base: int, lock: int, index: int) -> None:
        self._ints, self._floats, self._lock, self._index = grid.ints, grid.floats, lock, index
        self._state, self._failures, self._since = base + self.STATE, base + self.FAILURES, base + self.SINCE

    @property
    def state(self) -> int:
        return self._ints[self._state]

    @property
    def healthy(self) -> bool:
        """Closed, and no failure is counted."""
        return not self._ints[self._state] and not self._ints[self._failures]

    def read(self) -> tuple[int, int, float]:
        return self._ints[self._state], self._ints[self._failures], self._floats[self._since]

    def write(self, state: int, failures: int, since: float) -> None:
        self._floats[self._since] = since
        self._ints[self._failures] = failures
        self._ints[self._state] = state

    def lock(self) -> bool:
        """Take the row for reading, deciding and writing as one step; `unlock` it soon. False: it cannot be had."""
        for _ in range(self.TRIES):
            try:
                fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._index)
                return True
            except (BlockingIOError, PermissionError):  # which of them is the system's choice (fcntl(2))
                time.sleep(self.PAUSE)
        return False

    def unlock(self) -> None:
        fcntl.lockf(self._lock, fcntl.LOCK_UN, 1, self._index)


class Scoreboard:
    """The whole board. Rows: one for parking, one for the cache, then the pools, the targets and the workers."""

    PARKED, ROWS, GENERATION, ARRIVED, GONE = range(5)

    def __init__(self) -> None:
        self.grid = Grid(2 + POOLS + TARGETS + WORKERS)
        self._targets = (2 + POOLS) * CELLS
        self._first = self._targets + TARGETS * CELLS
        self._lock = os.memfd_create("scoreboard", os.MFD_CLOEXEC)
        ints = self.grid.ints
        self._states = ints[self._targets + TargetRow.STATE : self._first : CELLS]
        self._held = ints[self._first + WorkerRow.HELD :: CELLS]
        self._taken = ints[self._first + WorkerRow.TAKEN :: CELLS]
        self._given = ints[self._first + WorkerRow.GIVEN :: CELLS]
        self._pool = ints[self._first + WorkerRow.POOL :: CELLS]

    # -- parking ------------------------------------------------------------------------------------------------

    def set_parked(self, clients: int, arrived: int = 0) -> None:
        """Parking now holds so many clients, those in its queues included; so many more have arrived there."""
        self.grid.ints[self.PARKED] = clients
        self.grid.ints[self.ARRIVED] += arrived

    @property
    def parked(self) -> int:
        return self.grid.ints[self.PARKED]

    @property
    def in_transit(self) -> int:
        """Clients that workers have given to parking and that have not arrived."""
        ints = self.grid.ints
        return max(0, sum(self._given[: self.rows]) + ints[self.GONE] - ints[self.ARRIVED])

    def forget_in_transit(self) -> None:
        """Nobody is on the way: forget those who were lost there with a process that died."""
        ints = self.grid.ints
        ints[self.ARRIVED] = sum(self._given[: self.rows]) + ints[self.GONE]

    @property
    def connections(self) -> int:
        """Client connections that the server holds, in all its processes and between them."""
        return self.grid.ints[self.PARKED] + self.in_transit + sum(self._held[: self.rows])

    @property
    def generation(self) -> int:
        """The generation that answers. The master changes it before it tells anybody, so whoever has heard of the new
        one is answered by no other."""
        return self.grid.ints[self.GENERATION]

    @generation.setter
    def generation(self, number: int) -> None:
        self.grid.ints[self.GENERATION] = number

    # -- pools --------------------------------------------------------------------------------------------------

    def pool(self, index: int) -> PoolRow:
        return PoolRow(self, index)

    def taken(self, index: int) -> int:
        """Clients that the workers now alive in a pool have taken from its queue."""
        rows = self.rows
        return sum(taken for taken, pool in zip(self._taken[:rows], self._pool[:rows]) if pool == index)

    # -- cache and targets ----------------------------------------------------------------------------------------

    @property
    def cache(self) -> CacheRow:
        return CacheRow(self.grid, CELLS)

    def target(self, index: int) -> TargetRow:
        """The row of a target; which target that is, the master knows. Raises `IndexError` past the 1024th."""
        if index >= TARGETS:
            raise IndexError(f"the scoreboard holds {TARGETS} targets at most")
        return TargetRow(self.grid, self._targets + index * CELLS, self._lock, index)

    def reset_targets(self, kept: set[int]) -> None:
        """All targets' rows but those `kept` start anew: what they hold was said of targets that are gone."""
        for index in set(range(TARGETS)) - kept:
            self.target(index).write(0, 0, 0.0)

    def count_targets(self, state: int) -> int:
        """How many targets are in that state."""
        return self._states.tolist().count(state)

    # -- workers ------------------------------------------------------------------------------------------------

    @property
    def rows(self) -> int:
        """Rows of workers to look at: no row beyond has ever been used."""
        return self.grid.ints[self.ROWS]

    def allocate_worker(self, pool: int, slot: int, generation: int) -> int:
        """Take a free row for a worker about to be forked. Only the master calls this. Raises `RuntimeError` when
        all rows are taken (4096, while a configuration can ask for 1000 workers a pool)."""
        ints = self.grid.ints
        for row in range(WORKERS):
            base = self._first + row * CELLS
            if ints[base + WorkerRow.STATE] == FREE:
                for cell in range(CELLS):
                    ints[base + cell] = 0
                ints[base + WorkerRow.POOL], ints[base + WorkerRow.SLOT] = pool, slot
                ints[base + WorkerRow.GENERATION], ints[base + WorkerRow.STATE] = generation, STARTING
                ints[self.ROWS] = max(self.rows, row + 1)
                return row
        raise RuntimeError(f"the scoreboard holds {WORKERS} workers at most")

    def set_pid(self, row: int, pid: int) -> None:
        self.grid.ints[self._first + row * CELLS + WorkerRow.PID] = pid

    def worker(self, row: int) -> WorkerRow:
        return WorkerRow(self.grid, self._first + row * CELLS)

    def release_worker(self, row: int) -> None:
        """The worker of this row is gone: what it took is the pool's to remember, and the row is free again."""
        ints, base = self.grid.ints, self._first + row * CELLS
        ints[(2 + ints[base + WorkerRow.POOL]) * CELLS + PoolRow.GONE] += ints[base + WorkerRow.TAKEN]
        ints[self.GONE] += ints[base + WorkerRow.GIVEN]
        ints[base + WorkerRow.TAKEN] = ints[base + WorkerRow.GIVEN] = ints[base + WorkerRow.HELD] = 0
        ints[base + WorkerRow.STATE] = FREE

    def view(self, row: int) -> WorkerView:
        base, ints, floats = self._first + row * CELLS, self.grid.ints, self.grid.floats
        return WorkerView(
            row=row,
            pid=ints[base + WorkerRow.PID],
            generation=ints[base + WorkerRow.GENERATION],
            pool=ints[base + WorkerRow.POOL],
            slot=ints[base + WorkerRow.SLOT],
            state=STATES[ints[base + WorkerRow.STATE]],
            since=floats[base + WorkerRow.SINCE],
            deadline=floats[base + WorkerRow.DEADLINE],
            requests=ints[base + WorkerRow.REQUESTS],
            held=ints[base + WorkerRow.HELD],
            entry=self.grid.read_name(base),
        )

"""The whole scoreboard: which row is where, who gets one, and the sums over all of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial

from pfxhttpd.io.scoreboard.cells import CELLS, Cells
from pfxhttpd.io.scoreboard.lost_traces import LostTraces
from pfxhttpd.io.scoreboard.rows import FREE, STARTING, STATES, CacheRow, PoolRow, TargetRow, WorkerRow

WORKERS, POOLS, TARGETS = 4096, 256, 1024
"""How many rows there are of each kind."""

_POOLS = 2 * CELLS
_TARGETS = _POOLS + POOLS * CELLS
_WORKERS = _TARGETS + TARGETS * CELLS
"""The first cells of the rows of each kind."""


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One worker as `status` shows it. Times are monotonic seconds."""

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


class Scoreboard:
    """Row 0 belongs to the board as a whole, row 1 to the cache; then come the pools, the targets and the workers."""

    PARKED, ROWS, GENERATION, ARRIVED, GONE, DECLINED, PARKING_BEAT, CACHE_BEAT, ACCEPT_FAILED, METRICS_BEAT = range(10)
    LOST_TRACES = METRICS_BEAT + 1
    """The first of the last cells of this row."""
    LOST_TRACES_LOCK = TARGETS
    """The byte of the lock file behind those of the targets."""

    def __init__(self) -> None:
        self.cells = Cells(2 + POOLS + TARGETS + WORKERS)
        self._lock_file = os.memfd_create("scoreboard", os.MFD_CLOEXEC)
        ints = self.cells.ints
        self.lost_traces = LostTraces(self.cells, self.LOST_TRACES, self._lock_file, self.LOST_TRACES_LOCK)
        self._states = ints[_TARGETS + TargetRow.STATE : _WORKERS : CELLS]
        self._held = ints[_WORKERS + WorkerRow.HELD :: CELLS]
        self._taken = ints[_WORKERS + WorkerRow.TAKEN :: CELLS]
        self._given = ints[_WORKERS + WorkerRow.GIVEN :: CELLS]
        self._pool = ints[_WORKERS + WorkerRow.POOL :: CELLS]

    @property
    def generation(self) -> int:
        """The generation that answers requests. The master changes it before it sends any message about the new one, so
        a client that knows of the new configuration is never answered by the old one."""
        return self.cells.ints[self.GENERATION]

    @generation.setter
    def generation(self, number: int) -> None:
        self.cells.ints[self.GENERATION] = number

    # -- connections --------------------------------------------------------------------------------------------

    def set_parked(self, connections: int, arrived: int = 0) -> None:
        """Parking now holds so many connections, its queues included; `arrived` more have come from workers."""
        self.cells.ints[self.PARKED] = connections
        self.cells.ints[self.ARRIVED] += arrived

    @property
    def parked(self) -> int:
        """Connections that parking holds, its queues included."""
        return self.cells.ints[self.PARKED]

    @property
    def in_transit(self) -> int:
        """Connections that workers have passed to parking and that have not arrived there."""
        ints = self.cells.ints
        return max(0, sum(self._given[: self.rows]) + ints[self.GONE] - ints[self.ARRIVED])

    def forget_in_transit(self) -> None:
        """No connection is in transit. What is still counted was lost with a process that died."""
        ints = self.cells.ints
        ints[self.ARRIVED] = sum(self._given[: self.rows]) + ints[self.GONE]

    @property
    def connections(self) -> int:
        """Client connections that the server holds, in all its processes and in transit between them."""
        return self.cells.ints[self.PARKED] + self.in_transit + sum(self._held[: self.rows])

    @property
    def declined(self) -> bool:
        """Whether a worker has left a new connection in the backlog because the server held all that it may."""
        return self.cells.ints[self.DECLINED] != 0

    @declined.setter
    def declined(self, value: bool) -> None:
        self.cells.ints[self.DECLINED] = int(value)

    @property
    def accept_failed_at(self) -> float:
        """When a process last lacked descriptors or memory to accept a connection (monotonic seconds); 0 for never."""
        return self.cells.floats[self.ACCEPT_FAILED]

    @accept_failed_at.setter
    def accept_failed_at(self, moment: float) -> None:
        self.cells.floats[self.ACCEPT_FAILED] = moment

    # -- heartbeats ---------------------------------------------------------------------------------------------

    def beat(self, process: str, now: float) -> None:
        """The heartbeat of the process "parking", "cache" or "metrics" (monotonic seconds)."""
        self.cells.floats[self._beat_cell(process)] = now

    def last_beat(self, process: str) -> float:
        return self.cells.floats[self._beat_cell(process)]

    def _beat_cell(self, process: str) -> int:
        return {"parking": self.PARKING_BEAT, "cache": self.CACHE_BEAT, "metrics": self.METRICS_BEAT}[process]

    # -- pools, cache, targets ----------------------------------------------------------------------------------

    def pool(self, index: int) -> PoolRow:
        return PoolRow(self.cells, _POOLS + index * CELLS, partial(self._taken_from, index))

    def _taken_from(self, pool: int) -> int:
        """Connections that the living workers of a pool have taken from its queue."""
        rows = self.rows
        return sum(taken for taken, index in zip(self._taken[:rows], self._pool[:rows]) if index == pool)

    @property
    def cache(self) -> CacheRow:
        return CacheRow(self.cells, CELLS)

    def target(self, index: int) -> TargetRow:
        """The row of a target; the master assigns the indexes. Raises `IndexError` past the last one."""
        if index >= TARGETS:
            raise IndexError(f"the scoreboard holds {TARGETS} targets at most")
        return TargetRow(self.cells, _TARGETS + index * CELLS, self._lock_file, index)

    def reset_targets(self, kept: set[int]) -> None:
        """Reset the rows of all targets but those `kept`: they may hold the state of targets that exist no more."""
        for index in set(range(TARGETS)) - kept:
            self.target(index).clear()

    def count_targets(self, state: int) -> int:
        """How many targets are in that state."""
        return self._states.tolist().count(state)

    # -- workers ------------------------------------------------------------------------------------------------

    @property
    def rows(self) -> int:
        """How many worker rows have ever been used; those beyond are free."""
        return self.cells.ints[self.ROWS]

    def allocate_worker(self, pool: int, slot: int, generation: int) -> int:
        """Reserve a row for a worker that is about to be forked, and return its number. Only the master calls this.

        Raises `RuntimeError` when all rows are in use (4096, while a configuration can ask for 1000 workers a pool).
        """
        ints = self.cells.ints
        for row in range(WORKERS):
            base = _WORKERS + row * CELLS
            if ints[base + WorkerRow.STATE] == FREE:
                for cell in range(CELLS):
                    ints[base + cell] = 0
                ints[base + WorkerRow.POOL], ints[base + WorkerRow.SLOT] = pool, slot
                ints[base + WorkerRow.GENERATION], ints[base + WorkerRow.STATE] = generation, STARTING
                ints[self.ROWS] = max(self.rows, row + 1)
                return row
        raise RuntimeError(f"the scoreboard holds {WORKERS} workers at most")

    def set_pid(self, row: int, pid: int) -> None:
        self.cells.ints[_WORKERS + row * CELLS + WorkerRow.PID] = pid

    def worker(self, row: int) -> WorkerRow:
        return WorkerRow(self.cells, _WORKERS + row * CELLS)

    def release_worker(self, row: int) -> None:
        """The worker of this row has ended. Its counts of connections move to the pool and the board; the row is free."""
        ints, base = self.cells.ints, _WORKERS + row * CELLS
        ints[_POOLS + ints[base + WorkerRow.POOL] * CELLS + PoolRow.GONE] += ints[base + WorkerRow.TAKEN]
        ints[self.GONE] += ints[base + WorkerRow.GIVEN]
        ints[base + WorkerRow.TAKEN] = ints[base + WorkerRow.GIVEN] = ints[base + WorkerRow.HELD] = 0
        ints[base + WorkerRow.STATE] = FREE

    def view(self, row: int) -> WorkerView:
        base, ints, floats = _WORKERS + row * CELLS, self.cells.ints, self.cells.floats
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
            entry=self.cells.read_name(base),
        )

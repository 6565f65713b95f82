"""What every process is doing, in shared memory: each row is written by one process and read by all.

The master makes the scoreboard before its first fork, so the anonymous mapping is the same memory in every child. It is
an array of 64-bit cells, and storing a cell is one machine instruction: a reader may see a row that is half updated,
never half a number. A row has one writer (a worker its own, parking those of the pools, the cache its own, the master
the rest), so no lock is needed. Only the rows of the targets are written by any worker. They have a lock, which the
kernel releases when its holder ends (fcntl(2)).

    cells   the shared memory
    rows    the rows that workers, parking and the cache write
    board   the whole: which row is where, and the sums over all of them

    entry_counters   each worker's counts of requests by entry; their number depends on the configuration, so the memory
                     is made for each worker, and the master reads it
"""

from pfxhttpd.io.scoreboard.board import POOLS, TARGETS, WORKERS, Scoreboard, WorkerView
from pfxhttpd.io.scoreboard.cells import padded
from pfxhttpd.io.scoreboard.rows import FAILURES, STATUS_CODES, CacheRow, PoolRow, TargetRow, WorkerRow

__all__ = [
    "FAILURES",
    "POOLS",
    "STATUS_CODES",
    "TARGETS",
    "WORKERS",
    "CacheRow",
    "PoolRow",
    "Scoreboard",
    "TargetRow",
    "WorkerRow",
    "WorkerView",
    "padded",
]

"""The slots that always have a child, and what fills them: forks, exits, replacements.

`child` knows what a child process is; this file knows which children there have to be for the generation that serves.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

from pfxhttpd.io.cache.directory import remove_socket
from pfxhttpd.io.scoreboard import Scoreboard
from pfxhttpd.process.capacity import GLOBAL
from pfxhttpd.process.child import CONFIG_APPLIED, DRAIN, MAX_REQUESTS, METRICS_WANTED, READY, Child, Slot, State
from pfxhttpd.process.deaths import Deaths
from pfxhttpd.process.entry_totals import EntryTotals
from pfxhttpd.process.generation import Generation
from pfxhttpd.process.liveness import Liveness
from pfxhttpd.process.metric_totals import MetricTotals
from pfxhttpd.process.spawner import Spawner, WorkerKey, worker_keys, worker_title


class Supervisor:
    """All children. `private` gives the master's own sockets, which no child may keep."""

    def __init__(
        self,
        board: Scoreboard,
        selector: selectors.BaseSelector,
        generation: Generation,
        private: Callable[[], Iterable[socket.socket]],
        cache_directory: str,
        on_metrics_wanted: Callable[[Child], None],
    ) -> None:
        """`on_metrics_wanted` sends the metrics process the snapshot that it has asked for."""
        self._board, self._selector, self._private = board, selector, private
        self.generation = generation
        self.children: dict[int, Child] = {}
        self.worker_slots: dict[WorkerKey, Slot] = {}
        self.parking = Slot("parking")
        self.cache = Slot("cache")
        self.metrics = Slot("metrics")
        self._on_metrics_wanted = on_metrics_wanted
        self._cache_directory = cache_directory
        self.unapplied_configs = 0
        """How many configurations parking has been sent and does not use yet."""
        self._to_drain: list[Child] = []
        self._liveness = Liveness(board)
        self.totals = EntryTotals(time.monotonic())
        """What all workers since the start have counted."""
        self.metric_totals = MetricTotals()
        self._spawner = Spawner(board, selector, self._open_sockets, cache_directory, self.totals, self.metric_totals)
        self.cache_client = self._spawner.cache_client()
        """The master's own connection to the cache; each worker makes one for itself."""
        self.processor_of_ended: defaultdict[str, float] = defaultdict(float)
        """Seconds of processor time of the processes that have ended, by role."""
        self.deaths = Deaths()

    # -- slots --------------------------------------------------------------------------------------------------

    def slots(self) -> list[Slot]:
        helpers = [self.cache, self.parking] if self._wants_cache() else [self.parking]
        if self.generation.metered:
            helpers.append(self.metrics)
        return [*helpers, *self.worker_slots.values()]

    def _wants_cache(self) -> bool:
        return self.generation.needs_cache

    def workers(self) -> list[Child]:
        return [child for child in self.children.values() if child.row >= 0]

    def all_serving(self) -> bool:
        """Whether every slot has a child that serves."""
        return all(slot.child is not None and slot.child.state is State.SERVING for slot in self.slots())

    def spawn_missing(self, now: float) -> list[str]:
        """Fork a child for every slot that is vacant and due. Returns why some could not be forked."""
        spawner = self._spawner
        wanted: list[tuple[Slot, Callable[[], Child]]] = [(self.parking, lambda: spawner.parking(self.generation))]
        if self._wants_cache():
            wanted.insert(0, (self.cache, lambda: spawner.cache(self.generation)))
        elif self.cache.child is not None:
            self.cache.child.dismiss()
        if self.generation.metered:
            wanted.append((self.metrics, lambda: spawner.metrics(self.generation)))
        else:
            for child in self.metrics.children:
                child.dismiss()
        for key in worker_keys(self.generation):
            slot = self.worker_slots.setdefault(key, Slot(worker_title(self.generation, key)))
            wanted.append((slot, partial(spawner.worker, self.generation, key)))
        failures = []
        for slot, fork_child in wanted:
            if slot.vacant and slot.due <= now:
                try:
                    child = self._adopt(fork_child())
                    slot.add(child)
                    self.deaths.log_replacement(child, self.generation.logger)
                except (OSError, RuntimeError) as error:
                    slot.on_failure(now)
                    failures.append(f"{slot.name} cannot be started: {error}")
        return failures

    def summary(self) -> str:
        """One line for the service manager."""
        return f"Generation {self.generation.number}, {len(self.worker_slots)} workers"

    def resize_global_pool(self, by: int) -> int:
        """Change the number of the global pool's workers; returns the new number, 0 if it cannot be changed so."""
        if GLOBAL not in self.generation.pools:
            return 0
        workers = self.generation.pools[GLOBAL].pool.max_workers + by
        if workers < 1:
            return 0
        self.generation = self.generation.resized(workers)
        slot = self.worker_slots.pop((GLOBAL, workers + 1), None)
        for child in slot.children if slot else ():
            child.retire()
        return workers

    def due(self) -> list[float]:
        """When the slots that are vacant now may be filled (monotonic seconds)."""
        return [slot.due for slot in self.slots() if slot.vacant]

    def remove_cache_socket(self) -> None:
        """Remove the socket that a cache process has left behind which was killed. No cache process runs any more."""
        with suppress(OSError):
            remove_socket(self._cache_directory)

    # -- forks --------------------------------------------------------------------------------------------------

    def fork_worker(self, generation: Generation, key: WorkerKey) -> Child:
        """A worker of that generation; it waits for START. Raises OSError, RuntimeError."""
        return self._adopt(self._spawner.worker(generation, key))

    def _adopt(self, child: Child) -> Child:
        self.children[child.pid] = child
        self._selector.register(child.channel, selectors.EVENT_READ, lambda: self._on_message(child))
        return child

    def _open_sockets(self) -> Iterable[socket.socket]:
        """What no child may keep, unless it is given to it."""
        yield from self._private()
        yield from (child.channel for child in self.children.values())
        yield from self.generation.sockets()

    def replace_metrics(self) -> None:
        """A new configuration is in effect: a metrics process with it takes the place of the present one."""
        self.metrics.replace = self.generation.metered and self.metrics.child is not None

    # -- messages -----------------------------------------------------------------------------------------------

    def _on_message(self, child: Child) -> None:
        """A child's message. The end of file on its channel is its death, which SIGCHLD reports as well."""
        if child.pid not in self.children:
            return
        try:
            message = child.channel.recv(64)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            self._selector.unregister(child.channel)
        elif message == READY and child.state is State.STARTING:
            child.state = State.WAITING
            self._on_ready(child)
        elif message == MAX_REQUESTS and child.state is State.SERVING:
            self._replace(child)
        elif message == METRICS_WANTED:
            self._on_metrics_wanted(child)
        elif message == CONFIG_APPLIED:
            self.unapplied_configs -= 1
            self._drain_if_applied()

    def _on_ready(self, child: Child) -> None:
        """A child of the generation that serves may start at once; one of the next waits until all of them are ready."""
        for slot in self.slots():
            if slot.child is child:
                child.start()
            elif slot.successor is child:
                predecessor = slot.promote()
                if predecessor:
                    predecessor.retire()
                child.start()

    def _replace(self, child: Child) -> None:
        """A worker has answered its number of requests; it leaves when its successor is ready."""
        for slot in self.worker_slots.values():
            if slot.child is child:
                slot.replace = True

    def configure_parking(self, old: Generation) -> None:
        """Send parking the present generation's configuration, with the sockets that it does not have from `old`."""
        parking, new = self.parking.child, self.generation
        if parking is None:
            return
        added = [pool for pool in new.pools.values() if pool.key not in old.pools]
        sockets = [*(pool.sender for pool in added), *new.sasl_sockets()]
        try:
            message = new.parking_config(self._spawner.listener_rows(new)).pack([pool.index for pool in added])
            socket.send_fds(parking.channel, [message], [sock.fileno() for sock in sockets])
            self.unapplied_configs += 1
        except OSError:
            parking.kill()  # the next one is forked with all it needs

    def drain(self, child: Child) -> None:
        """Have a worker leave whose pool was removed. It returns the pool's queue to parking, so it is told only once
        parking puts no more connections there."""
        self._to_drain.append(child)
        self._drain_if_applied()

    def _drain_if_applied(self) -> None:
        if not self.unapplied_configs:
            for child in self._to_drain:
                child.retire(DRAIN)
            self._to_drain.clear()

    # -- exits --------------------------------------------------------------------------------------------------

    def reap(self) -> list[Child]:
        """Register the exits of children; returns them."""
        exited: list[Child] = []
        while True:
            try:
                pid, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return exited
            if pid == 0:
                return exited
            child = self.children.pop(pid, None)
            if child is not None:
                self.processor_of_ended[child.role] += used.ru_utime + used.ru_stime
                self._on_exit(child, status)
                exited.append(child)

    def _on_exit(self, child: Child, status: int) -> None:
        if child.channel.fileno() in self._selector.get_map():
            self._selector.unregister(child.channel)
        child.channel.close()
        if child.counters is not None:
            self.totals.end(child.counters)
        if child.metrics is not None:
            self.metric_totals.end(child.metrics)
        if child.row >= 0:
            self._board.release_worker(child.row)
        elif child.name == "parking":
            self._board.set_parked(0)
            self.unapplied_configs = 0
            self._drain_if_applied()
        elif child.name == "cache":
            self.metric_totals.end_cache(self._board.cache.read())
            self._board.cache.clear()
        code, now = os.waitstatus_to_exitcode(status), time.monotonic()
        if code and child.state is not State.LEAVING:
            why = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            self.deaths.add(child, why, now, self.generation.logger)
        for slot in (self.cache, self.parking, self.metrics, *self.worker_slots.values()):
            if child in slot.children:
                slot.on_exit(child, now)

    def kill_stuck(self, now: float) -> None:
        """Kill the children that do not respond; they will not return by themselves, and others take their places."""
        log = self.generation.logger
        for child, reason in self._liveness.stuck(self.children.values(), now):
            if log.error and child.row >= 0:
                view = self._board.view(child.row)
                log.error(
                    "Worker is stuck and is killed",
                    process=child.name,
                    pid=child.pid,
                    reason=reason,
                    entry=view.entry or None,
                    seconds=round(now - view.since, 1),
                )
            elif log.error:
                log.error("Process is stuck and is killed", process=child.name, pid=child.pid, reason=reason)
            child.kill()

    def responsive(self, now: float) -> bool:
        """Whether the processes that all workers need respond."""
        return self._liveness.responsive(self.parking.child, now) and self.cache_responds(now)

    def cache_responds(self, now: float) -> bool:
        """Whether the cache process has shown a heartbeat in time; true as well if there is none."""
        return self._liveness.responsive(self.cache.child, now)

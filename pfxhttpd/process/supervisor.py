"""The slots that always have a child, and what fills them: forks, exits, replacements.

`child` knows what a child process is; this file knows which children there have to be for the generation that serves.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial

from setproctitle import setproctitle

from pfxhttpd.io import backend_connection_limit, handoff, listen
from pfxhttpd.io.cache.client import CacheClient
from pfxhttpd.io.scoreboard import Scoreboard
from pfxhttpd.io.scoreboard.entry_counters import EntryCounters
from pfxhttpd.process import cache
from pfxhttpd.process.child import CONFIG_APPLIED, DRAIN, MAX_REQUESTS, METRICS_WANTED, READY, Child, Slot, State, fork
from pfxhttpd.process.collector_session import collector_session
from pfxhttpd.process.context import WorkerContext
from pfxhttpd.process.deaths import Deaths
from pfxhttpd.process.entry_totals import EntryTotals, entry_keys
from pfxhttpd.process.generation import GLOBAL, Generation
from pfxhttpd.process.liveness import Liveness
from pfxhttpd.process.metric_totals import MetricTotals, ProcessMetrics
from pfxhttpd.process.parking import Parking
from pfxhttpd.process.worker import Worker
from pfxhttpd.service.request_metrics import RequestMetrics

GC_THRESHOLD = 20_000
"""Objects that are made, less those that are freed, before the collector looks at the youngest."""

WorkerKey = tuple[str, int]
"""A worker's slot: its pool's key and its number in the pool."""


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
        self._cache_directory, self._authkey = cache_directory, os.urandom(32)
        self.cache_client = CacheClient(cache_directory, self._authkey)
        """The master's own connection to the cache; each worker makes one for itself."""
        self._arrivals, self._arrivals_sender = handoff.socket_pair()
        self._limit_file = backend_connection_limit.lock_file()
        self.unapplied_configs = 0
        """How many configurations parking has been sent and does not use yet."""
        self._to_drain: list[Child] = []
        self._liveness = Liveness(board)
        self.totals = EntryTotals(time.monotonic())
        """What all workers since the start have counted."""
        self.metric_totals = MetricTotals()
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
        wanted: list[tuple[Slot, Callable[[], Child]]] = [(self.parking, self._fork_parking)]
        if self._wants_cache():
            wanted.insert(0, (self.cache, self._fork_cache))
        elif self.cache.child is not None:
            self.cache.child.dismiss()
        if self.generation.metered:
            wanted.append((self.metrics, self._fork_metrics))
        else:
            for child in self.metrics.children:
                child.dismiss()
        for key in worker_keys(self.generation):
            slot = self.worker_slots.setdefault(key, Slot(worker_title(self.generation, key)))
            wanted.append((slot, partial(self.fork_worker, self.generation, key)))
        failures = []
        for slot, fork_child in wanted:
            if slot.vacant and slot.due <= now:
                try:
                    child = fork_child()
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

    # -- forks --------------------------------------------------------------------------------------------------

    @staticmethod
    def freeze_memory() -> None:
        """Everything that is alive now is shared with each child; the collector must not touch its pages again."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(
            GC_THRESHOLD
        )  # requests make few cycles, and a look for them every 700 objects costs 2 % of a lookup

    def fork_worker(self, generation: Generation, key: WorkerKey) -> Child:
        """A worker of that generation; it waits for START. Raises OSError, RuntimeError."""
        pool = generation.pools[key[0]]
        title, client = worker_title(generation, key), generation.settings.server.http_client
        sasl_sockets = generation.sasl_sockets()
        listeners = {endpoint: sock for endpoint, sock in pool.listeners.items() if sock not in sasl_sockets}
        row = self._board.allocate_worker(pool.index, key[1], generation.number)
        counters = EntryCounters(entry_keys(generation.settings.entries))
        metrics = ProcessMetrics(requests=RequestMetrics(generation.settings) if generation.metered else None)
        metrics.listeners.rows = self._listener_rows(generation)

        def run(channel: socket.socket) -> None:
            context = WorkerContext(
                title=title,
                pool=pool.pool,
                pool_row=self._board.pool(pool.index),
                row=self._board.worker(row),
                board=self._board,
                counters=counters,
                metrics=metrics,
                listeners=listeners,
                ready=pool.ready,
                parking=self._arrivals_sender,
                channel=channel,
                max_connections=generation.max_connections,
                generation=generation.number,
                targets=generation.targets,
                cache=CacheClient(self._cache_directory, self._authkey),
                connection_limit=backend_connection_limit.ConnectionLimit(
                    self._limit_file,
                    client.max_connections_per_host,
                    len(worker_keys(generation)),
                    client.max_idle_connections,
                    client.max_idle_connections_per_host,
                ),
            )
            Worker(context, generation.settings, generation.tls, generation.logger).run()

        wanted = {pool.ready, self._arrivals_sender, *listeners.values()}
        try:
            child = self._fork(f"worker {title}", run, generation, wanted, list(listeners.values()))
        except OSError:
            self._board.release_worker(row)
            raise
        child.row, child.counters, child.metrics = row, counters, metrics
        self.totals.add(counters)
        self.metric_totals.add(metrics)
        self._board.set_pid(row, child.pid)
        return child

    def _fork_parking(self) -> Child:
        generation = self.generation
        queues = {pool.index: pool.sender for pool in generation.pools.values()}
        sasl_sockets, metrics = generation.sasl_sockets(), ProcessMetrics()
        rows = self._listener_rows(generation)

        def run(channel: socket.socket) -> None:
            setproctitle("pfxhttpd: parking 0 clients")
            config, logger = generation.parking_config(rows), generation.logger
            listeners = metrics.listeners
            Parking(self._arrivals, channel, queues, sasl_sockets, config, self._board, listeners, logger).run()

        wanted = {self._arrivals, *queues.values(), *sasl_sockets}
        child = self._fork("parking", run, generation, wanted, sasl_sockets)
        child.metrics = metrics
        self.metric_totals.add(metrics)
        return child

    def _listener_rows(self, generation: Generation) -> dict[str, int]:
        """The rows of the listeners in the metrics."""
        return self.metric_totals.rows(generation.settings.server.listen) if generation.metered else {}

    def _fork_cache(self) -> Child:
        logger = self.generation.logger

        def on_error(reason: str) -> None:
            if logger.error:
                logger.error("Cache failed", reason=reason)

        def run(channel: socket.socket) -> None:
            cache.run(channel, self._cache_directory, self._authkey, self._board, on_error)

        return self._fork("cache", run, self.generation, set(), [])

    def _fork_metrics(self) -> Child:
        from pfxhttpd.process.metrics import MetricsProcess  # `generation` has imported it, as it is needed

        generation, port = self.generation, self.generation.metrics

        def run(channel: socket.socket) -> None:
            server = generation.settings.server
            collector = collector_session(server, generation.tls) if server.observability.sends_metrics else None
            MetricsProcess(channel, port, server.observability, self._board, generation.logger, collector).run()

        sockets = [port.sock] if port else []
        return self._fork("metrics", run, generation, set(sockets), sockets)

    def replace_metrics(self) -> None:
        """A new configuration is in effect: a metrics process with it takes the place of the present one."""
        self.metrics.replace = self.generation.metered and self.metrics.child is not None

    def _fork(
        self,
        name: str,
        run: Callable[[socket.socket], None],
        generation: Generation,
        wanted: set[socket.socket],
        listeners: list[socket.socket],
    ) -> Child:
        """`listeners` are those of the `wanted` sockets that the child shuts down if it is orphaned."""

        def unwanted() -> list[socket.socket]:
            self._selector.close()
            open_here = {self._arrivals, self._arrivals_sender, *self._private()}
            open_here.update(child.channel for child in self.children.values())
            for each in (generation, self.generation):
                open_here.update(each.sockets())
            return [sock for sock in open_here if sock not in wanted]

        def on_error(error: str) -> None:
            if generation.logger.error:
                generation.logger.error("Internal error", process=name, pid=os.getpid(), error=error)

        def on_orphaned() -> None:
            for sock in listeners:
                listen.shut_down(sock)

        child = fork(name, run, unwanted, on_error, on_orphaned)
        self.children[child.pid] = child
        self._selector.register(child.channel, selectors.EVENT_READ, lambda: self._on_message(child))
        return child

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
            message = new.parking_config(self._listener_rows(new)).pack([pool.index for pool in added])
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


def worker_keys(generation: Generation) -> list[WorkerKey]:
    """The worker slots of a generation."""
    return [(pool.key, number) for pool in generation.pools.values() for number in range(1, pool.pool.max_workers + 1)]


def worker_title(generation: Generation, key: WorkerKey) -> str:
    """How `ps` names a worker: its number of how many, and its pool."""
    pool = generation.pools[key[0]]
    return f"{key[1]}/{pool.pool.max_workers} {pool.title}"

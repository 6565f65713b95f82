"""Forks the child processes: what each of them inherits from the master, and what it runs.

`child` knows what a child process is, and `supervisor` knows which ones there have to be.
"""

from __future__ import annotations

import gc
import os
import selectors
import socket
from collections.abc import Callable, Iterable

from setproctitle import setproctitle

from pfxhttpd.io import backend_connection_limit, handoff, listen
from pfxhttpd.io.cache.client import CacheClient
from pfxhttpd.io.scoreboard import Scoreboard
from pfxhttpd.io.scoreboard.entry_counters import EntryCounters
from pfxhttpd.process import cache
from pfxhttpd.process.child import Child, fork
from pfxhttpd.process.collector_session import collector_session
from pfxhttpd.process.context import WorkerContext
from pfxhttpd.process.entry_totals import EntryTotals, entry_keys
from pfxhttpd.process.generation import Generation
from pfxhttpd.process.metric_totals import MetricTotals, ProcessMetrics
from pfxhttpd.process.parking import Parking
from pfxhttpd.process.worker import Worker
from pfxhttpd.service.request_metrics import RequestMetrics

GC_THRESHOLD = 20_000
"""Objects that are made, less those that are freed, before the collector looks at the youngest. Requests make few cycles, and
a look for them every 700 objects costs 2 % of a lookup."""

WorkerKey = tuple[str, int]
"""A worker's slot: its pool's key and its number in the pool."""


class Spawner:
    """Makes the children. `open_sockets` gives the sockets that are open in the master besides those of the generation."""

    def __init__(
        self,
        board: Scoreboard,
        selector: selectors.BaseSelector,
        open_sockets: Callable[[], Iterable[socket.socket]],
        cache_directory: str,
        totals: EntryTotals,
        metric_totals: MetricTotals,
    ) -> None:
        self._board, self._selector, self._open_sockets = board, selector, open_sockets
        self._totals, self._metric_totals = totals, metric_totals
        self._cache_directory, self._authkey = cache_directory, os.urandom(32)
        self._arrivals, self._arrivals_sender = handoff.socket_pair()
        self._limit_file = backend_connection_limit.lock_file()

    def cache_client(self) -> CacheClient:
        """A connection to the cache, for one process."""
        return CacheClient(self._cache_directory, self._authkey)

    def worker(self, generation: Generation, key: WorkerKey) -> Child:
        """A worker of that generation; it waits for START. Raises OSError, RuntimeError."""
        pool = generation.pools[key[0]]
        title, client = worker_title(generation, key), generation.settings.server.http_client
        sasl_sockets = generation.sasl_sockets()
        listeners = {endpoint: sock for endpoint, sock in pool.listeners.items() if sock not in sasl_sockets}
        row = self._board.allocate_worker(pool.index, key[1], generation.number)
        counters = EntryCounters(entry_keys(generation.settings.entries))
        metrics = ProcessMetrics(requests=RequestMetrics(generation.settings) if generation.metered else None)
        metrics.listeners.rows = self.listener_rows(generation)

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
                cache=self.cache_client(),
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
        self._totals.add(counters)
        self._metric_totals.add(metrics)
        self._board.set_pid(row, child.pid)
        return child

    def parking(self, generation: Generation) -> Child:
        """Parking, with that generation's queues and SASL listeners. Raises OSError."""
        queues = {pool.index: pool.sender for pool in generation.pools.values()}
        sasl_sockets, metrics = generation.sasl_sockets(), ProcessMetrics()
        rows = self.listener_rows(generation)

        def run(channel: socket.socket) -> None:
            setproctitle("pfxhttpd: parking 0 clients")
            config, logger = generation.parking_config(rows), generation.logger
            listeners = metrics.listeners
            Parking(self._arrivals, channel, queues, sasl_sockets, config, self._board, listeners, logger).run()

        wanted = {self._arrivals, *queues.values(), *sasl_sockets}
        child = self._fork("parking", run, generation, wanted, sasl_sockets)
        child.metrics = metrics
        self._metric_totals.add(metrics)
        return child

    def listener_rows(self, generation: Generation) -> dict[str, int]:
        """The rows of the listeners in the metrics."""
        return self._metric_totals.rows(generation.settings.server.listen) if generation.metered else {}

    def cache(self, generation: Generation) -> Child:
        """The cache process. Raises OSError."""
        logger = generation.logger

        def on_error(reason: str) -> None:
            if logger.error:
                logger.error("Cache failed", reason=reason)

        def run(channel: socket.socket) -> None:
            cache.run(channel, self._cache_directory, self._authkey, self._board, on_error)

        return self._fork("cache", run, generation, set(), [])

    def metrics(self, generation: Generation) -> Child:
        """The metrics process. Raises OSError."""
        from pfxhttpd.process.metrics import MetricsProcess  # `generation` has imported it, as it is needed

        port = generation.metrics

        def run(channel: socket.socket) -> None:
            server = generation.settings.server
            collector = collector_session(server, generation.tls) if server.observability.sends_metrics else None
            MetricsProcess(channel, port, server.observability, self._board, generation.logger, collector).run()

        sockets = [port.sock] if port else []
        return self._fork("metrics", run, generation, set(sockets), sockets)

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
            open_here = {self._arrivals, self._arrivals_sender, *self._open_sockets(), *generation.sockets()}
            return [sock for sock in open_here if sock not in wanted]

        def on_error(error: str) -> None:
            if generation.logger.error:
                generation.logger.error("Internal error", process=name, pid=os.getpid(), error=error)

        def on_orphaned() -> None:
            for sock in listeners:
                listen.shut_down(sock)

        return fork(name, run, unwanted, on_error, on_orphaned)


def freeze_memory() -> None:
    """Everything that is alive now is shared with each child; the collector must not touch its pages again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


def worker_keys(generation: Generation) -> list[WorkerKey]:
    """The worker slots of a generation."""
    return [(pool.key, number) for pool in generation.pools.values() for number in range(1, pool.pool.max_workers + 1)]


def worker_title(generation: Generation, key: WorkerKey) -> str:
    """How `ps` names a worker: its number of how many, and its pool."""
    pool = generation.pools[key[0]]
    return f"{key[1]}/{pool.pool.max_workers} {pool.title}"

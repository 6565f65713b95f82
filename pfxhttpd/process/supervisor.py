"""The posts that are always to be filled, and who fills them: births, deaths, reliefs.

`crew` knows what a child is; here is which children there should be, by the generation that serves.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterable
from functools import partial

from setproctitle import setproctitle

from pfxhttpd.io import connection_limit, handoff
from pfxhttpd.io.cache.client import CacheClient
from pfxhttpd.io.scoreboard import Scoreboard
from pfxhttpd.process import cache
from pfxhttpd.process.child import CONFIG_APPLIED, DRAIN, MAX_REQUESTS, READY, RETIRE, Child, Slot, State, fork
from pfxhttpd.process.context import WorkerContext
from pfxhttpd.process.generation import Generation
from pfxhttpd.process.parking import Parking
from pfxhttpd.process.worker import Worker

GRACE = 5.0
"""Seconds past a request's deadline after which its worker counts as stuck."""

WorkerKey = tuple[str, int]
"""A worker's post: its pool's key and its number in it."""


class Supervisor:
    """All children. `private` gives the master's own sockets, which no child may keep."""

    def __init__(
        self,
        board: Scoreboard,
        selector: selectors.BaseSelector,
        generation: Generation,
        private: Callable[[], Iterable[socket.socket]],
        cache_directory: str,
    ) -> None:
        self._board, self._selector, self._private = board, selector, private
        self.generation = generation
        self.children: dict[int, Child] = {}
        self.slots: dict[WorkerKey, Slot] = {}
        self.parking = Slot("parking")
        self.cache = Slot("cache")
        self._cache_directory, self._authkey = cache_directory, os.urandom(32)
        self.store = CacheClient(cache_directory, self._authkey)
        """The master's own way to the cache; each worker makes one for itself."""
        self._arrivals, self._arrivals_sender = handoff.socket_pair()
        self._ledger = connection_limit.lock_file()
        self.plans = 0
        """How many plans parking has been sent and does not go by yet."""
        self._dissolving: list[Child] = []

    # -- posts --------------------------------------------------------------------------------------------------

    def posts(self) -> list[Slot]:
        helpers = [self.cache, self.parking] if self._wants_cache() else [self.parking]
        return [*helpers, *self.slots.values()]

    def _wants_cache(self) -> bool:
        return self.generation.settings.server.response_cache.enabled

    def workers(self) -> list[Child]:
        return [child for child in self.children.values() if child.row >= 0]

    def serving(self) -> bool:
        """Whether every post is filled by somebody who serves."""
        return all(slot.child is not None and slot.child.state is State.SERVING for slot in self.posts())

    def fill(self, now: float) -> list[str]:
        """Give every post that is vacant, and whose pause is over, a child. Returns why some could not be filled."""
        posts: list[tuple[Slot, Callable[[], Child]]] = [(self.parking, self._fork_parking)]
        if self._wants_cache():
            posts.insert(0, (self.cache, self._fork_cache))
        elif self.cache.child is not None:
            self.cache.child.dismiss()
        for key in worker_keys(self.generation):
            slot = self.slots.setdefault(key, Slot(worker_title(self.generation, key)))
            posts.append((slot, partial(self.fork_worker, self.generation, key)))
        failures = []
        for slot, birth in posts:
            if slot.vacant and slot.due <= now:
                try:
                    slot.take(birth())
                except (OSError, RuntimeError) as error:
                    slot.failed(now)
                    failures.append(f"{slot.name} cannot be started: {error}")
        return failures

    def due(self) -> list[float]:
        """When posts that are vacant now may be filled again."""
        return [slot.due for slot in self.posts() if slot.vacant]

    # -- births -------------------------------------------------------------------------------------------------

    @staticmethod
    def settle() -> None:
        """What is alive now is shared with every child: the collector is never to touch its pages again."""
        gc.collect()
        gc.freeze()

    def fork_worker(self, generation: Generation, key: WorkerKey) -> Child:
        """A worker of that generation; it waits for the word to begin. Raises `OSError`, `RuntimeError`."""
        place = generation.places[key[0]]
        named, client = worker_title(generation, key), generation.settings.server.http_client
        greeted = generation.sasl_sockets()
        doors = {where: door for where, door in place.doors.items() if door not in greeted}
        row = self._board.allocate_worker(place.index, key[1], generation.number)

        def live(channel: socket.socket) -> None:
            post = WorkerContext(
                title=named,
                pool=place.pool,
                pool_row=self._board.pool(place.index),
                row=self._board.worker(row),
                board=self._board,
                listeners=doors,
                ready=place.ready,
                parking=self._arrivals_sender,
                channel=channel,
                max_connections=generation.max_connections,
                generation=generation.number,
                targets=generation.targets,
                store=CacheClient(self._cache_directory, self._authkey),
                connection_limit=connection_limit.ConnectionLimit(
                    self._ledger, client.max_connections_per_host, len(worker_keys(generation))
                ),
            )
            Worker(post, generation.settings, generation.context, generation.logger).run()

        try:
            child = self._fork(
                f"worker {named}", live, generation, {place.ready, self._arrivals_sender, *doors.values()}
            )
        except OSError:
            self._board.release_worker(row)
            raise
        child.row = row
        self._board.set_pid(row, child.pid)
        return child

    def _fork_parking(self) -> Child:
        generation = self.generation
        queues = {place.index: place.sender for place in generation.places.values()}
        doors = generation.sasl_sockets()

        def live(channel: socket.socket) -> None:
            setproctitle("pfxhttpd: parking 0 clients")
            plan, logger = generation.plan(), generation.logger
            Parking(self._arrivals, channel, queues, doors, plan, self._board, logger).run()

        return self._fork("parking", live, generation, {self._arrivals, *queues.values(), *doors})

    def _fork_cache(self) -> Child:
        logger = self.generation.logger

        def failed(why: str) -> None:
            if logger.error:
                logger.error("Cache failed", reason=why)

        def live(channel: socket.socket) -> None:
            cache.run(channel, self._cache_directory, self._authkey, self._board.cache, failed)

        return self._fork("cache", live, self.generation, set())

    def _fork(
        self, name: str, live: Callable[[socket.socket], None], generation: Generation, keep: set[socket.socket]
    ) -> Child:
        def foreign() -> list[socket.socket]:
            self._selector.close()
            mine = {self._arrivals, self._arrivals_sender, *self._private()}
            mine.update(child.channel for child in self.children.values())
            for each in (generation, self.generation):
                mine.update(each.sockets())
            return [sock for sock in mine if sock not in keep]

        def failed(what: str) -> None:
            if generation.logger.error:
                generation.logger.error("Internal error", process=name, pid=os.getpid(), error=what)

        child = fork(name, live, foreign, failed)
        self.children[child.pid] = child
        self._selector.register(child.channel, selectors.EVENT_READ, lambda: self._hear(child))
        return child

    # -- words --------------------------------------------------------------------------------------------------

    def _hear(self, child: Child) -> None:
        """A child's word. Its end of file is its death, which SIGCHLD tells as well, and better."""
        if child.pid not in self.children:
            return
        try:
            word = child.channel.recv(64)
        except BlockingIOError:
            return
        except OSError:
            word = b""
        if not word:
            self._selector.unregister(child.channel)
        elif word == READY and child.state is State.STARTING:
            child.state = State.WAITING
            self._begin(child)
        elif word == MAX_REQUESTS and child.state is State.SERVING:
            self._relieve(child)
        elif word == CONFIG_APPLIED:
            self.plans -= 1
            self._dissolve()

    def _begin(self, child: Child) -> None:
        """A child of the generation that serves may begin at once; one of the next waits until all of them can."""
        for slot in self.posts():
            if slot.child is child:
                child.go()
            elif slot.successor is child:
                slot.succeed().leave(RETIRE)
                child.go()

    def _relieve(self, child: Child) -> None:
        """A worker has served its number of requests: its successor first, then it may go."""
        for slot in self.slots.values():
            if slot.child is child:
                slot.tired = True

    # -- farewells ----------------------------------------------------------------------------------------------

    def dissolve(self, child: Child) -> None:
        """Have a worker leave whose pool is no more. It puts back all who wait there, and so is told only when parking
        sends nobody there any more."""
        self._dissolving.append(child)
        self._dissolve()

    def _dissolve(self) -> None:
        if not self.plans:
            for child in self._dissolving:
                child.leave(DRAIN)
            self._dissolving.clear()

    # -- deaths -------------------------------------------------------------------------------------------------

    def reap(self) -> list[Child]:
        """Take note of the children that are gone; returns them."""
        gone = []
        while True:
            try:
                pid, how = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return gone
            if pid == 0:
                return gone
            child = self.children.pop(pid, None)
            if child is not None:
                self._bury(child, how)
                gone.append(child)

    def _bury(self, child: Child, how: int) -> None:
        if child.channel.fileno() in self._selector.get_map():
            self._selector.unregister(child.channel)
        child.channel.close()
        if child.row >= 0:
            self._board.release_worker(child.row)
        elif child.name == "parking":
            self._board.set_parked(0)
            self.plans = 0
            self._dissolve()
        elif child.name == "cache":
            self._board.cache.clear()
        code = os.waitstatus_to_exitcode(how)
        log = self.generation.logger
        if code and child.state is not State.LEAVING and log.error:
            why = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            log.error("Process died", process=child.name, pid=child.pid, why=why)
        now = time.monotonic()
        for slot in (self.cache, self.parking, *self.slots.values()):
            if child in (slot.child, slot.successor):
                slot.lost(child, now)

    def kill_stuck_workers(self, now: float) -> None:
        """A worker that is still busy well past its request's deadline will not come back by itself."""
        log = self.generation.logger
        for child in self.workers():
            view = self._board.view(child.row)
            if view.state == "busy" and now > view.deadline + GRACE:
                if log.error:
                    log.error(
                        "Worker is stuck and is killed",
                        process=child.name,
                        pid=child.pid,
                        entry=view.entry,
                        seconds=round(now - view.since, 1),
                    )
                child.kill()


def worker_keys(generation: Generation) -> list[WorkerKey]:
    """The workers' posts of a generation."""
    return [
        (place.key, number) for place in generation.places.values() for number in range(1, place.pool.max_workers + 1)
    ]


def worker_title(generation: Generation, key: WorkerKey) -> str:
    """How `ps` names a worker: its number of how many, and its pool."""
    place = generation.places[key[0]]
    return f"{key[1]}/{place.pool.max_workers} {place.title}"

"""A reload: a complete new generation beside the old one. When all of its workers are ready, they take over.

Whatever fails on the way (the file, a listener, a worker that does not start) leaves the old generation as it was. A
reload that is requested during another one begins when that one has ended.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from setproctitle import setproctitle

from pfxhttpd.config.settings import Server, Settings
from pfxhttpd.io import SetupError
from pfxhttpd.io.log import Logger
from pfxhttpd.io.scoreboard import Scoreboard
from pfxhttpd.io.systemd import Notifier
from pfxhttpd.process import control_server
from pfxhttpd.process.child import Child, Slot, State
from pfxhttpd.process.control_server import ControlClient
from pfxhttpd.process.generation import Generation, prepare
from pfxhttpd.process.spawner import WorkerKey, freeze_memory, worker_keys, worker_title
from pfxhttpd.process.supervisor import Supervisor

START_TIMEOUT = 20.0
"""Seconds that a new generation's workers may take to be ready."""

_NEED_RESTART = ("run_as_user", "run_as_group", "chroot", "runtime_directory")
_NEED_NEW_SOCKET = ("mode", "user", "group")
"""Keys of a Unix socket that are applied when it is bound. Later only its path leads to its file, and the service user may
neither change the owner nor reach a path outside the chroot."""

Load = Callable[[], Settings]
"""Reads and validates the configuration again. Raises SetupError."""


@dataclass(frozen=True, slots=True)
class PendingReload:
    """The new generation, its workers' slots, the deadline for them (monotonic), and the clients that await the outcome."""

    generation: Generation
    slots: Mapping[WorkerKey, Slot]
    deadline: float
    clients: list[ControlClient]

    def all_ready(self) -> bool:
        return all(child.state is State.WAITING for child in self.children()) and len(self.children()) == len(
            self.slots
        )

    def children(self) -> list[Child]:
        return [slot.child for slot in self.slots.values() if slot.child is not None]


class Reloader:
    """Replaces the supervisor's generation."""

    def __init__(self, load: Load, supervisor: Supervisor, board: Scoreboard, notifier: Notifier) -> None:
        self._load, self._supervisor, self._board, self._notifier = load, supervisor, board, notifier
        self._pending: PendingReload | None = None
        self.counts: Counter[str] = Counter(success=0, error=0)
        self.succeeded = True
        """Whether the last reload has."""
        self._next: list[ControlClient] | None = None
        """The clients that await the reload after this one; None if no further one was requested."""

    @property
    def active(self) -> bool:
        return self._pending is not None

    @property
    def deadline(self) -> float | None:
        return self._pending.deadline if self._pending else None

    def sockets(self) -> list[socket.socket]:
        """The connections of the clients that await an outcome."""
        return [*(self._pending.clients if self._pending else ()), *(self._next or ())]

    @property
    def _log(self) -> Logger:
        return self._supervisor.generation.logger

    def request(self, clients: list[ControlClient]) -> None:
        """Begin a reload. An error is logged and sent to the clients, and changes nothing."""
        if self._pending:
            self._next = [*(self._next or ()), *clients]
            return
        self._notifier.reloading()
        try:
            generation = prepare(self._load(), self._supervisor.generation, self._log, {})
        except SetupError as error:
            self._report_failure(clients, str(error))
            return
        slots = {key: Slot(worker_title(generation, key)) for key in worker_keys(generation)}
        self._pending = PendingReload(generation, slots, time.monotonic() + START_TIMEOUT, clients)
        freeze_memory()
        try:
            for key, slot in slots.items():
                slot.child = self._supervisor.fork_worker(generation, key)
        except (OSError, RuntimeError) as error:
            self.abort(str(error))

    def proceed(self, now: float) -> None:
        """Commit the reload if all of its workers are ready; abort it if they take too long."""
        if self._pending is None:
            return
        if self._pending.all_ready():
            self._commit(self._pending)
        elif now >= self._pending.deadline:
            self.abort("its workers took too long to come up")

    def on_exit(self, child: Child) -> bool:
        """A child has exited; True if it belonged to the pending reload, which is aborted by that."""
        if self._pending is None or child not in self._pending.children():
            return False
        self.abort(f"{child.name} of the new configuration did not come up")
        return True

    def abort(self, reason: str) -> None:
        """Undo the pending reload, if there is one."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        for child in pending.children():
            child.state = State.LEAVING
            child.kill()
        pending.generation.close(keeping=self._supervisor.generation)
        self._report_failure(pending.clients, reason)
        self._begin_next()

    def refuse_next(self, reason: str) -> None:
        """Forget the reload that was requested after the pending one."""
        control_server.refuse(self._next or [], reason)
        self._next = None

    def _report_failure(self, clients: list[ControlClient], reason: str) -> None:
        self.counts["error"] += 1
        self.succeeded = False
        if self._log.error:
            self._log.error("Reload failed, nothing has changed", reason=reason)
        self._notifier.ready(self._supervisor.summary())
        control_server.refuse(clients, reason)

    def _begin_next(self) -> None:
        if self._next is not None:
            clients, self._next = self._next, None
            self.request(clients)

    def _commit(self, pending: PendingReload) -> None:
        """Every new worker is ready: from here on the new generation serves."""
        supervisor = self._supervisor
        old, old_slots, new = supervisor.generation, supervisor.worker_slots, pending.generation
        self._pending = None
        supervisor.generation, supervisor.worker_slots = new, dict(pending.slots)
        self._board.generation = new.number
        supervisor.configure_parking(old)
        supervisor.replace_metrics()
        self._board.reset_targets({row for target, row in new.targets.items() if old.targets.get(target) == row})
        for child in pending.children():
            child.start()
        for (pool, _), slot in old_slots.items():
            for child in slot.children:
                if pool in new.pools:
                    child.retire()
                else:
                    supervisor.drain(child)
        old.close(keeping=new)
        new.set_backlogs()
        setproctitle(f"pfxhttpd: master {new.settings.source}")
        for key, listener in _without_effect(old.settings.server, new.settings.server):
            if self._log.error:
                self._log.error("A change takes effect after a restart only", key=f"server.{key}", listener=listener)
        if self._log.info:
            self._log.info("Configuration reloaded", generation=new.number, workers=len(pending.slots))
        self.counts["success"] += 1
        self.succeeded = True
        self._notifier.ready(supervisor.summary())
        control_server.reply(pending.clients, {"ok": True, "generation": new.number})
        self._begin_next()


def _without_effect(old: Server, new: Server) -> Iterator[tuple[str, str | None]]:
    """The keys below `server` whose change a reload does not apply; those of a listener with its address."""
    for key in _NEED_RESTART:
        if getattr(old, key) != getattr(new, key):
            yield key, None
    before = {listener.endpoint: listener for listener in old.listen}
    for listener in new.listen:
        for key in _NEED_NEW_SOCKET:
            if getattr(before.get(listener.endpoint, listener), key) != getattr(listener, key):
                yield f"listen.{key}", listener.endpoint

"""The master: binds, forks, watches over its children, and rolls them onto a new configuration.

    start     everything that can be refused is refused here, before a child exists
    serve     one wait for everything: signals, children's words, the control socket, the tick
    reload    a complete new generation beside the old one; when all of its workers are ready, they take over
    stop      workers finish what they have in hand; then parking goes, and the files that were made

It reads no request and opens no connection to a backend. Signal handlers record and wake, nothing else.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from setproctitle import setproctitle

from pfxhttpd import __version__
from pfxhttpd.config.settings import Settings
from pfxhttpd.io import SetupError
from pfxhttpd.io.log import Logger
from pfxhttpd.io.scoreboard import Scoreboard
from pfxhttpd.io.systemd import Notifier
from pfxhttpd.process import control_server, status
from pfxhttpd.process.child import RETIRE, Slot, State
from pfxhttpd.process.control_server import ControlClient, ControlServer
from pfxhttpd.process.generation import GLOBAL, Generation, prepare
from pfxhttpd.process.supervisor import Supervisor, WorkerKey, worker_keys, worker_title
from pfxhttpd.rules import cache_key

TICK = 2.0
"""Seconds between looks at workers that may be stuck."""
START_TIME = 20.0
"""Seconds that a new generation's workers may take to be ready."""

Load = Callable[[], Settings]
"""Reads and validates the configuration anew. Raises `Refused`."""


@dataclass(frozen=True, slots=True)
class PendingReload:
    """A reload under way: the new generation, its workers, the time they have, and who waits for the outcome."""

    generation: Generation
    slots: Mapping[WorkerKey, Slot]
    by: float
    askers: list[ControlClient]


class Master:
    """One server. Making it binds and loads everything; `load` gives the settings of a reload.

    Raises `Refused`, with nothing left behind.
    """

    def __init__(
        self,
        settings: Settings,
        load: Load,
        logger: Logger,
        notifier: Notifier,
        runtime: str,
        cache_directory: str,
        activated: Mapping[str, list[socket.socket]],
        owner: tuple[int, int] | None,
    ) -> None:
        self._load, self._notifier = load, notifier
        self._board = Scoreboard()
        self._selector = selectors.DefaultSelector()
        self._take_signals()
        self._generation = prepare(settings, None, logger, activated)
        self._board.generation = self._generation.number
        try:
            self._desk = ControlServer(
                runtime,
                owner,
                self._selector,
                {
                    "status": lambda asker, _: control_server.answer([asker], {"ok": True, "status": self._status()}),
                    "reload": lambda asker, _: self._reload([asker]),
                    "stop": self._stop_for,
                    "purge": self._purge,
                },
            )
        except SetupError:
            self._generation.close()
            raise
        self._staff = Supervisor(self._board, self._selector, self._generation, self._private, cache_directory)
        self._roll: PendingReload | None = None
        self._again: list[ControlClient] | None = None
        self._stopping_by = 0.0
        self._ticked = 0.0
        self._ready = False
        self._code = os.EX_OK

    def abandon(self) -> None:
        """Leave nothing behind of a server that will not serve."""
        self._generation.close()
        self._desk.close()

    @property
    def _log(self) -> Logger:
        return self._generation.logger

    def _private(self) -> list[socket.socket]:
        return [
            self._signals,
            self._signal_end,
            *self._desk.sockets(),
            *(self._roll.askers if self._roll else ()),
            *(self._again or ()),
        ]

    # -- serve --------------------------------------------------------------------------------------------------

    def run(self, serving: Callable[[], None]) -> int:
        """Serve until told to stop; `serving` is called once everybody does. Returns the exit code."""
        setproctitle(f"pfxhttpd: master {self._generation.settings.source}")
        if self._log.info:
            for listener in self._generation.settings.server.listen:
                self._log.info("Listening", listener=f"{listener.kind}:{listener.name}", address=listener.endpoint)
        self._staff.settle()
        while True:
            now = time.monotonic()
            if self._stopping_by:
                if self._finish_stopping(now):
                    return self._code
            else:
                self._supervise(now)
            if not self._ready and not self._stopping_by and self._staff.serving():
                self._ready = True
                if self._log.info:
                    self._log.info("Ready", version=__version__, pid=os.getpid(), workers=len(self._staff.slots))
                self._notifier.ready(self._summary(), main_pid=os.getpid())
                serving()
            for key, _ in self._selector.select(self._patience()):
                key.data()

    def _take_signals(self) -> None:
        self._signals, self._signal_end = socket.socketpair()
        for end in (self._signals, self._signal_end):
            end.setblocking(False)
        signal.set_wakeup_fd(self._signal_end.fileno(), warn_on_full_buffer=False)
        self._acts: Mapping[int, Callable[[], None]] = {
            signal.SIGHUP: lambda: self._reload([]),
            signal.SIGTERM: self._stop,
            signal.SIGINT: self._stop,
            signal.SIGQUIT: self._quit,
            signal.SIGUSR1: self._tell_status,
            signal.SIGTTIN: lambda: self._resize(+1),
            signal.SIGTTOU: lambda: self._resize(-1),
            signal.SIGCHLD: self._reap,
        }
        for number in self._acts:
            signal.signal(number, _noted)
        self._selector.register(self._signals, selectors.EVENT_READ, self._on_signals)

    def _on_signals(self) -> None:
        try:
            numbers = self._signals.recv(256)
        except BlockingIOError:
            return
        for number in numbers:
            self._acts[number]()

    def _patience(self) -> float:
        """Seconds until something is due."""
        waits = [self._ticked + TICK, *self._staff.due()]
        if self._roll:
            waits.append(self._roll.by)
        if self._stopping_by:
            waits = [self._stopping_by]
        return max(0.0, min(waits) - time.monotonic())

    def _supervise(self, now: float) -> None:
        if self._roll and now >= self._roll.by:
            self._abort("its workers took too long to come up")
        for reason in self._staff.fill(now):
            if self._log.error:
                self._log.error("Process cannot be started", reason=reason)
            self._give_up(reason, os.EX_OSERR)
        if self._roll and all(slot.child.state is State.WAITING for slot in self._roll.slots.values()):
            self._commit(self._roll)
        if now >= self._ticked + TICK:
            self._ticked = now
            self._staff.kill_stuck_workers(now)
            self._notifier.watchdog()

    def _reap(self) -> None:
        for child in self._staff.reap():
            if self._roll and any(slot.child is child for slot in self._roll.slots.values()):
                self._abort(f"{child.name} of the new configuration did not come up")
            elif child.state is not State.LEAVING:
                self._give_up(f"{child.name} did not come up", os.EX_SOFTWARE)

    def _give_up(self, reason: str, code: int) -> None:
        """A server that has never served does not try for ever: whoever starts it is to know, and to decide."""
        if self._ready or self._stopping_by:
            return
        print(f"pfxhttpd: {reason}", file=sys.stderr, flush=True)
        self._code = code
        self._stop()

    # -- reload -------------------------------------------------------------------------------------------------

    def _reload(self, askers: list[ControlClient]) -> None:
        """Build the new generation; what cannot be is logged, told to whoever asked, and changes nothing."""
        if self._stopping_by:
            control_server.refuse(askers, "the server is stopping")
            return
        if self._roll:
            self._again = [*(self._again or ()), *askers]
            return
        self._notifier.reloading()
        try:
            settings = self._load()
            generation = prepare(settings, self._generation, self._log, {})
        except SetupError as error:
            self._refuse(askers, str(error))
            return
        slots = {key: Slot(worker_title(generation, key)) for key in worker_keys(generation)}
        self._roll = PendingReload(generation, slots, time.monotonic() + START_TIME, askers)
        self._staff.settle()
        try:
            for key, slot in slots.items():
                slot.child = self._staff.fork_worker(generation, key)
        except (OSError, RuntimeError) as error:
            self._abort(str(error))

    def _refuse(self, askers: list[ControlClient], reason: str) -> None:
        if self._log.error:
            self._log.error("Reload failed, nothing has changed", reason=reason)
        if not self._stopping_by:
            self._notifier.ready(self._summary())
        control_server.refuse(askers, reason)

    def _abort(self, reason: str) -> None:
        roll, self._roll = self._roll, None
        for slot in roll.slots.values():
            if slot.child:
                slot.child.state = State.LEAVING
                slot.child.kill()
        roll.generation.close(keeping=self._generation)
        self._refuse(roll.askers, reason)
        self._start_queued_reload()

    def _commit(self, roll: PendingReload) -> None:
        """Every new worker is ready: from here on the new generation is the one that serves."""
        old, old_slots, new = self._generation, self._staff.slots, roll.generation
        self._roll = None
        self._generation = self._staff.generation = new
        self._staff.slots = dict(roll.slots)
        self._board.generation = new.number
        self._plan(old)
        self._board.reset_targets({row for target, row in new.targets.items() if old.targets.get(target) == row})
        for slot in roll.slots.values():
            slot.child.go()
        for (pool, _), slot in old_slots.items():
            for child in (slot.child, slot.successor):
                if child and pool in new.places:
                    child.leave(RETIRE)
                elif child:
                    self._staff.dissolve(child)
        old.close(keeping=new)
        setproctitle(f"pfxhttpd: master {new.settings.source}")
        for key in _needs_restart(old.settings, new.settings):
            if self._log.error:
                self._log.error("A change takes effect after a restart only", key=key)
        if self._log.info:
            self._log.info("Configuration reloaded", generation=new.number, workers=len(roll.slots))
        self._notifier.ready(self._summary())
        control_server.answer(roll.askers, {"ok": True, "generation": new.number})
        self._start_queued_reload()

    def _plan(self, old: Generation) -> None:
        """Tell parking, and give it the doors to open and the senders of queues it does not know."""
        parking = self._staff.parking.child
        if parking is None:
            return
        new = self._generation
        added = [place for place in new.places.values() if place.key not in old.places]
        sockets = [*(place.sender for place in added), *new.sasl_sockets()]
        try:
            order = new.plan().pack([place.index for place in added])
            socket.send_fds(parking.channel, [order], [sock.fileno() for sock in sockets])
            self._staff.plans += 1
        except OSError:
            parking.kill()  # the next one is forked with all it needs

    def _start_queued_reload(self) -> None:
        """A reload that was asked for during the one that has just ended."""
        if self._again is not None:
            askers, self._again = self._again, None
            self._reload(askers)

    # -- stop ---------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        """Accept nothing more, let requests in hand finish."""
        if self._stopping_by:
            return
        if self._log.info:
            self._log.info("Stopping")
        self._notifier.stopping()
        self._stopping_by = time.monotonic() + self._generation.settings.server.shutdown_timeout
        control_server.refuse(self._again or [], "the server is stopping")
        self._again = None
        if self._roll:
            self._abort("the server is stopping")
        self._generation.close()
        for child in self._staff.workers():
            child.leave(RETIRE)

    def _stop_for(self, asker: ControlClient, _: object) -> None:
        control_server.answer([asker], {"ok": True, "pid": os.getpid()})
        self._stop()

    def _quit(self) -> None:
        self._stop()
        self._stopping_by = time.monotonic()

    def _finish_stopping(self, now: float) -> bool:
        """Workers first, then parking; past the deadline whoever is left is killed. True when all are gone."""
        children = self._staff.children.values()
        if now >= self._stopping_by:
            for child in children:
                child.kill()
            self._stopping_by = now + TICK
        if not self._staff.workers():
            for child in children:
                child.dismiss()
        if children:
            return False
        for number in self._acts:
            signal.signal(number, signal.SIG_IGN)  # a second TERM must not change the exit code of a stop that is done
        self._desk.close()
        if self._log.info:
            self._log.info("Stopped")
        return True

    # -- pool size, status --------------------------------------------------------------------------------------

    def _resize(self, by: int) -> None:
        """TTIN, TTOU: one worker more or less in the global pool, until the next reload."""
        if GLOBAL not in self._generation.places or self._roll or self._stopping_by:
            return
        workers = self._generation.places[GLOBAL].pool.max_workers + by
        if workers < 1:
            return
        self._generation = self._staff.generation = self._generation.resized(workers)
        slot = self._staff.slots.pop((GLOBAL, workers + 1), None)
        for child in (slot.child, slot.successor) if slot else ():
            if child:
                child.leave(RETIRE)
        if self._log.info:
            self._log.info("Pool resized", pool=GLOBAL, workers=workers)

    def _purge(self, asker: ControlClient, request: Mapping[str, Any]) -> None:
        """Have the cache forget one key of a map, all of an entry, or everything."""
        name, key = request.get("name"), request.get("key")
        keys = [cache_key.map_key(str(name), str(key))] if key is not None else []
        forgotten = self._staff.store.purge(None if name is None else str(name), keys)
        if forgotten is None:
            control_server.refuse([asker], "the cache does not answer, or is not enabled")
        else:
            control_server.answer([asker], {"ok": True, "forgotten": forgotten})

    def _status(self) -> dict[str, Any]:
        return status.of(self._generation, self._board, self._staff.children.values())

    def _tell_status(self) -> None:
        if self._log.info:
            for line in status.lines(self._status()):
                self._log.info("Status", line=line)

    def _summary(self) -> str:
        return f"Generation {self._generation.number}, {len(self._staff.slots)} workers"


def _noted(*_: object) -> None:
    """Signals arrive through the wakeup descriptor; a handler has to exist for that."""


def _needs_restart(old: Settings, new: Settings) -> list[str]:
    keys = ("run_as_user", "run_as_group", "chroot", "runtime_directory")
    return [f"server.{key}" for key in keys if getattr(old.server, key) != getattr(new.server, key)]

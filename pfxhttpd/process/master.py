"""The master: binds, forks, watches over its children, and rolls them onto a new configuration.

    start     everything that can be refused is refused here, before a child exists
    serve     one wait for everything: signals, children's words, the control socket, the second's tick
    reload    a complete new generation beside the old one; when all of its workers are ready, they take over
    stop      workers finish what they have in hand; then parking goes, and the files that were made

It reads no request and opens no connection to a backend. Signal handlers record and wake, nothing else.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import socket
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Mapping

from setproctitle import setproctitle

from pfxhttpd import __version__
from pfxhttpd.config.settings import Settings
from pfxhttpd.outside import control, handoff
from pfxhttpd.outside.journal import Journal
from pfxhttpd.outside.scoreboard import Scoreboard
from pfxhttpd.process import status
from pfxhttpd.process.crew import DISSOLVE, GO, READY, RETIRE, TIRED, Child, Slot, State, fork
from pfxhttpd.process.generation import GLOBAL, Generation, Place, Refused, prepare
from pfxhttpd.process.parking import Parking
from pfxhttpd.process.worker import Post, Worker

TICK = 2.0
"""Seconds between looks at workers that may be stuck."""
GRACE = 5.0
"""Seconds past a request's deadline after which its worker counts as stuck."""
START_TIME = 20.0
"""Seconds that a new generation's workers may take to be ready."""

Load = Callable[[], Settings]
"""Reads and validates the configuration anew. Raises `Refused`."""


@dataclass(slots=True)
class _Roll:
    """A reload under way: the new generation, its workers, and who waits to hear what came of it."""

    generation: Generation
    slots: dict[tuple[str, int], Slot]
    by: float
    askers: list[socket.socket] = field(default_factory=list)


class Master:
    """One server. `settings` are valid; `load` gives those of a reload."""

    def __init__(
        self,
        settings: Settings,
        load: Load,
        journal: Journal,
        environ: Mapping[str, str],
        activated: Mapping[str, list[socket.socket]],
    ) -> None:
        self._load, self._log, self._environ, self._activated = load, journal, environ, activated
        self._board = Scoreboard()
        self._settings = settings
        self._children: dict[int, Child] = {}
        self._slots: dict[tuple[str, int], Slot] = {}
        self._parking = Slot("parking")
        self._roll: _Roll | None = None
        self._again: list[socket.socket] | None = None
        self._stopping_by = 0.0
        self._done = False
        self._askers: dict[socket.socket, bytes] = {}
        self._ticked = 0.0

    # -- start --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Bind and load everything. Raises `Refused`, with nothing left behind."""
        self._generation = prepare(self._settings, None, self._activated)
        self._runtime = control.directory(self._settings.server.runtime_directory, self._environ)
        try:
            self._control = control.bind(self._runtime)
        except control.ControlError as error:
            self._generation.close()
            raise Refused(str(error)) from error
        self._arrivals, self._arrivals_sender = handoff.channel()
        if self._log.info:
            for listener in self._settings.server.listen:
                self._log.info("Listening", listener=f"{listener.kind}:{listener.name}", address=listener.where)

    # -- serve --------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until told to stop. Returns the exit code."""
        setproctitle(f"pfxhttpd: master {self._settings.source}")
        self._selector = selectors.DefaultSelector()
        self._take_signals()
        self._selector.register(self._signals, selectors.EVENT_READ, self._on_signals)
        self._selector.register(self._control, selectors.EVENT_READ, self._on_control)
        self._freeze()
        self._fill(time.monotonic())
        announced = False
        while not self._done:
            for key, _ in self._selector.select(self._patience()):
                key.data()
            now = time.monotonic()
            self._supervise(now)
            if not announced and self._all_serving():
                announced = True
                if self._log.info:
                    self._log.info("Ready", version=__version__, pid=os.getpid(), workers=len(self._slots))
        return os.EX_OK

    def _take_signals(self) -> None:
        self._signals, self._signal_end = socket.socketpair()
        for end in (self._signals, self._signal_end):
            end.setblocking(False)
        signal.set_wakeup_fd(self._signal_end.fileno(), warn_on_full_buffer=False)
        self._acts: dict[int, Callable[[], None]] = {
            signal.SIGHUP: lambda: self._reload(None),
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

    def _on_signals(self) -> None:
        try:
            numbers = self._signals.recv(256)
        except BlockingIOError:
            return
        for number in dict.fromkeys(numbers) if signal.SIGTTIN not in numbers else numbers:
            act = self._acts.get(number)
            if act:
                act()

    def _patience(self) -> float:
        """Seconds until something is due; a tick while anybody is busy or missing, for ever in silence."""
        now = time.monotonic()
        waits = [self._ticked + TICK - now]
        waits += [slot.due - now for slot in self._every_slot() if slot.child is None]
        if self._roll:
            waits.append(self._roll.by - now)
        if self._stopping_by:
            waits.append(self._stopping_by - now)
        return max(0.0, min(waits))

    def _every_slot(self) -> list[Slot]:
        return [self._parking, *self._slots.values()]

    def _all_serving(self) -> bool:
        return all(slot.child is not None and slot.child.state is State.SERVING for slot in self._every_slot())

    # -- children -----------------------------------------------------------------------------------------------

    def _fill(self, now: float) -> None:
        """Give every post that is vacant, and whose pause is over, a child."""
        if self._parking.child is None and self._parking.due <= now:
            self._parking.child = self._fork_parking()
        for key in self._wanted(self._generation):
            slot = self._slots.setdefault(key, Slot(self._slot_title(self._generation, key)))
            if slot.child is None and slot.due <= now:
                slot.child = self._fork_worker(self._generation, key)

    @staticmethod
    def _wanted(generation: Generation) -> list[tuple[str, int]]:
        return [
            (place.key, number)
            for place in generation.places.values()
            for number in range(1, place.pool.max_workers + 1)
        ]

    @staticmethod
    def _slot_title(generation: Generation, key: tuple[str, int]) -> str:
        place = generation.places[key[0]]
        return f"{key[1]}/{place.pool.max_workers} {place.title}"

    def _fork_worker(self, generation: Generation, key: tuple[str, int]) -> Child:
        place = generation.places[key[0]]
        row = self._board.hire(place.index, key[1], generation.number)
        title = self._slot_title(generation, key)
        greeted = generation.greeted_doors()

        def live(channel: socket.socket) -> None:
            post = Post(
                title=title,
                pool=place.pool,
                pool_row=self._board.pool(place.index),
                row=self._board.worker(row),
                board=self._board,
                listeners={where: door for where, door in place.doors.items() if door not in greeted},
                ready=place.ready,
                parking=self._arrivals_sender,
                channel=channel,
                max_connections=generation.max_connections,
            )
            Worker(post, generation.settings, generation.context, self._log).run()

        keep = {place.ready, self._arrivals_sender, *place.doors.values()}
        child = fork(f"worker {title}", live, lambda: self._foreign(generation, keep), self._failed)
        child.row = row
        self._board.started(row, child.pid)
        self._adopt(child)
        return child

    def _fork_parking(self) -> Child:
        generation = self._generation
        queues = {place.index: place.sender for place in generation.places.values()}
        doors = generation.greeted_doors()

        def live(channel: socket.socket) -> None:
            setproctitle("pfxhttpd: parking 0 clients")
            Parking(
                self._arrivals, channel, queues, doors, generation.plan(), self._board, self._log
            ).run()

        child = fork("parking", live, lambda: self._foreign(generation, {self._arrivals, *queues.values(), *doors}),
                     self._failed)
        self._adopt(child)
        return child

    def _adopt(self, child: Child) -> None:
        self._children[child.pid] = child
        self._selector.register(child.channel, selectors.EVENT_READ, lambda: self._hear(child))

    def _foreign(self, generation: Generation, keep: set[socket.socket]) -> list[socket.socket]:
        """All sockets of the master's that a child with `keep` has no business with."""
        self._selector.close()
        generations = {generation.number: generation, self._generation.number: self._generation}
        if self._roll:
            generations[self._roll.generation.number] = self._roll.generation
        mine = {self._signals, self._signal_end, self._control, self._arrivals, self._arrivals_sender, *self._askers}
        if self._roll:
            mine.update(self._roll.askers)
        mine.update(self._again or ())
        mine.update(child.channel for child in self._children.values())
        for each in generations.values():
            mine.update(each.doors.values())
            for place in each.places.values():
                mine.update((place.ready, place.sender))
        return [sock for sock in mine if sock not in keep]

    def _failed(self, what: str) -> None:
        if self._log.error:
            self._log.error("Internal error", pid=os.getpid(), error=what)

    @staticmethod
    def _freeze() -> None:
        """What is alive now is shared with every child, so the collector is never to touch its pages again."""
        gc.collect()
        gc.freeze()

    def _hear(self, child: Child) -> None:
        """A child's word. Its end of file is its death, which SIGCHLD tells as well, and better."""
        try:
            word = child.channel.recv(64)
        except BlockingIOError:
            return
        except OSError:
            word = b""
        if not word:
            self._selector.unregister(child.channel)
            return
        if word == READY and child.state is State.STARTING:
            child.state = State.WAITING
            self._ready(child)
        elif word == TIRED and child.state is State.SERVING:
            self._relieve(child)

    def _ready(self, child: Child) -> None:
        if self._roll and any(slot.child is child for slot in self._roll.slots.values()):
            if all(slot.child.state is State.WAITING for slot in self._roll.slots.values()):
                self._commit()
            return
        child.state = State.SERVING
        child.tell(GO)
        for slot in self._slots.values():
            if slot.successor is child:
                slot.child.leave(RETIRE)
                slot.child, slot.successor = child, None

    def _relieve(self, child: Child) -> None:
        """A worker has served its number of requests: its successor first, then it may go."""
        for key, slot in self._slots.items():
            if slot.child is child and slot.successor is None:
                slot.successor = self._fork_worker(self._generation, key)

    def _reap(self) -> None:
        while True:
            try:
                pid, how = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self._children.pop(pid, None)
            if child is not None:
                self._bury(child, how)

    def _bury(self, child: Child, how: int) -> None:
        try:
            self._selector.unregister(child.channel)
        except KeyError:
            pass
        child.channel.close()
        if child.row >= 0:
            self._board.fire(child.row)
        elif child.name == "parking":
            self._board.park(0)
        if child.state is not State.LEAVING:
            code = os.waitstatus_to_exitcode(how)
            why = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            if code or child.state is not State.SERVING:
                if self._log.error:
                    self._log.error("Process died", process=child.name, pid=child.pid, why=why)
        now = time.monotonic()
        for slot in self._every_slot():
            if child in (slot.child, slot.successor):
                slot.lost(child, now)
        if self._roll and any(slot.child is child for slot in self._roll.slots.values()):
            self._abort(f"{child.name} of the new configuration did not come up")

    def _view(self, child: Child) -> Any:
        return self._board.view(child.row)

    def _supervise(self, now: float) -> None:
        if self._stopping_by:
            self._see_off(now)
            return
        if self._roll and now >= self._roll.by:
            self._abort("its workers took too long to come up")
        self._fill(now)
        if now >= self._ticked + TICK:
            self._ticked = now
            for child in self._children.values():
                if child.row >= 0 and (view := self._view(child)).state == "busy" and now > view.deadline + GRACE:
                    if self._log.error:
                        self._log.error("Worker is stuck and is killed", process=child.name, pid=child.pid,
                                        entry=view.entry, seconds=round(now - view.since, 1))
                    child.kill()

    # -- reload -------------------------------------------------------------------------------------------------

    def _reload(self, asker: socket.socket | None) -> None:
        """Build the new generation; what cannot be is logged, told to whoever asked, and changes nothing."""
        askers = [asker] if asker else []
        if self._stopping_by:
            self._answer(askers, {"ok": False, "reason": "the server is stopping"})
            return
        if self._roll:
            self._again = [*(self._again or []), *askers]
            return
        try:
            settings = self._load()
            generation = prepare(settings, self._generation, {})
        except Refused as error:
            self._refuse(askers, str(error))
            return
        for what in _needs_restart(self._settings, settings):
            if self._log.error:
                self._log.error("A change takes effect after a restart only", key=what)
        slots = {key: Slot(self._slot_title(generation, key)) for key in self._wanted(generation)}
        self._roll = _Roll(generation, slots, time.monotonic() + START_TIME, askers)
        self._log_before, self._log = self._log, self._log.with_settings(settings.server.logging)
        self._freeze()
        try:
            for key, slot in slots.items():
                slot.child = self._fork_worker(generation, key)
        except (OSError, RuntimeError) as error:
            self._abort(str(error))

    def _refuse(self, askers: list[socket.socket], reason: str) -> None:
        if self._log.error:
            self._log.error("Reload failed, nothing has changed", reason=reason)
        self._answer(askers, {"ok": False, "reason": reason})

    def _abort(self, reason: str) -> None:
        roll, self._roll = self._roll, None
        for slot in roll.slots.values():
            if slot.child:
                slot.child.leave(RETIRE)
                slot.child.kill()
        roll.generation.close(keeping=self._generation)
        self._log = self._log_before
        self._refuse(roll.askers, reason)
        self._next_reload()

    def _commit(self) -> None:
        """Every new worker is ready: from here on the new generation is the one that serves."""
        roll, old, old_slots = self._roll, self._generation, self._slots
        self._roll = None
        self._generation, self._slots, self._settings = roll.generation, roll.slots, roll.generation.settings
        self._plan(old)
        for slot in self._slots.values():
            slot.child.state = State.SERVING
            slot.child.tell(GO)
        for (pool, _), slot in old_slots.items():
            word = RETIRE if pool in self._generation.places else DISSOLVE
            for child in (slot.child, slot.successor):
                if child:
                    child.leave(word)
        old.close(keeping=self._generation)
        setproctitle(f"pfxhttpd: master {self._settings.source}")
        if self._log.info:
            self._log.info("Configuration reloaded", generation=self._generation.number, workers=len(self._slots))
        self._answer(roll.askers, {"ok": True, "generation": self._generation.number})
        self._next_reload()

    def _plan(self, old: Generation) -> None:
        """Tell parking, and give it the senders of queues it does not know."""
        parking = self._parking.child
        if parking is None:
            return
        known = {place.index for place in old.places.values() if place.key in self._generation.places}
        added = [place for place in self._generation.places.values() if place.index not in known]
        try:
            socket.send_fds(
                parking.channel,
                [self._generation.plan().pack([place.index for place in added])],
                [sock.fileno() for sock in (*(place.sender for place in added), *self._generation.greeted_doors())],
            )
        except OSError:
            parking.kill()

    def _next_reload(self) -> None:
        """A reload that was asked for during the one that has just ended."""
        if self._again is not None:
            askers, self._again = self._again, None
            self._reload(None)
            if self._roll:
                self._roll.askers += askers
            else:
                self._answer(askers, {"ok": False, "reason": "see the log"})

    # -- stop ---------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        """Accept nothing more, let requests in hand finish."""
        if self._stopping_by:
            return
        if self._log.info:
            self._log.info("Stopping")
        if self._roll:
            self._abort("the server is stopping")
        self._stopping_by = time.monotonic() + self._settings.server.shutdown_timeout
        self._generation.close()
        for child in self._children.values():
            if child.row >= 0:
                child.leave(RETIRE)

    def _quit(self) -> None:
        self._stop()
        self._stopping_by = time.monotonic()

    def _see_off(self, now: float) -> None:
        """Workers first, then parking; past the deadline whoever is left is killed."""
        if now >= self._stopping_by:
            for child in self._children.values():
                child.kill()
        if any(child.row >= 0 for child in self._children.values()):
            return
        for child in self._children.values():
            if child.state is not State.LEAVING:
                child.state = State.LEAVING
                child.channel.shutdown(socket.SHUT_RDWR)
        if not self._children:
            self._control.close()
            control.remove(self._runtime)
            if self._log.info:
                self._log.info("Stopped")
            self._done = True

    def _resize(self, by: int) -> None:
        """TTIN, TTOU: one worker more or less in the global pool, until the next reload."""
        if GLOBAL not in self._generation.places or self._roll or self._stopping_by:
            return
        workers = self._generation.places[GLOBAL].pool.max_workers + by
        if workers < 1:
            return
        self._generation = self._generation.resized(workers)
        slot = self._slots.pop((GLOBAL, workers + 1), None)
        for child in (slot.child, slot.successor) if slot else ():
            if child:
                child.leave(RETIRE)
        if self._log.info:
            self._log.info("Pool resized", pool=GLOBAL, workers=workers)

    # -- what is told -------------------------------------------------------------------------------------------

    def _tell_status(self) -> None:
        if self._log.info:
            for line in status.lines(self._status()):
                self._log.info("Status", line=line)

    def _status(self) -> dict[str, Any]:
        return status.of(self._generation, self._board, self._children.values())

    def _on_control(self) -> None:
        try:
            asker, _ = self._control.accept()
        except OSError:
            return
        asker.setblocking(False)
        if not control.allowed(asker, os.geteuid()):
            asker.close()
            return
        self._askers[asker] = b""
        self._selector.register(asker, selectors.EVENT_READ, lambda: self._listen_to(asker))

    def _listen_to(self, asker: socket.socket) -> None:
        try:
            data = asker.recv(control.LONGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        line = self._askers[asker] = self._askers[asker] + data
        if data and b"\n" not in line and len(line) < control.LONGEST:
            return
        self._selector.unregister(asker)
        del self._askers[asker]
        if not data:
            asker.close()
            return
        try:
            command = control.parse(line.partition(b"\n")[0]).get("command")
        except control.ControlError as error:
            self._answer([asker], {"ok": False, "reason": str(error)})
            return
        if command == "status":
            self._answer([asker], {"ok": True, "status": self._status()})
        elif command == "reload":
            self._reload(asker)
        elif command == "stop":
            self._answer([asker], {"ok": True, "pid": os.getpid()})
            self._stop()
        else:
            self._answer([asker], {"ok": False, "reason": "status, reload and stop are what can be asked"})

    @staticmethod
    def _answer(askers: list[socket.socket], message: Mapping[str, Any]) -> None:
        for asker in askers:
            asker.settimeout(1)
            try:
                asker.sendall(control.encode(message))
            except OSError:
                pass  # whoever asked did not wait for the answer
            asker.close()


def _noted(*_: object) -> None:
    """Signals arrive through the wakeup descriptor; a handler has to exist for that."""


def _needs_restart(old: Settings, new: Settings) -> list[str]:
    keys = ("run_as_user", "run_as_group", "chroot", "runtime_directory")
    return [f"server.{key}" for key in keys if getattr(old.server, key) != getattr(new.server, key)]

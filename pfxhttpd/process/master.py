"""The master: binds, forks, supervises its children, and has reloads and stops carried out.

    start     whatever can be refused is refused here, before a child exists
    serve     one wait for everything: signals, children's messages, the control socket, the tick
    reload    see `reload`
    stop      workers finish their requests; then parking leaves, and the files that were made are removed

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
from typing import Any

from setproctitle import setproctitle

from pfxhttpd import __version__
from pfxhttpd.config.settings import Settings
from pfxhttpd.io import SetupError
from pfxhttpd.io.log import Logger
from pfxhttpd.io.scoreboard import Scoreboard
from pfxhttpd.io.systemd import Notifier
from pfxhttpd.process import control_server, metrics_snapshot, pool_load, status, status_text, target_failure_log
from pfxhttpd.process.capacity import GLOBAL
from pfxhttpd.process.child import Child, State
from pfxhttpd.process.control_server import ControlClient, ControlServer
from pfxhttpd.process.field_hint import FieldHints
from pfxhttpd.process.generation import prepare
from pfxhttpd.process.pool_load import SaturationLog
from pfxhttpd.process.reload import Load, Reloader
from pfxhttpd.process.spawner import freeze_memory
from pfxhttpd.process.start_cleanup import StartCleanup
from pfxhttpd.process.supervisor import Supervisor
from pfxhttpd.rules import cache_key

TICK = 2.0
"""Seconds between looks at children that may be stuck."""


class Master:
    """One server. Its constructor binds and loads everything; `load` gives the settings of a reload.

    Raises SetupError, with nothing left behind.
    """

    def __init__(
        self,
        settings: Settings,
        load: Load,
        logger: Logger,
        notifier: Notifier,
        runtime_directory: str,
        cache_directory: str,
        passed: Mapping[str, list[socket.socket]],
        owner: tuple[int, int] | None,
        start: StartCleanup,
    ) -> None:
        self._notifier, self._start = notifier, start
        # systemd wants a message in every half of the interval (sd_watchdog_enabled(3)); a third leaves time to be late.
        self._tick = min(TICK, notifier.watchdog_interval / 3) if notifier.watchdog_interval else TICK
        self._board = Scoreboard()
        self._selector = selectors.DefaultSelector()
        self._take_signals()
        generation = prepare(settings, None, logger, passed)
        self._board.generation = generation.number
        commands: dict[str, control_server.Command] = {
            "status": lambda client, _: control_server.reply([client], {"ok": True, "status": self._status()}),
            "reload": lambda client, _: self._reload([client]),
            "stop": self._stop_for,
            "purge": self._purge,
        }
        try:
            self._control = ControlServer(runtime_directory, owner, self._selector, commands)
        except SetupError:
            generation.close()
            raise
        self._supervisor = Supervisor(
            self._board, self._selector, generation, self._private, cache_directory, self._send_metrics
        )
        self._reloader = Reloader(load, self._supervisor, self._board, notifier)
        self._saturation, self._field_hints = SaturationLog(), FieldHints()
        self._stop_deadline = 0.0
        self._ticked_at = 0.0
        self._ready = False
        self._exit_code = os.EX_OK

    def abandon(self) -> None:
        """Close the sockets of a server that will not serve, and remove their files."""
        self._supervisor.generation.close()
        self._control.close()

    def remove_files(self) -> None:
        """Remove the sockets' files, for a process that is outside the chroot."""
        self._supervisor.generation.remove_files()
        self._control.remove_file()

    @property
    def _log(self) -> Logger:
        return self._supervisor.generation.logger

    def _private(self) -> list[socket.socket]:
        """The master's own sockets, which no child may keep."""
        return [
            self._signal_reader,
            self._signal_writer,
            *self._notifier.sockets(),
            *self._control.sockets(),
            *self._reloader.sockets(),
            *self._start.sockets(),
        ]

    # -- serve --------------------------------------------------------------------------------------------------

    def run(self, on_serving: Callable[[], None]) -> int:
        """Serve until told to stop; `on_serving` is called once all children serve. Returns the exit code."""
        settings = self._supervisor.generation.settings
        setproctitle(f"pfxhttpd: master {settings.source}")
        if self._log.info:
            for listener in settings.server.listen:
                self._log.info("Listening", listener=f"{listener.kind}:{listener.title}", address=listener.endpoint)
        freeze_memory()
        while True:
            now = time.monotonic()
            if not self._stop_deadline:
                self._supervise(now)
            if self._stop_deadline and self._finish_stopping(now):
                return self._exit_code
            if not self._ready and not self._stop_deadline and self._supervisor.all_serving():
                self._ready = True
                self._start.served()
                if self._log.info:
                    workers = len(self._supervisor.worker_slots)
                    self._log.info("Ready", version=__version__, pid=os.getpid(), workers=workers)
                self._notifier.ready(self._supervisor.summary(), main_pid=os.getpid())
                on_serving()
            for key, _ in self._selector.select(self._timeout()):
                key.data()

    def _take_signals(self) -> None:
        self._signal_reader, self._signal_writer = socket.socketpair()
        for end in (self._signal_reader, self._signal_writer):
            end.setblocking(False)
        signal.set_wakeup_fd(self._signal_writer.fileno(), warn_on_full_buffer=False)
        self._signal_actions: Mapping[int, Callable[[], None]] = {
            signal.SIGHUP: lambda: self._reload([]),
            signal.SIGTERM: self._stop,
            signal.SIGINT: self._stop,
            signal.SIGQUIT: self._quit,
            signal.SIGUSR1: self._log_status,
            signal.SIGTTIN: lambda: self._resize(+1),
            signal.SIGTTOU: lambda: self._resize(-1),
            signal.SIGCHLD: self._reap,
        }
        for number in self._signal_actions:
            signal.signal(number, _ignore)
        self._selector.register(self._signal_reader, selectors.EVENT_READ, self._on_signals)

    def _on_signals(self) -> None:
        try:
            numbers = self._signal_reader.recv(256)
        except BlockingIOError:
            return
        for number in numbers:
            self._signal_actions[number]()

    def _timeout(self) -> float:
        """Seconds until something is due."""
        if self._stop_deadline:
            due = [self._stop_deadline]
        else:
            due = [self._ticked_at + self._tick, *self._supervisor.due()]
            if self._reloader.deadline is not None:
                due.append(self._reloader.deadline)
        return max(0.0, min(due) - time.monotonic())

    def _supervise(self, now: float) -> None:
        self._reloader.proceed(now)
        for reason in self._supervisor.spawn_missing(now):
            if self._log.error:
                self._log.error("Process cannot be started", reason=reason)
            self._fail_start(reason, os.EX_OSERR)
        if now >= self._ticked_at + self._tick and not self._stop_deadline:
            self._ticked_at = now
            self._supervisor.kill_stuck(now)
            self._watch(now)
            if self._supervisor.responsive(now):
                self._notifier.watchdog()

    def _watch(self, now: float) -> None:
        """Look at what the workers have counted, and log what goes on for long."""
        supervisor, board = self._supervisor, self._board
        supervisor.totals.sample(now)
        loads = pool_load.pool_loads(supervisor.generation, board, supervisor.children.values())
        self._saturation.look(loads, now, self._log)
        target_failure_log.log_counts(supervisor.generation, board, supervisor.totals, now)
        self._field_hints.look(supervisor.generation, supervisor.children.values())

    def _reap(self) -> None:
        for child in self._supervisor.reap():
            if not self._reloader.on_exit(child) and child.state is not State.LEAVING:
                self._fail_start(f"{child.name} did not come up", os.EX_SOFTWARE)

    def _fail_start(self, reason: str, code: int) -> None:
        """A server that has never served stops instead of trying for ever, so that whoever started it learns of it."""
        if self._ready or self._stop_deadline:
            return
        print(f"pfxhttpd: {reason}", file=sys.stderr, flush=True)
        self._exit_code = code
        self._stop()

    def _reload(self, clients: list[ControlClient]) -> None:
        if self._stop_deadline:
            control_server.refuse(clients, "the server is stopping")
        else:
            self._reloader.request(clients)

    # -- stop ---------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        """Accept nothing more, and let the requests in progress finish."""
        if self._stop_deadline:
            return
        if self._log.info:
            self._log.info("Stopping")
        generation = self._supervisor.generation
        self._stop_deadline = time.monotonic() + generation.settings.server.shutdown_timeout
        self._reloader.refuse_next("the server is stopping")
        self._reloader.abort("the server is stopping")
        self._notifier.stopping()
        generation.close()
        for child in self._supervisor.workers():
            child.retire()

    def _stop_for(self, client: ControlClient, _: object) -> None:
        control_server.reply([client], {"ok": True, "pid": os.getpid()})
        self._stop()

    def _quit(self) -> None:
        self._stop()
        self._stop_deadline = time.monotonic()

    def _finish_stopping(self, now: float) -> bool:
        """Workers leave first, then parking; past the deadline those that are left are killed. True when all are gone."""
        children = self._supervisor.children.values()
        if now >= self._stop_deadline:
            for child in children:
                child.kill()
            self._stop_deadline = now + TICK
        if not self._supervisor.workers():
            for child in children:
                child.dismiss()
        if children:
            return False
        for number in self._signal_actions:
            signal.signal(number, signal.SIG_IGN)  # a second TERM must not change the exit code of a stop that is done
        self._control.close()
        self._supervisor.remove_cache_socket()
        if self._log.info:
            self._log.info("Stopped")
        return True

    # -- pool size, cache, status -------------------------------------------------------------------------------

    def _resize(self, by: int) -> None:
        """TTIN, TTOU: one worker more or less in the global pool, until the next reload."""
        if not self._reloader.active and not self._stop_deadline:
            workers = self._supervisor.resize_global_pool(by)
            if workers and self._log.info:
                self._log.info("Pool resized", pool=GLOBAL, workers=workers)

    def _purge(self, client: ControlClient, request: Mapping[str, Any]) -> None:
        """Have the cache forget one key of a map, all of an entry, or everything."""
        name, key = request.get("name"), request.get("key")
        keys = [cache_key.map_key(str(name), str(key))] if key is not None else []
        forgotten = self._supervisor.cache_client.purge(None if name is None else str(name), keys)
        if forgotten is None:
            control_server.refuse([client], "the cache does not answer, or is not enabled")
        else:
            control_server.reply([client], {"ok": True, "forgotten": forgotten})

    def _status(self) -> dict[str, Any]:
        supervisor = self._supervisor
        providers = supervisor.cache_client.providers() if supervisor.generation.providers else []
        return status.snapshot(supervisor, self._board, self._saturation, providers)

    def _send_metrics(self, child: Child) -> None:
        reloader = self._reloader
        taken = metrics_snapshot.snapshot(self._supervisor, self._board, reloader.counts, reloader.succeeded)
        metrics_snapshot.send(child.channel, taken)

    def _log_status(self) -> None:
        if self._log.info:
            shown = self._status()
            for line in [*status_text.summary(shown), *status_text.lines(shown)]:
                self._log.info("Status", line=line)


def _ignore(*_: object) -> None:
    """Signals arrive through the wakeup descriptor, which needs a handler to be set."""

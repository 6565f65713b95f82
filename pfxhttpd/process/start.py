"""The start, from top to bottom: what is refused is refused before a child exists, and what needs root is done first.

    look up users and groups -> bind -> load what the jail lacks -> chroot -> drop -> serve

Any failure on the way is one line and an exit code, with nothing left running and no socket file left behind.

`daemonize` uses python-daemon for the detaching alone: its order of chroot, owner and pid file is not the one above,
and the pid file has to name the process that serves.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from daemon import DaemonContext

from pfxhttpd.config.settings import Settings
from pfxhttpd.io import SetupError, control, jail
from pfxhttpd.io.cache import directory as cache_directory
from pfxhttpd.io.log import Logger
from pfxhttpd.io.pidfile import PidFile
from pfxhttpd.io.systemd import Notifier, passed_sockets
from pfxhttpd.process.master import Load, Master

INSIDE = "/run/pfxhttp"
"""Where the processes meet inside a jail."""


@dataclass(frozen=True, slots=True)
class StartNotifier:
    """The process that was started and waits for a word; -1 for `told` when there is none, in the foreground."""

    told: int = -1

    def serving(self) -> None:
        """It may go, and with it its terminal: standard error is nobody's from here on."""
        if self.told >= 0:
            self.failed(os.EX_OK)
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 2)
            os.close(null)

    def failed(self, code: int) -> None:
        if self.told >= 0:
            os.write(self.told, bytes([code]))
            os.close(self.told)


@dataclass(frozen=True, slots=True)
class StartOptions:
    """How the server is to be started: the pid file's path or "", and who waits for it to serve."""

    pidfile: str = ""
    starter: StartNotifier = StartNotifier()


def serve(settings: Settings, load: Load, start: StartOptions, environ: Mapping[str, str]) -> int:
    """Start, serve until told to stop, and return the exit code (sysexits.h)."""
    environ = dict(environ)
    server = settings.server
    pidfile: PidFile | None = None
    master: Master | None = None
    _raise_limit()
    try:
        identity = jail.resolve(server.run_as_user, server.run_as_group, server.chroot)
        owner = (identity.uid, identity.gid) if identity.descends else None
        if start.pidfile:
            pidfile = PidFile.take(start.pidfile)
        passed = passed_sockets(environ, os.getpid())
        notifier = Notifier(environ)
        runtime = control.directory(server.runtime_directory, environ)
        control.make_directory(runtime, owner)
        meeting = os.path.join(INSIDE if server.chroot else runtime, "cache")
        cache_directory.make(f"{server.chroot}{meeting}", owner)
        logger = Logger.open(server.logging)
        master = Master(settings, load, logger, notifier, runtime, meeting, passed, owner)
        if server.chroot:
            jail.preload("pfxhttpd")
            jail.enter(server.chroot)
        jail.drop(identity)
        if server.chroot:
            jail.check_inside(identity)
    except SetupError as error:
        print(f"pfxhttpd: {error}", file=sys.stderr)
        if master:
            master.abandon()
        if pidfile:
            pidfile.remove()
        code = error.exit_code
        start.starter.failed(code)
        return code
    try:
        code = master.run(start.starter.serving)
        if code:
            start.starter.failed(code)
        return code
    finally:
        if pidfile:
            pidfile.remove()


def _raise_limit() -> None:
    """As many descriptors as the system lets us have: parked clients cost nothing else."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def daemonize(preserve: list[int]) -> StartNotifier:
    """Go on as a daemon that keeps the descriptors `preserve` and, until it serves, standard error.

    Standard output stays when it is no terminal, since it may be where the log goes. In the process that was started
    this does not return: it exits with 0 when the daemon serves, or with the exit code that the daemon ended with.
    """
    heard, told = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    middle = os.fork()
    if middle:
        os.close(told)
        os.waitpid(middle, 0)
        word = os.read(heard, 1)
        os._exit(word[0] if word else os.EX_SOFTWARE)
    os.close(heard)
    DaemonContext(
        detach_process=True,
        umask=0o077,
        files_preserve=[told, *preserve],
        stdout=None if os.isatty(1) else sys.stdout,
        stderr=sys.stderr,
        signal_map={},
    ).open()
    return StartNotifier(told)

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
from pfxhttpd.process.master import Master
from pfxhttpd.process.reload import Load
from pfxhttpd.process.start_cleanup import StartCleanup

DIRECTORY_IN_JAIL = "/run/pfxhttp"
"""The runtime directory inside a jail, for the cache's socket."""

DESCRIPTORS = 32
"""Descriptors that the master needs beside its listeners and its connections to the workers."""


@dataclass(frozen=True, slots=True)
class StartNotifier:
    """The pipe to the process that was started with `--daemon` and waits for the outcome; -1 in the foreground."""

    descriptor: int = -1

    def serving(self) -> None:
        """Let that process exit with 0, and let go of standard error, which may be its terminal."""
        if self.descriptor >= 0:
            self.failed(os.EX_OK)
            _release_standard_error()

    def failed(self, code: int) -> None:
        """Let that process exit with this code."""
        if self.descriptor >= 0:
            os.write(self.descriptor, bytes([code]))
            os.close(self.descriptor)


@dataclass(frozen=True, slots=True)
class StartOptions:
    """How the server is started: the pid file's path or "", and the process that waits for it to serve."""

    pidfile: str = ""
    notifier: StartNotifier = StartNotifier()


def serve(settings: Settings, load: Load, options: StartOptions, environ: Mapping[str, str]) -> int:
    """Start, serve until told to stop, and return the exit code (sysexits.h)."""
    environ = dict(environ)
    server = settings.server
    pidfile: PidFile | None = None
    master: Master | None = None
    cleanup = StartCleanup()
    try:
        _raise_descriptor_limit(len(server.listen))
        identity = jail.resolve(server.run_as_user, server.run_as_group, server.chroot)
        owner = (identity.uid, identity.gid) if identity.drops else None
        passed = passed_sockets(environ, os.getpid())
        notifier = Notifier(environ)
        runtime = control.directory(server.runtime_directory, environ)
        control.make_directory(runtime, owner, cleanup.made)
        if options.pidfile:
            pidfile = PidFile.take(options.pidfile)
            cleanup.add(pidfile.remove_file)
        private = os.path.join(DIRECTORY_IN_JAIL if server.chroot else runtime, "cache")
        logger = Logger.open(server.logging)
        master = Master(settings, load, logger, notifier, runtime, private, passed, owner, cleanup)
        cleanup.add(master.remove_files)
        if server.chroot:
            jail.preload("pfxhttpd")
        if server.chroot or identity.drops:
            cleanup.fork_helper(server.chroot, private, lambda error: print(f"pfxhttpd: {error}", file=sys.stderr))
        if server.chroot:
            jail.enter(server.chroot)
        cache_directory.make(private, owner, cleanup.made_inside)
        jail.drop(identity)
        if server.chroot:
            jail.check_inside(identity)
    except (SetupError, OSError) as error:
        print(f"pfxhttpd: {error}", file=sys.stderr)
        if master:
            master.abandon()
        cleanup.failed()
        if pidfile:
            pidfile.remove()
        code = error.exit_code if isinstance(error, SetupError) else os.EX_OSERR
        options.notifier.failed(code)
        return code
    if identity.uid == 0 and not server.run_as_user and logger.info:
        logger.info("The server runs as root, because server.run_as_user is not set")
    try:
        code = master.run(options.notifier.serving)
        if code:
            options.notifier.failed(code)
        return code
    finally:
        cleanup.failed()
        if pidfile:
            pidfile.remove()


def _raise_descriptor_limit(listeners: int) -> None:
    """Raise the limit of descriptors as far as the system allows; connections need them, and little else.

    Raises SetupError if they would not suffice to bind this number of listeners, and to clean up after a failed start.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    needed = DESCRIPTORS + listeners
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise SetupError(
            f"the limit of open files (RLIMIT_NOFILE) is {hard}; {needed} is the least", exit_code=os.EX_OSERR
        )


def daemonize(preserve: list[int]) -> StartNotifier:
    """Continue as a daemon that keeps the descriptors `preserve` and, until it serves, standard error. Its child processes
    do not have the standard error.

    Standard output is kept unless it is a terminal, because it may be where the log goes. In the process that was
    started this does not return: it exits with 0 when the daemon serves, or with the exit code of the daemon.
    """
    outcome, notify = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        os.close(notify)
        os.waitpid(child, 0)
        code = os.read(outcome, 1)
        os._exit(code[0] if code else os.EX_SOFTWARE)
    os.close(outcome)
    DaemonContext(
        detach_process=True,
        umask=0o077,
        files_preserve=[notify, *preserve],
        stdout=None if os.isatty(1) else sys.stdout,
        stderr=sys.stderr,
        signal_map={},
    ).open()
    os.register_at_fork(after_in_child=_release_standard_error)
    return StartNotifier(notify)


def _release_standard_error() -> None:
    """Replace standard error by a daemon's standard input, which is /dev/null; a chroot has no such file."""
    os.dup2(0, 2)

"""The start, from top to bottom: what is refused is refused before a child exists, and what needs root is done first.

    look up users and groups -> bind -> load what the jail lacks -> chroot -> drop -> serve

Any failure on the way is one line and an exit code, with nothing left running and no socket file left behind.
"""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import dataclass
from typing import Mapping

from pfxhttpd.config.settings import Settings
from pfxhttpd.outside import control, jail, listen, store
from pfxhttpd.outside.journal import Journal
from pfxhttpd.outside.notify import Notifier
from pfxhttpd.outside.pidfile import PidFile, PidFileError
from pfxhttpd.process.detach import Starter
from pfxhttpd.process.generation import Refused
from pfxhttpd.process.master import Load, Master

_REFUSALS = (Refused, PidFileError, listen.ListenError, store.StoreError, control.ControlError, jail.JailError)
INSIDE = "/run/pfxhttp"
"""Where the processes meet inside a jail."""


@dataclass(frozen=True, slots=True)
class Start:
    """How the server is to be started: the pid file's path or "", and who waits for it to serve."""

    pidfile: str = ""
    starter: Starter = Starter()


def serve(settings: Settings, load: Load, start: Start, environ: Mapping[str, str]) -> int:
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
        activated = listen.activated(environ, os.getpid())
        notifier = Notifier(environ)
        runtime = control.directory(server.runtime_directory, environ)
        control.make_directory(runtime, owner)
        meeting = os.path.join(INSIDE if server.chroot else runtime, "cache")
        store.make_directory(f"{server.chroot}{meeting}", owner)
        journal = Journal.open(server.logging)
        master = Master(settings, load, journal, notifier, runtime, meeting, activated, owner)
        if server.chroot:
            jail.preload("pfxhttpd")
            jail.enter(server.chroot)
        jail.drop(identity)
        if server.chroot:
            jail.check_inside(identity)
    except _REFUSALS as error:
        print(f"pfxhttpd: {error}", file=sys.stderr)
        if master:
            master.abandon()
        if pidfile:
            pidfile.remove()
        code = _code(error)
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


def _code(error: Exception) -> int:
    if getattr(error, "permission", False):
        return os.EX_NOPERM
    return os.EX_CONFIG if isinstance(error, jail.JailError) else os.EX_UNAVAILABLE


def _raise_limit() -> None:
    """As many descriptors as the system lets us have: parked clients cost nothing else."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

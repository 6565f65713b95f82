"""`pfxhttpd run`: serve, until told to stop."""

from __future__ import annotations

import argparse
import os
import resource
import sys
from typing import Mapping

from pfxhttpd.cli import configuration
from pfxhttpd.config.problem import Invalid
from pfxhttpd.config.settings import Settings
from pfxhttpd.outside import control, listen, store
from pfxhttpd.outside.journal import Journal
from pfxhttpd.outside.notify import Notifier
from pfxhttpd.outside.pidfile import PidFile, PidFileError
from pfxhttpd.process.generation import Refused
from pfxhttpd.process.master import Master


def add(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("run", help="serve (what happens without a command)")
    parser.add_argument("--pidfile", metavar="PATH", help="write the master's process id there")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    try:
        path = configuration.path(options, environ)
        settings = configuration.settings(path, options.format, environ)
    except Invalid as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return os.EX_CONFIG

    def load() -> Settings:
        try:
            return configuration.settings(path, options.format, environ)
        except Invalid as error:
            raise Refused("; ".join(str(problem) for problem in error.problems)) from error

    _raise_limit()
    try:
        pidfile = PidFile.take(options.pidfile) if options.pidfile else None
        environ = dict(environ)
        activated = listen.activated(environ, os.getpid())
        runtime = control.directory(settings.server.runtime_directory, environ)
        cache_directory = os.path.join(runtime, "cache")
        store.make_directory(cache_directory)
        journal = Journal.open(settings.server.logging)
        master = Master(settings, load, journal, Notifier(environ), runtime, cache_directory, activated)
    except (Refused, PidFileError, listen.ListenError, store.StoreError) as error:
        print(f"pfxhttpd: {error}", file=sys.stderr)
        return os.EX_NOPERM if getattr(error, "permission", False) else os.EX_UNAVAILABLE
    try:
        return master.run()
    finally:
        if pidfile:
            pidfile.remove()


def _raise_limit() -> None:
    """As many descriptors as the system lets us have: parked clients cost nothing else."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

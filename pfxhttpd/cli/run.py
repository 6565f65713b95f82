"""`pfxhttpd run`: serve, until told to stop."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping

from pfxhttpd.cli import configuration
from pfxhttpd.config.errors import ConfigError
from pfxhttpd.config.settings import Settings
from pfxhttpd.io import SetupError
from pfxhttpd.io.systemd import FIRST_DESCRIPTOR, passed_count
from pfxhttpd.process.start import StartNotifier, StartOptions, daemonize, serve


def add(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("run", help="serve (what happens without a command)")
    parser.add_argument("--daemon", action="store_true", help="go into the background; return when it serves")
    parser.add_argument("--pidfile", metavar="PATH", help="write the master's process id there")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Serve as the process's only purpose: what whoever started it left open is closed first."""
    try:
        passed = passed_count(environ, os.getpid())
    except SetupError as error:
        print(f"pfxhttpd: {error}", file=sys.stderr)
        return error.exit_code
    os.closerange(FIRST_DESCRIPTOR + passed, os.sysconf("SC_OPEN_MAX"))
    return serve_configured(options, environ)


def serve_configured(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Serve what the configuration says; returns the exit code."""
    try:
        path = os.path.abspath(configuration.path(options, environ))
        settings = configuration.servable(path, options.format, environ)
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return os.EX_CONFIG

    def load() -> Settings:
        try:
            return configuration.servable(path, options.format, environ)
        except ConfigError as error:
            jailed = settings.server.chroot
            where = f" (files are looked for inside the chroot {jailed})" if jailed else ""
            raise SetupError("; ".join(str(problem) for problem in error.problems) + where) from error

    pidfile = os.path.abspath(options.pidfile) if options.pidfile else ""
    notifier = StartNotifier()
    if options.daemon:
        if os.isatty(1) and not settings.server.logging.syslog:
            print(
                "pfxhttpd: there will be no log: set server.logging.syslog, or redirect standard output",
                file=sys.stderr,
            )
        passed = passed_count(environ, os.getpid())
        notifier = daemonize(list(range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + passed)))
    return serve(settings, load, StartOptions(pidfile, notifier), environ)

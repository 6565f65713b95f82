"""`pfxhttpd run`: serves until it is stopped."""

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


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Serve in a process that does nothing else. Inherited descriptors are closed, except those that systemd passed."""
    os.closerange(FIRST_DESCRIPTOR + passed_count(environ, os.getpid()), os.sysconf("SC_OPEN_MAX"))
    return serve_configured(options, environ)


def serve_configured(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Serve as the configuration says. Returns the exit code. Raises `ConfigError` and `SetupError`."""
    path = os.path.abspath(configuration.path(options, environ))
    settings = configuration.settings(path, options.format, environ)

    def load() -> Settings:
        try:
            return configuration.settings(path, options.format, environ)
        except ConfigError as error:
            chroot = settings.server.chroot
            hint = f" (files are looked for inside the chroot {chroot})" if chroot else ""
            raise SetupError("; ".join(str(problem) for problem in error.problems) + hint) from error

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

"""`pfxhttpd check`: prints everything that is wrong with a configuration."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping

from pfxhttpd.cli import configuration


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print `PATH: ok`, and a warning if the server would run as root. Raises `ConfigError` with everything that is wrong."""
    path = configuration.path(options, environ)
    settings = configuration.settings(path, options.format, environ)
    print(f"{path}: ok")
    if not settings.server.run_as_user and os.geteuid() == 0:
        print(f"{path}: warning: server.run_as_user is not set, so a server that root starts runs as root")
    return os.EX_OK

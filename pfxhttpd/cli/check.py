"""`pfxhttpd check`: prints everything that is wrong with a configuration."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping

from pfxhttpd.cli import configuration


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print `PATH: ok`. Raises `ConfigError` with everything that is wrong."""
    path = configuration.path(options, environ)
    configuration.settings(path, options.format, environ)
    print(f"{path}: ok")
    return os.EX_OK

"""`pfxhttpd check`: says everything that is wrong with a configuration, without serving it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping

from pfxhttpd.cli import configuration
from pfxhttpd.config.errors import ConfigError


def add(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "check",
        help="load and validate the configuration",
        description="Loads the configuration and prints everything that is wrong with it, a line each."
        " Exit code: 0 nothing, 78 something.",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """`PATH: ok` on standard output, or the mistakes on standard error."""
    try:
        path = configuration.path(options, environ)
        configuration.servable(path, options.format, environ)
    except ConfigError as invalid:
        print(invalid, file=sys.stderr)
        return os.EX_CONFIG
    print(f"{path}: ok")
    return os.EX_OK

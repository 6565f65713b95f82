"""`pfxhttpd check`: says everything that is wrong with a configuration, without serving it."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Mapping

from pfxhttpd.config import source
from pfxhttpd.config.load import load
from pfxhttpd.config.problem import Invalid
from pfxhttpd.config.unsupported import unsupported
from pfxhttpd.exchange import template

CONFIGURATION = 78
"""EX_CONFIG, sysexits.h."""


def add(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "check", help="load and validate the configuration",
        description="Loads the configuration and prints everything that is wrong with it, a line each."
                    " Exit code: 0 nothing, 78 something.")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """`PATH: ok` on standard output, or the mistakes on standard error."""
    try:
        path = options.config or source.search(environ.get("HOME", ""), os.getcwd())
        problems = unsupported(load(path, options.format, environ, [template.check]).settings)
        if problems:
            raise Invalid(problems)
    except Invalid as invalid:
        print(invalid, file=sys.stderr)
        return CONFIGURATION
    print(f"{path}: ok")
    return 0

"""`pfxhttpd reload`: have a running server take its configuration anew, and say whether it took."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Mapping

from pfxhttpd.cli import configuration

PATIENCE = 60.0
"""Seconds a reload may take; the master gives its new workers 20."""


def add(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("reload", help="have a running server take its configuration anew")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    answer, code = configuration.ask(options, environ, {"command": "reload"}, PATIENCE)
    if code != os.EX_OK:
        return code
    if not answer["ok"]:
        print(f"pfxhttpd: reload failed, nothing has changed: {answer['reason']}", file=sys.stderr)
        return os.EX_CONFIG
    print(f"reloaded, generation {answer['generation']}")
    return os.EX_OK

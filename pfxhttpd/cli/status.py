"""`pfxhttpd status`: what the server is doing now."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping

from pfxhttpd.cli import configuration
from pfxhttpd.process import status

PATIENCE = 10.0
"""Seconds the master may take to answer."""


def add(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("status", help="what the workers of a running server are doing now")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    answer, code = configuration.ask(options, environ, {"command": "status"}, PATIENCE)
    if code == os.EX_OK:
        told = answer["status"]
        print(json.dumps(told, indent=2) if options.json else "\n".join(status.lines(told)))
    return code

"""`pfxhttpd cache purge`: have a running server forget answers that it keeps for outages."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Mapping

from pfxhttpd.cli import configuration

PATIENCE = 10.0
"""Seconds the master may take to answer."""


def add(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("cache", help="have a running server forget cached answers")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    purge = actions.add_parser("purge", help="forget a key of a map, all of an entry, or everything")
    purge.add_argument("name", nargs="?", metavar="NAME", help="the socket map or policy service")
    purge.add_argument("key", nargs="?", metavar="KEY", help="the socket map's key")
    purge.set_defaults(run=run)


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    request = {"command": "purge", "name": options.name, "key": options.key}
    answer, code = configuration.ask(options, environ, request, PATIENCE)
    if code != os.EX_OK:
        return code
    if not answer["ok"]:
        print(f"pfxhttpd: {answer['reason']}", file=sys.stderr)
        return os.EX_UNAVAILABLE
    print(f"{answer['forgotten']} forgotten")
    return os.EX_OK

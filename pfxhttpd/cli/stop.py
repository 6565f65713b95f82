"""`pfxhttpd stop`: have a running server finish what it has in hand and leave."""

from __future__ import annotations

import argparse
import os
import select
import sys
from typing import Mapping

from pfxhttpd.cli import configuration

PATIENCE = 10.0
"""Seconds the master may take to answer; how long it then takes to leave is `shutdown_timeout`'s business."""


def add(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("stop", help="have a running server stop; returns when it has")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    answer, code = configuration.ask(options, environ, {"command": "stop"}, PATIENCE)
    if code != os.EX_OK:
        return code
    try:
        master = os.pidfd_open(answer["pid"])
    except ProcessLookupError:
        return os.EX_OK
    except OSError as error:
        print(f"pfxhttpd: cannot wait for pid {answer['pid']}: {error.strerror}", file=sys.stderr)
        return os.EX_UNAVAILABLE
    select.select([master], [], [])
    return os.EX_OK

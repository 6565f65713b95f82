"""`pfxhttpd status`: prints what is wrong with the server, if anything is, and what it is doing now."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from pfxhttpd.cli import running_server
from pfxhttpd.process import status_text
from pfxhttpd.wire.sanitize import clean

DEGRADED = 1
"""The exit code when something is wrong."""
WATCH_INTERVAL = 2.0
"""Seconds between two looks of `--watch`."""

_CLEAR = "\x1b[H\x1b[J"
_RED, _GREEN, _PLAIN = "\x1b[1;31m", "\x1b[32m", "\x1b[0m"


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print the status, as lines or as a JSON object. Returns 0 if all is well, 1 if not. Raises `CommandError`."""
    server = running_server.find(options, environ)
    status = server.status
    while True:
        _print(status, options, environ)
        if not options.watch:
            return DEGRADED if status["problems"] else os.EX_OK
        time.sleep(WATCH_INTERVAL)
        status = server.ask(running_server.STATUS, running_server.STATUS_TIMEOUT)["status"]


def _print(status: Mapping[str, Any], options: argparse.Namespace, environ: Mapping[str, str]) -> None:
    if options.json:
        print(json.dumps(status, indent=None if options.watch else 2), flush=True)
        return
    terminal = sys.stdout.isatty()
    coloured = terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    color = (_RED if status["problems"] else _GREEN) if coloured else ""
    # A server's status is the text of the user that it runs as; no character of it may control the terminal.
    summary = [color + clean(line) + (color and _PLAIN) for line in status_text.summary(status)]
    lines = [clean(line) for line in status_text.lines(status)]
    if options.watch and terminal:
        # A line that wraps, or that scrolls the screen, would leave remains of itself. What is wrong is not cut.
        columns, rows = _terminal_size()
        taken = sum(-(-len(line) // columns) for line in status_text.summary(status))
        lines = [line[: columns - 1] for line in lines][: max(0, rows - taken - 1)]
        summary.insert(0, _CLEAR + summary.pop(0))
    print("\n".join([*summary, *lines]), flush=True)


def _terminal_size() -> tuple[int, int]:
    """The columns and rows of standard output. The variables COLUMNS and LINES do not follow when a terminal is resized."""
    size = os.get_terminal_size(sys.stdout.fileno())
    return size.columns or 80, size.lines or 24  # a serial line has no size

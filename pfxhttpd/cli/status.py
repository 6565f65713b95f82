"""`pfxhttpd status`: prints what the server is doing now."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping

from pfxhttpd.cli import running_server
from pfxhttpd.process import status_text

REPLY_TIMEOUT = 10.0
"""Seconds that the master may take to reply."""


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print the status, as lines or as a JSON object."""
    status = running_server.ask(options, environ, running_server.STATUS, REPLY_TIMEOUT)["status"]
    print(json.dumps(status, indent=2) if options.json else "\n".join(status_text.lines(status)))
    return os.EX_OK

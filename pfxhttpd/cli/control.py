"""The commands that a running server carries out: `pfxhttpd reload`, `pfxhttpd stop`, `pfxhttpd cache purge`."""

from __future__ import annotations

import argparse
import os
import select
from collections.abc import Mapping

from pfxhttpd.cli import CommandError, running_server

REPLY_TIMEOUT = 10.0
"""Seconds that the master may take to reply."""
RELOAD_TIMEOUT = 60.0
"""Seconds that a reload may take. The master gives its new workers 20."""


def reload(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Wait until the reload has succeeded or failed, and print which."""
    reply = running_server.ask(options, environ, {"command": "reload"}, RELOAD_TIMEOUT)
    if not reply["ok"]:
        raise CommandError(f"reload failed, nothing has changed: {reply['reason']}", os.EX_CONFIG)
    print(f"reloaded, generation {reply['generation']}")
    return os.EX_OK


def stop(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Wait until the master has ended. `server.shutdown_timeout` limits how long that takes."""
    reply = running_server.ask(options, environ, {"command": "stop"}, REPLY_TIMEOUT)
    try:
        master = os.pidfd_open(reply["pid"])
    except ProcessLookupError:
        return os.EX_OK
    except OSError as error:
        raise CommandError(f"cannot wait for pid {reply['pid']}: {error.strerror}") from None
    select.select([master], [], [])
    return os.EX_OK


def purge(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print how many cached responses were removed."""
    request = {"command": "purge", "name": options.name, "key": options.key}
    reply = running_server.ask(options, environ, request, REPLY_TIMEOUT)
    if not reply["ok"]:
        raise CommandError(reply["reason"])
    print(f"{reply['forgotten']} forgotten")
    return os.EX_OK

"""The commands that a running server carries out: `pfxhttpd reload`, `pfxhttpd stop`, `pfxhttpd cache purge`."""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Mapping

from pfxhttpd.cli import configuration

REPLY_TIMEOUT = 10.0
"""Seconds that the master may take to reply."""
RELOAD_TIMEOUT = 60.0
"""Seconds that a reload may take. The master gives its new workers 20."""


def add_reload(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("reload", help="have a running server read its configuration again")
    parser.set_defaults(run=reload)


def add_stop(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("stop", help="have a running server stop; returns when it has")
    parser.set_defaults(run=stop)


def add_cache(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("cache", help="have a running server forget cached answers")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    purge_parser = actions.add_parser("purge", help="forget a key of a map, all of an entry, or everything")
    purge_parser.add_argument("name", nargs="?", metavar="NAME", help="the socket map or policy service")
    purge_parser.add_argument("key", nargs="?", metavar="KEY", help="the socket map's key")
    purge_parser.set_defaults(run=purge)


def reload(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Wait until the reload has succeeded or failed, and print which."""
    reply, code = configuration.ask(options, environ, {"command": "reload"}, RELOAD_TIMEOUT)
    if code != os.EX_OK:
        return code
    if not reply["ok"]:
        print(f"pfxhttpd: reload failed, nothing has changed: {reply['reason']}", file=sys.stderr)
        return os.EX_CONFIG
    print(f"reloaded, generation {reply['generation']}")
    return os.EX_OK


def stop(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Wait until the master is gone; how long it may take is `shutdown_timeout`."""
    reply, code = configuration.ask(options, environ, {"command": "stop"}, REPLY_TIMEOUT)
    if code != os.EX_OK:
        return code
    try:
        master = os.pidfd_open(reply["pid"])
    except ProcessLookupError:
        return os.EX_OK
    except OSError as error:
        print(f"pfxhttpd: cannot wait for pid {reply['pid']}: {error.strerror}", file=sys.stderr)
        return os.EX_UNAVAILABLE
    select.select([master], [], [])
    return os.EX_OK


def purge(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print how many cached answers were forgotten."""
    request = {"command": "purge", "name": options.name, "key": options.key}
    reply, code = configuration.ask(options, environ, request, REPLY_TIMEOUT)
    if code != os.EX_OK:
        return code
    if not reply["ok"]:
        print(f"pfxhttpd: {reply['reason']}", file=sys.stderr)
        return os.EX_UNAVAILABLE
    print(f"{reply['forgotten']} forgotten")
    return os.EX_OK

"""Requests to the running server, which is found by its control socket."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any

from pfxhttpd.cli import CommandError, configuration
from pfxhttpd.config.errors import ConfigError
from pfxhttpd.io import control

STATUS = {"command": "status"}


def ask(
    options: argparse.Namespace, environ: Mapping[str, str], request: Mapping[str, Any], timeout: float
) -> dict[str, Any]:
    """The reply of the running server. `timeout` is in seconds.

    The file need not be valid if a server runs that has read its configuration from this file: it may have been changed
    since. Any other server is asked only if the file is valid, so that a mistake in it does not stop the wrong server.
    Raises `ConfigError`, or `CommandError` when no server replies.
    """
    file = configuration.path(options, environ)
    for directory in _likely_directories(file, options.format, environ):
        status = _status_of(directory, file, timeout)
        if status is not None:
            return status if request == STATUS else _ask(directory, request, timeout)
    settings = configuration.load(file, options.format, environ).settings
    return _ask(control.directory(settings.server.runtime_directory, environ), request, timeout)


def _likely_directories(file: str, format: str | None, environ: Mapping[str, str]) -> list[str]:
    """The runtime directory that the file names, if it can be parsed, and the one without the file."""
    configured = [environ.get("PFXHTTP_SERVER_RUNTIME_DIRECTORY", "")]
    try:
        written = configuration.tree(file, format, environ).scalar("server", "runtime_directory")
        configured[:0] = [written] if isinstance(written, str) else []
    except ConfigError:
        pass  # reported if no server runs with this file
    return list(dict.fromkeys(control.directory(directory, environ) for directory in configured))


def _status_of(directory: str, file: str, timeout: float) -> dict[str, Any] | None:
    """The status of the server in this runtime directory, if its configuration is from `file`."""
    try:
        reply = control.ask(directory, STATUS, timeout)
    except control.ControlError:
        return None
    return reply if reply.get("status", {}).get("configuration") == os.path.abspath(file) else None


def _ask(directory: str, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    try:
        return control.ask(directory, request, timeout)
    except control.ControlError as error:
        raise CommandError(str(error)) from None

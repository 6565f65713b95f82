"""Requests to the running server, which is found whatever its configuration file says now.

A server is known by the configuration file that it was started with, and it names that file in its status. It is looked
for where the file puts its runtime directory, in the usual places, and among the running processes, since the file may
have been changed, broken or removed after the start.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pfxhttpd.cli import CommandError, configuration, server_places
from pfxhttpd.cli.server_places import Place
from pfxhttpd.config.errors import ConfigError
from pfxhttpd.config.node import Node
from pfxhttpd.io import control

STATUS = {"command": "status"}
STATUS_TIMEOUT = 10.0
"""Seconds that the server may take to send its status."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that has sent its status."""

    place: Place
    status: Mapping[str, Any]

    def ask(self, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """The server's reply; `timeout` is in seconds. Raises `CommandError`."""
        return _ask(self.place, request, timeout)


def ask(
    options: argparse.Namespace, environ: Mapping[str, str], request: Mapping[str, Any], timeout: float
) -> dict[str, Any]:
    """The reply of the running server; `timeout` is in seconds. Raises `CommandError` when none is found or replies."""
    server = find(options, environ)
    return {"ok": True, "status": server.status} if request == STATUS else server.ask(request, timeout)


def find(options: argparse.Namespace, environ: Mapping[str, str]) -> RunningServer:
    """The server that `--control` names, else the one of the configuration file, else the only one there is.

    A server that was started with another file is taken only if nothing contradicts it: the file is valid and leads to
    it, or there is no file and no other server. So a mistake in a file does not stop the wrong server.
    Raises `CommandError`.
    """
    if options.control:
        return _first(server_places.named(options.control))
    file, root, mistake = _configuration(options, environ)
    configured = server_places.configured(root, environ)
    found: list[RunningServer] = []
    failures: list[control.ControlError] = []
    for place in dict.fromkeys([*configured, *server_places.usual(root, environ)]):
        try:
            found.append(_server(place))
        except control.ControlError as error:
            failures.append(error)
    for server in found:
        if file and server.status.get("configuration") == file:
            return server
    if file:
        for place in server_places.of_processes(file):
            try:
                return _server(place)
            except control.ControlError as error:
                failures.append(error)
    candidates = [server for server in found if server.place in configured] if file else found
    if len(candidates) == 1 and not mistake and (not file or _is_valid(file, options.format, environ)):
        return candidates[0]
    raise _not_found(found, failures, file, options, environ)


def _configuration(
    options: argparse.Namespace, environ: Mapping[str, str]
) -> tuple[str, Node | None, ConfigError | None]:
    """The file's absolute path or "", its tree if it can be parsed, and what is wrong otherwise."""
    try:
        file = os.path.abspath(configuration.path(options, environ))
    except ConfigError:
        return "", None, None  # there is none, which is no mistake: the server may be known from elsewhere
    try:
        return file, configuration.tree(file, options.format, environ), None
    except ConfigError as error:
        return file, None, error


def _is_valid(file: str, format: str | None, environ: Mapping[str, str]) -> bool:
    try:
        configuration.load(file, format, environ)
    except ConfigError:
        return False
    return True


def _first(places: list[Place]) -> RunningServer:
    """The first server of these places. Raises `CommandError`."""
    failure = control.ControlError("no server found")
    for place in places:
        try:
            return _server(place)
        except control.ControlError as error:
            failure = error
    raise _error(failure)


def _server(place: Place) -> RunningServer:
    """The server in this runtime directory. Raises `ControlError`."""
    status = control.ask(place.directory, STATUS, STATUS_TIMEOUT, place.user).get("status")
    if not isinstance(status, dict):
        raise control.ControlError(f"no server answers on {os.path.join(place.directory, control.SOCKET)}: no status")
    if place.pid and status.get("pid") != place.pid:
        raise control.ControlError(f"pid {place.pid} is not the server that answers in {place.directory}")
    return RunningServer(place, status)


def _ask(place: Place, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    try:
        return control.ask(place.directory, request, timeout, place.user)
    except control.ControlError as error:
        raise _error(error) from None


def _error(error: control.ControlError) -> CommandError:
    return CommandError(str(error), os.EX_NOPERM if error.permission else None)


def _not_found(
    found: list[RunningServer],
    failures: list[control.ControlError],
    file: str,
    options: argparse.Namespace,
    environ: Mapping[str, str],
) -> CommandError:
    """Why no server is asked: what was tried, which other servers run, and what is wrong with the file."""
    denied = [error for error in failures if error.permission]
    if denied:
        return _error(denied[0])
    lines = [] if found else [str(error) for error in failures[:1]]
    for server in found:
        lines.append(
            f"a server with the configuration {server.status.get('configuration')} is running;"
            f" to choose it, use --control {server.place.directory}"
        )
    code = None
    if file:
        try:
            configuration.load(file, options.format, environ)
        except ConfigError as error:
            lines += ["the configuration file does not say where its server is:", str(error)]
            code = os.EX_CONFIG if found else None
    return CommandError("\n".join(lines), code)

"""What the commands share: finding the configuration, and the running server through it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from typing import Any

from pfxhttpd.config import source
from pfxhttpd.config.checks import unsupported
from pfxhttpd.config.errors import ConfigError
from pfxhttpd.config.load import load
from pfxhttpd.config.settings import Settings
from pfxhttpd.io import control
from pfxhttpd.rules import template, verdict

CHECKS = (template.check, verdict.check)
"""Looks at an entry that the configuration's own room cannot take: it is below those that know."""


def path(options: argparse.Namespace, environ: Mapping[str, str]) -> str:
    """The file named by --config, else the first that is found. Raises `Invalid`."""
    return options.config or source.search(environ.get("HOME", ""), os.getcwd())


def settings(file: str, format: str | None, environ: Mapping[str, str]) -> Settings:
    """What the file says. Raises `Invalid` with everything that is wrong with it."""
    return load(file, format, environ, CHECKS).settings


def servable(file: str, format: str | None, environ: Mapping[str, str]) -> Settings:
    """The same, if this version can do all that it says. Raises `Invalid`."""
    found = settings(file, format, environ)
    problems = unsupported(found)
    if problems:
        raise ConfigError(problems)
    return found


def ask(
    options: argparse.Namespace, environ: Mapping[str, str], request: Mapping[str, Any], patience: float
) -> tuple[dict[str, Any], int]:
    """The running server's answer and an exit code; what went wrong is already said."""
    file = ""
    try:
        file = path(options, environ)
        where = control.directory(settings(file, options.format, environ).server.runtime_directory, environ)
    except ConfigError as error:
        # The file may be broken by now; the server that runs with what it used to say may well be asked.
        where = control.directory(environ.get("PFXHTTP_SERVER_RUNTIME_DIRECTORY", ""), environ)
        if not _runs_with(where, file, patience):
            for problem in error.problems:
                print(problem, file=sys.stderr)
            return {}, os.EX_CONFIG
    try:
        return control.ask(where, request, patience), os.EX_OK
    except control.ControlError as error:
        print(f"pfxhttpd: {error}", file=sys.stderr)
        return {}, os.EX_UNAVAILABLE


def _runs_with(where: str, file: str, patience: float) -> bool:
    """Whether the server that answers at `where` has its configuration from `file`: no other one is to be stopped."""
    try:
        answer = control.ask(where, {"command": "status"}, patience)
    except control.ControlError:
        return False
    return bool(file) and answer.get("status", {}).get("configuration") == os.path.abspath(file)

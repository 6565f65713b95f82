"""`pfxhttpd check`: prints what a start would refuse, and what is unwise, so that a restart holds no surprise."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace

from pfxhttpd.cli import configuration
from pfxhttpd.config.errors import ConfigError
from pfxhttpd.config.load import Loaded


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print `PATH: ok`, then what is unwise. Raises `ConfigError` with everything that is wrong."""
    # Imported here because they need the modules of the server.
    from pfxhttpd.cli import check_machine, check_migration
    from pfxhttpd.service import connect_check

    path = configuration.path(options, environ)
    loaded = configuration.load(path, options.format, environ)
    problems = check_machine.problems(loaded)
    if problems:
        raise ConfigError(problems)
    warnings = list(_warnings(loaded, path))
    code = os.EX_CONFIG if warnings and options.strict else os.EX_OK
    print(f"{path}: {'ok' if code == os.EX_OK else 'not ok, because of the warnings'}")
    for line in warnings:
        print(line)
    for text in check_machine.unseen(loaded.settings):
        print(f"{path}: not checked: {text}")
    if options.migrate:
        for problem in check_migration.differences(configuration.tree(path, options.format, environ)):
            print(f"{problem}")
    if options.connect:
        for finding in connect_check.findings(loaded.settings):
            print(finding.text, flush=True)
            code = os.EX_UNAVAILABLE if finding.failed and code == os.EX_OK else code
    return code


def _warnings(loaded: Loaded, path: str) -> Iterator[str]:
    from pfxhttpd.cli import check_machine
    from pfxhttpd.config.warnings import warnings

    settings = loaded.settings
    for problem in warnings(settings, loaded.tree, loaded.files):
        yield str(replace(problem, message=f"warning: {problem.message}"))
    for text in check_machine.too_many_workers(settings):
        yield f"{path}: warning: {text}"
    if not settings.server.run_as_user and os.geteuid() == 0:
        yield f"{path}: warning: server.run_as_user is not set, so a server that root starts runs as root"

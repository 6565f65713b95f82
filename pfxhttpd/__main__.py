"""The entry point: reads the command line, runs the command and returns its exit code."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Mapping, Sequence

from pfxhttpd.cli import CommandError
from pfxhttpd.cli.parser import parser
from pfxhttpd.config.errors import ConfigError
from pfxhttpd.io import SetupError

INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code (sysexits.h)."""
    open_standard_streams()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        options = parser().parse_args(arguments)
        if "command" not in options:
            options = parser().parse_args([*arguments, "run"])
    except SystemExit as end:
        return os.EX_USAGE if end.code == 2 else int(end.code or 0)
    try:
        return run(options, os.environ)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return os.EX_IOERR
    except KeyboardInterrupt:
        return INTERRUPTED


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Import and run the command. Its errors are printed on standard error."""
    module, _, function = options.command.partition(":")
    try:
        return int(getattr(importlib.import_module(module), function)(options, environ))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return os.EX_CONFIG
    except (CommandError, SetupError) as error:
        print(f"pfxhttpd: {error}", file=sys.stderr)
        return error.exit_code


def open_standard_streams() -> None:
    """Open /dev/null in the place of each standard stream that is closed.

    Otherwise the next file that is opened, such as the pid file, would get its descriptor, and the log would be written to
    that file.
    """
    for descriptor, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lower descriptors are open, so the new file gets this one (open(2)).
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115 - it stays open


if __name__ == "__main__":
    sys.exit(main())

"""The command line: which command, with which configuration."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from pfxhttpd import __version__
from pfxhttpd.cli import check, config, control, demo, query, run, status

COMMANDS = (
    run.add,
    check.add,
    config.add,
    query.add,
    status.add,
    control.add_reload,
    control.add_stop,
    control.add_cache,
    demo.add,
)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="pfxhttpd", description="Answers Postfix's socketmap, policy and SASL questions by asking an HTTP API."
    )
    made.add_argument("--config", metavar="PATH", help="the configuration file; searched for when missing")
    made.add_argument("--format", choices=("yaml", "toml", "json"), help="its format; else its name tells")
    made.add_argument("--version", action="version", version=f"pfxhttpd {__version__}")
    commands = made.add_subparsers(metavar="COMMAND", title="commands (none means run)")
    for add in COMMANDS:
        add(commands)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code, from sysexits.h."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        options = parser().parse_args(arguments)
        if not hasattr(options, "run"):
            options = parser().parse_args([*arguments, "run"])
    except SystemExit as end:
        return os.EX_USAGE if end.code == 2 else int(end.code or 0)
    try:
        return options.run(options, os.environ)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return os.EX_IOERR
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())

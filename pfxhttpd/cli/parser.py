"""The arguments of the command line: which commands there are, their options, and their help.

A command is named here as `module:function` and imported only when it runs, so that `status` and `query`, which are
run often, do not import the server.
"""

from __future__ import annotations

import argparse
import re
from typing import Any, NoReturn

from pfxhttpd import __version__
from pfxhttpd.config.values import seconds
from pfxhttpd.wire.sanitize import one_line

DEMO_PORT = 23450
"""The first port of the demo unless another is given."""

_FILE_AS_ARGUMENT = re.compile(r"(unrecognized arguments|invalid choice): .*\.(ya?ml|toml|json)\b")
"""A usage error about the name of a configuration file."""

_LONGEST_ERROR = 500
"""Characters of a usage error, which quotes what was typed."""

_QUERY_USAGE = """\
pfxhttpd query [--explain | [--address ADDRESS] [--timeout DURATION]] MAP KEY
       pfxhttpd query [--explain | [--address ADDRESS] [--timeout DURATION]] --policy NAME ATTRIBUTE=VALUE...
       pfxhttpd query [--explain | [--address ADDRESS] [--timeout DURATION]] --sasl NAME [--mechanism MECHANISM] USER"""


class _Parser(argparse.ArgumentParser):
    """A parser, also of each command, whose errors show nothing of the arguments that a terminal would interpret."""

    def error(self, message: str) -> NoReturn:
        message = one_line(message, _LONGEST_ERROR)
        if _FILE_AS_ARGUMENT.search(message):
            message += " (a configuration file is named with --config)"
        super().error(message)


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line. Its result has the attribute `command`, unless no command was given."""
    top = _Parser(
        prog="pfxhttpd", description="Answers Postfix's socketmap, policy and SASL questions by asking an HTTP API."
    )
    _add_configuration(top, default=None)
    top.add_argument("--version", action="version", version=f"pfxhttpd {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", title="commands (run is the default)")
    _add_run(commands)
    _add_check(commands)
    _add_config(commands)
    _add_query(commands)
    _add_status(commands)
    _add_reload(commands)
    _add_stop(commands)
    _add_cache(commands)
    _add_demo(commands)
    return top


def _add_configuration(parser: argparse.ArgumentParser, default: str | None = argparse.SUPPRESS) -> None:
    """The options that name the configuration file. They can be given before the command and after it."""
    parser.add_argument(
        "--config", metavar="PATH", default=default, help="the configuration file; searched for when missing"
    )
    parser.add_argument(
        "--format",
        choices=("yaml", "toml", "json"),
        default=default,
        help="its format; default: what the file's extension says",
    )


def _add_control(parser: argparse.ArgumentParser) -> None:
    """The option that names the running server, for the commands that need one."""
    parser.add_argument(
        "--control",
        metavar="PATH",
        help="the runtime directory, the control socket or the pid file of the running server;"
        " default: the server of the configuration file, else one in the usual places",
    )


def _add_run(commands: Any) -> None:
    command = commands.add_parser("run", help="serve in the foreground (the default)")
    command.add_argument(
        "--daemon", action="store_true", help="go into the background; return when the server is ready"
    )
    command.add_argument("--pidfile", metavar="PATH", help="write the master's process id to this file")
    _add_configuration(command)
    command.set_defaults(command="pfxhttpd.cli.run:run")


def _add_check(commands: Any) -> None:
    command = commands.add_parser(
        "check",
        help="check the configuration",
        description="Reads the configuration, and prints everything for which the server would refuse to start, and what"
        " is legal but unwise, one per line. Exit code: 0 if there is no error, else 78.",
    )
    command.add_argument("--strict", action="store_true", help="exit with 78 also if there are only warnings")
    command.add_argument(
        "--connect",
        action="store_true",
        help="also connect to each backend and OpenID provider; exit with 69 if one cannot be reached",
    )
    command.add_argument(
        "--migrate", action="store_true", help="also print what behaves differently than in the Go program pfxhttp"
    )
    _add_configuration(command)
    command.set_defaults(command="pfxhttpd.cli.check:run")


def _add_config(commands: Any) -> None:
    command = commands.add_parser(
        "config",
        help="print the effective configuration, secrets hidden",
        description="Prints the configuration as YAML, with defaults merged and the environment applied."
        " Secrets are shown as <redacted>. Exit code: 0, or 78 when the configuration is not valid.",
    )
    _add_configuration(command)
    command.set_defaults(command="pfxhttpd.cli.config:run")


def _add_query(commands: Any) -> None:
    command = commands.add_parser(
        "query",
        help="ask a running server, as Postfix does",
        usage=_QUERY_USAGE,
        description="Asks a running server, as Postfix does, and prints the reply."
        " Exit code: 0 found, 1 not found, 75 temporary error, 69 permanent error.",
    )
    kinds = command.add_mutually_exclusive_group()
    kinds.add_argument("--policy", metavar="NAME", help="ask this policy service")
    kinds.add_argument(
        "--sasl",
        metavar="NAME",
        help="log USER in at this SASL service; the password or token comes from a prompt or standard input",
    )
    command.add_argument(
        "--mechanism",
        type=str.upper,
        choices=("PLAIN", "XOAUTH2", "OAUTHBEARER"),
        help="the SASL mechanism: PLAIN (the default) for a password, XOAUTH2 or OAUTHBEARER for a token",
    )
    command.add_argument(
        "--address", metavar="ADDRESS", help="unix:/path or inet:host:port; default: the listener in the configuration"
    )
    command.add_argument(
        "--timeout",
        type=_timeout,
        metavar="DURATION",
        help="how long to wait for the reply (default: as long as Postfix does)",
    )
    command.add_argument(
        "--explain",
        action="store_true",
        help="ask no server, but send the request to the backend from here; show it, the response, the rule that makes the"
        " reply, and the times",
    )
    command.add_argument("arguments", nargs="*", metavar="ARGUMENT", help="MAP KEY, or ATTRIBUTE=VALUE..., or USER")
    _add_configuration(command)
    command.set_defaults(command="pfxhttpd.cli.query:run")


def _add_status(commands: Any) -> None:
    command = commands.add_parser(
        "status",
        help="print what is wrong with a running server, and what it is doing",
        description="Prints what is wrong with a running server, if anything is, and what it is doing."
        " Exit code: 0 if all is well, 1 if something is wrong, 69 if no server is running.",
    )
    command.add_argument("--json", action="store_true", help="print a JSON object")
    command.add_argument("--watch", action="store_true", help="print it again every 2 seconds, in place on a terminal")
    _add_control(command)
    _add_configuration(command)
    command.set_defaults(command="pfxhttpd.cli.status:run")


def _add_reload(commands: Any) -> None:
    command = commands.add_parser("reload", help="make a running server read its configuration again, and wait")
    _add_control(command)
    _add_configuration(command)
    command.set_defaults(command="pfxhttpd.cli.control:reload")


def _add_stop(commands: Any) -> None:
    command = commands.add_parser("stop", help="stop a running server, and wait until it has ended")
    _add_control(command)
    _add_configuration(command)
    command.set_defaults(command="pfxhttpd.cli.control:stop")


def _add_cache(commands: Any) -> None:
    command = commands.add_parser("cache", help="remove responses from the cache of a running server")
    actions = command.add_subparsers(metavar="ACTION", required=True)
    purge = actions.add_parser("purge", help="remove one key of a map, all of an entry, or everything")
    purge.add_argument("name", nargs="?", metavar="NAME", help="the socket map or policy service")
    purge.add_argument("key", nargs="?", metavar="KEY", help="the key of the socket map")
    _add_control(purge)
    _add_configuration(purge)
    purge.set_defaults(command="pfxhttpd.cli.control:purge")


def _add_demo(commands: Any) -> None:
    command = commands.add_parser(
        "demo",
        help="try it: run a small HTTP API and a server that asks it",
        description="Runs a small HTTP API and a server that asks it, on loopback, until Ctrl-C.",
    )
    command.add_argument(
        "--port",
        type=_first_of_four_ports,
        default=DEMO_PORT,
        metavar="BASE",
        help=f"the first of four consecutive ports to listen on (default {DEMO_PORT})",
    )
    _add_configuration(command)
    command.set_defaults(command="pfxhttpd.cli.demo:run")


def _timeout(text: str) -> float:
    try:
        timeout = seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not timeout:
        raise argparse.ArgumentTypeError("must be longer than zero")
    return timeout


def _first_of_four_ports(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= 65532):
        raise argparse.ArgumentTypeError(f"{text!r} is no port number from 1 to 65532")
    return int(text)

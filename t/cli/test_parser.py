"""The arguments of the command line, and that a command imports no more than it needs."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pfxhttpd.__main__ import main
from pfxhttpd.cli.parser import parser

TREE = Path(__file__).resolve().parents[2]

HEAVY = {"requests", "urllib3", "httptools", "jsonschema", "multiprocessing", "ssl", "pfxhttpd.service", "tomllib"}
"""What only a server, or a complete validation, needs."""


def commands(top: argparse.ArgumentParser) -> Iterator[str]:
    """The `module:function` of every command."""
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from commands(command)
    if "command" in top._defaults:
        yield top._defaults["command"]


def test_every_command_can_be_imported() -> None:
    found = list(commands(parser()))
    assert len(found) == 9
    for command in found:
        module, _, function = command.partition(":")
        assert callable(getattr(importlib.import_module(module), function)), command


@pytest.mark.parametrize("duration", ["0", "0s", "0ms"])
def test_a_timeout_of_zero_is_refused(duration: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["query", "--timeout", duration, "map", "key"]) == 64
    assert capsys.readouterr().err.endswith("argument --timeout: must be longer than zero\n")


@pytest.mark.parametrize("port", ["0", "65533", "x", "-1", "\u0663"])
def test_four_ports_have_to_fit(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", f"--port={port}"]) == 64
    assert "is no port number from 1 to 65532" in capsys.readouterr().err


@pytest.mark.parametrize("line", [["check", "pfxhttp.yml"], ["-c", "/etc/pfxhttp.toml", "check"], ["etc/pfxhttp.yaml"]])
def test_a_file_that_is_no_command_is_explained(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line) == 64
    assert "(a configuration file is named with --config)" in capsys.readouterr().err


def test_the_completions_are_up_to_date() -> None:
    """Run contrib/completion/generate.py after a change of a command or an option."""
    assert subprocess.run([sys.executable, TREE / "contrib/completion/generate.py", "--check"]).returncode == 0


@pytest.mark.unmeasured
@pytest.mark.parametrize("module", ["pfxhttpd.__main__", "pfxhttpd.cli.status", "pfxhttpd.cli.query"])
def test_short_commands_do_not_import_the_server(module: str) -> None:
    program = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert module in loaded
    assert not loaded & HEAVY

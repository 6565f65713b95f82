"""What the tools know to be mistakes: ruff and mypy in Python, shellcheck in the scripts. None is found."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from kit.needs import needs, program

TREE = Path(__file__).resolve().parents[1]
SCRIPTS = ("contrib", "init", "t", ".ci")
SHELL = re.compile(rb"#!\s*/\S*/(ba|da)?sh( .*)?|#!/usr/bin/env (ba)?sh|#!/sbin/openrc-run")


def check(*command: str) -> None:
    """Fails with the command's output unless it has none and exits with 0."""
    done = subprocess.run(command, cwd=TREE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode or done.stdout:
        pytest.fail(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}", pytrace=False)


def test_ruff_finds_nothing() -> None:
    needs("ruff")
    check(program("ruff") or "", "check", "--quiet", "--no-cache", "--output-format=concise", ".")


def test_the_format_is_ruffs() -> None:
    needs("ruff")
    check(program("ruff") or "", "format", "--quiet", "--no-cache", "--check", ".")


@pytest.mark.timeout(300)
def test_mypy_finds_nothing() -> None:
    check(sys.executable, "-m", "mypy", "--no-error-summary")


def scripts() -> list[str]:
    """Every shell script of the tree."""
    found = []
    for directory in SCRIPTS:
        for path in (TREE / directory).rglob("*"):
            if ".env" in path.parts or not path.is_file():
                continue
            with path.open("rb") as file:
                if SHELL.fullmatch(file.readline(64).rstrip(b"\n")):
                    found.append(str(path.relative_to(TREE)))
    return sorted(found)


def test_there_are_scripts() -> None:
    assert {"t/run", ".ci/run", "contrib/quickstart", "init/sysv/pfxhttpd", "init/openrc/pfxhttpd"} <= set(scripts())


@pytest.mark.parametrize("script", scripts())
def test_shellcheck_finds_nothing(script: str) -> None:
    needs("shellcheck")
    assert os.access(TREE / script, os.X_OK)
    # OpenRC's scripts are sh with variables that its runner reads.
    options = ["--shell=sh", "--exclude=SC2034"] if "openrc" in script else []
    check(program("shellcheck") or "", *options, script)

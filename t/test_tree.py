"""What is published names nothing of the machine that it was written on."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[1]
PRIVATE = re.compile(r"/(home|Users|root|work|workspace)/[\w.]|/tmp/[\w.]+/|file://")
"""Where people and their tools keep what is theirs. `/tmp/NAME` itself is where any program may put a file."""


def published() -> list[Path]:
    """The files of the tree that git would publish, or all but the hidden ones where there is no repository."""
    command = ["git", "-C", str(TREE), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True)
    if listed.returncode == 0:
        return [TREE / name for name in listed.stdout.split("\0") if name and (TREE / name).is_file()]
    return [path for path in TREE.rglob("*") if path.is_file() and "/." not in str(path.relative_to(TREE))]


def paths_of_a_machine(text: str) -> list[str]:
    """The lines that name one."""
    own = [path for path in (str(TREE), os.path.expanduser("~")) if path.count("/") > 1]
    return [line for line in text.splitlines() if PRIVATE.search(line) or any(path in line for path in own)]


def test_no_file_names_a_path_of_a_machine() -> None:
    found = {}
    for path in published():
        if path != Path(__file__).resolve() and (lines := paths_of_a_machine(path.read_text(errors="replace"))):
            found[str(path.relative_to(TREE))] = lines
    assert not found


@pytest.mark.parametrize(
    "line",
    ["see /home/ann/notes", "/work/ann/notes", "cp a /root/.netrc", "python /tmp/venv/bin/python", f"cd {TREE}"],
)
def test_such_paths_are_recognized(line: str) -> None:
    assert paths_of_a_machine(f"before\n{line}\nafter") == [line]


@pytest.mark.parametrize(
    "line", ["/etc/pfxhttp/pfxhttp.yml", "/tmp/another", "/opt/pfxhttpd/bin", "the work/life of it"]
)
def test_other_paths_are_not(line: str) -> None:
    assert paths_of_a_machine(line) == []

"""The floors of the house: no file imports from a floor above its own, and the ground floors stay free of the world."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "pfxhttpd"
FLOORS = ("wire", "config", "rules", "io", "service", "process", "demo", "cli")
WITHOUT_SIBLINGS = {"io"}
SHARED = ["SetupError"], ["directory"]
"""What all modules of io/ may import from it: their error, and the safe way to make files in directories."""
PURE = {"wire", "rules"}
WORLDLY = {
    "socket",
    "os",
    "time",
    "logging",
    "select",
    "selectors",
    "threading",
    "multiprocessing",
    "subprocess",
    "random",
}
THIRD_PARTY = {
    "config": {"yaml", "jsonschema"},
    "io": {
        "requests",
        "urllib3",
        "httptools",
        "jose",
        "setproctitle",
        "cryptography",
        "certifi",
        "idna",
        "prometheus_client",
        "opentelemetry",
    },
    "service": {"requests", "setproctitle", "urllib3"},
    "process": {"daemon", "requests", "setproctitle"},
    "cli": {"yaml"},
}
"""Floor -> what it may import besides the standard library and the package itself."""


def imported_modules(source: str, module: str) -> Iterator[tuple[int, str]]:
    """Line and absolute name of each module that the source imports, wherever in the file; `from a import b` gives `a.b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*parents, *filter(None, [node.module])])
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def offences(source: str, module: str) -> list[str]:
    """What the imports of one file break, a line each. `module` is the file's absolute name."""
    found = []
    floor = module.split(".")[1]
    for line, name in imported_modules(source, module):
        parts = name.split(".")
        if parts[0] != "pfxhttpd":
            if parts[0] not in sys.stdlib_module_names and parts[0] not in THIRD_PARTY.get(floor, ()):
                found.append(f"{module}:{line}: {name}: third party")
            if floor in PURE and parts[0] in WORLDLY:
                found.append(f"{module}:{line}: {name}: the outside world")
        elif len(parts) > 1 and parts[1] in FLOORS and floor in FLOORS:
            if FLOORS.index(parts[1]) > FLOORS.index(floor):
                found.append(f"{module}:{line}: {name}: upstairs")
            sibling = parts[2:3] != module.split(".")[2:3] and parts[2:3] not in SHARED
            if parts[1] == floor and floor in WITHOUT_SIBLINGS and sibling:
                found.append(f"{module}:{line}: {name}: a sibling")
        elif parts[1:2] == ["__main__"]:
            found.append(f"{module}:{line}: {name}: the entry point")
    return found


def files() -> dict[str, Path]:
    """Each source file of the package by its absolute module name."""
    return {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))
    }


@pytest.mark.parametrize("module", files())
def test_no_file_breaks_the_floors(module: str) -> None:
    assert offences(files()[module].read_text(encoding="utf-8"), module) == []


def test_every_floor_has_files() -> None:
    assert {module.split(".")[1] for module in files() if module.count(".") > 1} >= {"wire", "config", "rules"}


def test_no_directory_is_outside_the_floors() -> None:
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} <= set(FLOORS)


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("pfxhttpd.wire.policy", "from pfxhttpd.config import settings", "upstairs"),
        ("pfxhttpd.wire.policy", "import pfxhttpd.process.worker", "upstairs"),
        ("pfxhttpd.wire.policy", "from ..rules import value", "upstairs"),
        ("pfxhttpd.wire.policy", "def late():\n    from pfxhttpd import cli", "upstairs"),
        ("pfxhttpd.wire.policy", "import socket", "the outside world"),
        ("pfxhttpd.rules.value", "from time import monotonic", "the outside world"),
        ("pfxhttpd.rules.value", "import os.path", "the outside world"),
        ("pfxhttpd.rules.value", "import requests", "third party"),
        ("pfxhttpd.cli.run", "import tomlkit", "third party"),
        ("pfxhttpd.io.cache.client", "from pfxhttpd.io import log", "a sibling"),
        ("pfxhttpd.io.transport.dial", "from pfxhttpd.io.log import Logger", "a sibling"),
        ("pfxhttpd.process.master", "from pfxhttpd.demo import backend", "upstairs"),
        ("pfxhttpd.io.systemd", "from . import log", "a sibling"),
        ("pfxhttpd.io.systemd", "from .log import Logger", "a sibling"),
        ("pfxhttpd.cli.run", "from pfxhttpd import __main__", "the entry point"),
    ],
)
def test_an_offence_is_noticed(module: str, source: str, complaint: str) -> None:
    assert [line.rpartition(": ")[2] for line in offences(source, module)] == [complaint]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pfxhttpd.wire.socketmap", "from pfxhttpd.wire import netstring\nfrom . import sanitize"),
        (
            "pfxhttpd.rules.verdict",
            "import json\nfrom pfxhttpd.config.settings import Entry\nfrom pfxhttpd import __version__",
        ),
        ("pfxhttpd.io.transport.adapter", "import requests, httptools, socket\nfrom pfxhttpd.io.transport import dial"),
        ("pfxhttpd.process.worker", "from pfxhttpd.io import control\nfrom pfxhttpd.process import parking"),
    ],
)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    assert offences(source, module) == []

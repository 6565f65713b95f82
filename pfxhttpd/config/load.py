"""Loading a configuration: from a file to frozen settings, or to the list of everything that is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from pfxhttpd.config import build, config_file, defaults, schema
from pfxhttpd.config.checks import listener_problems, merged_problems, server_problems, written_problems
from pfxhttpd.config.errors import ConfigError, Problem
from pfxhttpd.config.node import Node
from pfxhttpd.config.observability import observability_problems
from pfxhttpd.config.secret_files import SecretFiles
from pfxhttpd.config.settings import SECTIONS, Entry, Settings
from pfxhttpd.config.validate import validate

Check = Callable[[Entry], Iterable[tuple[str, str]]]
"""A check of an entry from a package above this one: yields pairs of a key and what is wrong with its value. A key in a
nested block is a dotted path."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A valid configuration.

    `document` is the same as plain values, with the defaults merged and the environment applied. It holds the secrets
    that are in the configuration itself, but not the contents of the files that the configuration names. `tree` is the
    document with the locations of its values, and `files` reads the files that it names.
    """

    settings: Settings
    document: Mapping[str, Any]
    tree: Node
    files: SecretFiles


def load(path: str, format: str | None, environ: Mapping[str, str], checks: Sequence[Check] = ()) -> Loaded:
    """Read, merge and check a configuration file. Raises `ConfigError` with every mistake found."""
    return load_text(config_file.read(path), path, config_file.chosen_format(path, format), environ, checks)


def load_text(text: str, file: str, format: str, environ: Mapping[str, str], checks: Sequence[Check] = ()) -> Loaded:
    """The same for a text. `file` names it in messages, and relative paths start from its directory."""
    root, problems = config_file.tree(text, file, format, environ)
    problems += validate(root)
    problems += listener_problems(root)
    problems += server_problems(root)
    problems += observability_problems(root)
    problems += written_problems(root)
    defaults.inherit(root)
    for kind, _, node in _entries(root):
        problems += merged_problems(kind, node)
    defaults.fill(root, schema.whole())
    server = root.value.setdefault("server", root.child("server", {}))
    defaults.fill(server, schema.at(("server",)) or {})
    defaults.derive(root, len(os.sched_getaffinity(0)))

    reported = {_location_and_path(problem) for problem in problems}
    secrets = SecretFiles(os.path.dirname(file), environ)
    built: dict[str, dict[str, Entry]] = {kind: {} for kind in SECTIONS}
    for kind, name, node in _entries(root):
        entry = built[kind][name] = build.entry(kind, name, node, secrets)
        found = (problem for check in checks for problem in _check_problems(check, entry, node))
        # A value that is already known to be wrong is not reported a second time in other words.
        problems += [problem for problem in found if _location_and_path(problem) not in reported]
    observability = build.observability(server.value["observability"], secrets)
    problems += secrets.problems
    if problems:
        raise ConfigError(problems)
    return Loaded(Settings(build.server(server, observability), built, file), root.plain(), root, secrets)


def _entries(root: Node) -> Iterable[tuple[str, str, Node]]:
    """Every entry with its kind and its name."""
    for kind, section in SECTIONS.items():
        node = root.get(section)
        for name, entry in node.children() if node else ():
            yield kind, str(name), entry


def _check_problems(check: Check, entry: Entry, node: Node) -> Iterable[Problem]:
    for key, message in check(entry):
        yield _node_at(node, key).problem(message)


def _node_at(node: Node, path: str) -> Node:
    """The node at a dotted path; where there is none, a new one that is reported at the last one that exists."""
    for key in path.split("."):
        children = dict(node.children())
        step = int(key) if key.isdigit() else key
        node = children.get(step) or node.child(step, None)
    return node


def _location_and_path(problem: Problem) -> tuple[Any, ...]:
    return astuple(problem)[:-1]

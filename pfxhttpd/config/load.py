"""From a file to settings, or to the list of everything that is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from pfxhttpd.config import build, defaults, environment, schema, source
from pfxhttpd.config.checks import listener_problems, merged_problems, server_problems, written_problems
from pfxhttpd.config.errors import ConfigError, Problem
from pfxhttpd.config.node import Node
from pfxhttpd.config.secret_files import SecretFiles
from pfxhttpd.config.settings import SECTIONS, Entry, Settings
from pfxhttpd.config.validate import coerce, validate

Check = Callable[[Entry], Iterable[tuple[str, str]]]
"""A look at an entry from a floor above: yields (key, what is wrong with its value)."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A valid configuration. `document` is the same as plain values, defaults merged and environment applied; what it
    names by a file it does not contain, what it contains as a secret is not hidden."""

    settings: Settings
    document: Mapping[str, Any]


def load(path: str, format: str | None, environ: Mapping[str, str], checks: Sequence[Check] = ()) -> Loaded:
    """Read, merge and check a configuration file. Raises Invalid with every mistake found."""
    return load_text(source.read(path), path, source.chosen_format(path, format), environ, checks)


def load_text(text: str, file: str, format: str, environ: Mapping[str, str], checks: Sequence[Check] = ()) -> Loaded:
    """The same for a text. `file` names it in messages, and relative paths start from its directory."""
    root, problems = source.parse(text, file, format)
    problems += environment.override(root, environ)
    problems += source.unusable_texts(root)
    coerce(root, schema.whole())
    problems += validate(root)
    problems += listener_problems(root)
    problems += server_problems(root)
    problems += written_problems(root)
    defaults.inherit(root)
    problems += _lacks(root)
    defaults.fill(root, schema.whole())
    server = root.value.setdefault("server", root.child("server", {}))
    defaults.fill(server, schema.at(("server",)) or {})
    defaults.derive(root, len(os.sched_getaffinity(0)))

    told = {problem[:-1] for problem in map(astuple, problems)}
    secrets = SecretFiles(os.path.dirname(file), environ)
    built: dict[str, dict[str, Entry]] = {}
    for kind, section in SECTIONS.items():
        nodes = root.value[section].value
        built[kind] = {name: build.entry(kind, name, node, secrets) for name, node in nodes.items()}
        for name, node in nodes.items():
            # What is known to be wrong already is not told again in other words.
            problems += [
                problem for problem in _checked(node, built[kind][name], checks) if astuple(problem)[:-1] not in told
            ]
    problems += secrets.problems
    if problems:
        raise ConfigError(problems)
    return Loaded(Settings(build.server(server), built, file), root.plain())


def _lacks(root: Node) -> list[Problem]:
    found: list[Problem] = []
    for kind, section in SECTIONS.items():
        node = root.get(section)
        for _, entry in node.children() if node else ():
            found += merged_problems(kind, entry)
    return found


def _checked(node: Node, entry: Entry, checks: Sequence[Check]) -> Iterable[Problem]:
    for check in checks:
        for key, message in check(entry):
            at = node.get(key)
            yield (at or node.child(key, None)).wrong(message)

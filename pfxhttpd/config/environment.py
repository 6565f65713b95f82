"""Overrides from the environment: PFXHTTP_SERVER_LOGGING_LEVEL=debug sets server.logging.level.

The names are made from the schema and from the names of the entries that the file has, so every single value has a
variable. In a name of a variable, `_` stands for the dots of the path and for every character of an entry's name that is
neither a letter nor a digit. Two values may then have the same variable; it is an error to use it.
As in the original, a variable with an empty value counts as not set.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pfxhttpd.config import schema
from pfxhttpd.config.errors import Location, Problem
from pfxhttpd.config.node import Node, Path, dotted
from pfxhttpd.config.schema import did_you_mean
from pfxhttpd.config.settings import SECTIONS

PREFIX = "PFXHTTP_"

_SERVER = "server"
_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?")
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9]")

Variables = Mapping[str, tuple[Path, ...]]
"""Each variable with the paths of the values that it may mean."""


@functools.cache
def server_variables() -> Variables:
    """The variables of the values in `server`."""
    return _variables([(_SERVER,)])


def entry_variables(section: str, names: Iterable[str]) -> Variables:
    """The variables of the values in the entries of a section, which have these names, and in its `defaults`."""
    return _variables([(section, name) for name in dict.fromkeys(["defaults", *names])])


def _variables(blocks: Iterable[Path]) -> Variables:
    found: dict[str, tuple[Path, ...]] = {}
    for block in blocks:
        for path in _values(schema.at(block) or {}, block):
            name = _folded("_".join((PREFIX.rstrip("_"), *map(str, path))).upper())
            found[name] = (*found.get(name, ()), path)
    return found


def _values(part: schema.Subschema, path: Path) -> Iterator[Path]:
    """The paths of all values below that are not blocks."""
    for key, below in schema.properties(part):
        if "properties" in below:
            yield from _values(below, (*path, key))
        else:
            yield (*path, key)


def _folded(name: str) -> str:
    return _NOT_IN_A_NAME.sub("_", name)


def override(root: Node, environ: Mapping[str, str]) -> list[Problem]:
    """Put the values of the variables into the tree. Returns a problem for each variable that has none to set."""
    problems: list[Problem] = []
    known: dict[str, Variables] = {}
    for name in sorted(environ):
        section = _section(name)
        if section is None or not environ[name]:
            continue
        if section not in known:
            node = root.get(section)
            names = node.value if node is not None and isinstance(node.value, dict) else ()
            known[section] = server_variables() if section == _SERVER else entry_variables(section, names)
        paths = known[section].get(_folded(name), ())
        message = _mistake(name, paths, known[section])
        if message:
            problems.append(Problem("environment", 0, 0, name if name.isprintable() else ascii(name), message))
        else:
            _set(root, paths[0], name, environ[name])
    return problems


def _section(name: str) -> str | None:
    """The section that a variable is for; None for a variable of something else."""
    for section in (_SERVER, *SECTIONS.values()):
        if name.startswith(f"{PREFIX}{section.upper()}_"):
            return section
    return None


def _mistake(name: str, paths: tuple[Path, ...], known: Variables) -> str:
    if not paths:
        return f"no such setting{did_you_mean(name, known)}"
    if len(paths) > 1:
        return f"is ambiguous: it can mean {' or '.join(map(dotted, paths))}"
    types = schema.types(schema.at(paths[0]) or {})
    if not set(types) - {"array", "object"}:
        what = "a list" if "array" in types else "a mapping"
        return f"{dotted(paths[0])} is {what}, which cannot be set by a variable"
    return ""


def _set(root: Node, path: Path, name: str, text: str) -> None:
    location = Location(f"environment: {name}")
    node = root
    for depth, key in enumerate(path[:-1], 1):
        if not isinstance(node.value, dict):
            return  # reported as not a mapping by the schema's check
        below = node.value.get(key)
        if below is None or below.value is None:
            below = node.value[key] = Node({}, path[:depth], node.location, node.key_location)
        node = below
    if isinstance(node.value, dict):
        part = schema.at(path)
        assert part is not None
        node.value[path[-1]] = Node(_typed(text, part), path, location, location, text)


def _typed(text: str, part: schema.Subschema) -> Any:
    """The text as the type that the schema wants, else unchanged: the schema's check then reports it."""
    types = schema.types(part)
    if "boolean" in types:
        return _BOOLEANS.get(text.strip().lower(), text)
    if "integer" in types and _INTEGER.fullmatch(text.strip()):
        return int(text.strip())  # int() itself does not take all blanks
    if types == ("number",) and _NUMBER.fullmatch(text.strip()):
        return float(text.strip())
    return text

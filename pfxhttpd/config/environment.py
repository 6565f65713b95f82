"""Overrides from the environment: PFXHTTP_SERVER_LOGGING_LEVEL=debug sets server.logging.level.

The names are made from the schema, so every scalar under `server` has a variable and no name is ambiguous.
As in the original, a variable with an empty value counts as not set.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

from pfxhttpd.config import schema
from pfxhttpd.config.errors import Location, Problem
from pfxhttpd.config.node import Node, Path
from pfxhttpd.config.schema import did_you_mean

PREFIX = "PFXHTTP_SERVER_"

_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?")


@functools.cache
def variables() -> dict[str, Path]:
    """Every known variable with the path of the value that it sets."""
    found: dict[str, Path] = {}

    def walk(part: schema.Subschema, path: Path) -> None:
        for key, below in schema.properties(part):
            if "properties" in below:
                walk(below, (*path, key))
            elif "array" not in schema.types(below):
                found["_".join(("PFXHTTP", *map(str, path), key)).upper()] = (*path, key)

    server = schema.at(("server",))
    assert server is not None
    walk(server, ("server",))
    return found


def override(root: Node, environ: Mapping[str, str]) -> list[Problem]:
    """Put the values of the variables into the tree. Returns a problem for each unknown variable."""
    problems: list[Problem] = []
    for name in sorted(environ):
        if not name.startswith(PREFIX) or not environ[name]:
            continue
        path = variables().get(name)
        if path is None:
            message = f"no such setting{did_you_mean(name, variables())}"
            problems.append(Problem("environment", 0, 0, name if name.isprintable() else ascii(name), message))
        else:
            _set(root, path, name, environ[name])
    return problems


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

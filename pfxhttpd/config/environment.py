"""Overrides from the environment: PFXHTTP_SERVER_LOGGING_LEVEL=debug sets server.logging.level.

The names are made from the schema, so any single value under `server` has one and none is ambiguous.
As in the original, a variable that is set to nothing counts as not set.
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

_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")


@functools.cache
def variables() -> dict[str, Path]:
    """Every variable that is known, with the path that it sets."""
    found: dict[str, Path] = {}

    def walk(part: schema.Subschema, path: Path) -> None:
        for key, below in schema.properties(part):
            if "object" in schema.types(below):
                walk(below, (*path, key))
            elif "array" not in schema.types(below):
                found["_".join(("PFXHTTP", *map(str, path), key)).upper()] = (*path, key)

    server = schema.at(("server",))
    assert server is not None
    walk(server, ("server",))
    return found


def override(root: Node, environ: Mapping[str, str]) -> list[Problem]:
    """Put the values of the variables into the tree. Returns the variables that nothing is known about."""
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
    place = Location(f"environment: {name}")
    node = root
    for depth, key in enumerate(path[:-1], 1):
        if not isinstance(node.value, dict):
            return  # reported as not a mapping anyway
        below = node.value.get(key)
        if below is None or below.value is None:
            below = node.value[key] = Node({}, path[:depth], node.at, node.key)
        node = below
    if isinstance(node.value, dict):
        part = schema.at(path)
        assert part is not None
        node.value[path[-1]] = Node(_typed(text, part), path, place, place, text)


def _typed(text: str, part: schema.Subschema) -> Any:
    """The text as the type that the schema wants, else as it is: then the schema's check reports it."""
    kinds = schema.types(part)
    if "boolean" in kinds:
        return _WORDS.get(text.strip().lower(), text)
    if "integer" in kinds and _WHOLE.fullmatch(text.strip()):
        return int(text)
    return text

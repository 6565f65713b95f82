"""The JSON Schema of a configuration: which keys, types, bounds and defaults there are.

schema.json is the only place that declares them; this module reads it and finds what it says about a key.
"""

from __future__ import annotations

import difflib
import functools
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

from pfxhttpd.config.node import Path

Subschema = dict[str, Any]
"""One (sub)schema, with its references resolved."""


@functools.cache
def whole() -> Subschema:
    """The schema of a whole configuration. Every call returns the same object, which must not be changed."""
    # Not by importlib.resources, whose import alone takes a tenth of the time in which `status` runs.
    with open(os.path.join(os.path.dirname(__file__), "schema.json"), "rb") as file:
        document: Subschema = json.load(file)
    return document


def resolved(part: Subschema) -> Subschema:
    """The part with its reference followed. Keywords beside the reference take precedence."""
    while "$ref" in part:
        name = part["$ref"].removeprefix("#/$defs/")
        own = {keyword: value for keyword, value in part.items() if keyword != "$ref"}
        part = {**whole()["$defs"][name], **own}
    return part


def child(part: Subschema, key: str | int) -> Subschema | None:
    """The schema of the value under `key`, or None when the key is not allowed."""
    if isinstance(key, int):
        return resolved(part["items"]) if "items" in part else None
    if key in part.get("properties", {}):
        return resolved(part["properties"][key])
    rest = part.get("additionalProperties")
    return resolved(rest) if isinstance(rest, dict) else None


def at(path: Path) -> Subschema | None:
    """The schema of the value at this path, or None when the path is not allowed."""
    part: Subschema | None = whole()
    for key in path:
        if part is None:
            return None
        part = child(part, key)
    return part


def properties(part: Subschema) -> Iterator[tuple[str, Subschema]]:
    """The declared keys of a mapping, each with the schema of its value."""
    for key in part.get("properties", {}):
        yield key, resolved(part["properties"][key])


def types(part: Subschema) -> tuple[str, ...]:
    """The JSON types that are allowed. Empty when all of them are."""
    declared = part.get("type", ())
    return (declared,) if isinstance(declared, str) else tuple(declared)


@functools.cache
def key_locations() -> dict[str, tuple[str, ...]]:
    """Each key with the blocks that have it, as an administrator writes them: `timeout` in `server.http_client`, ..."""
    found: dict[str, dict[str, None]] = {}

    def walk(part: Subschema, block: str) -> None:
        for key, below in properties(part):
            found.setdefault(key, {})[block] = None
            walk(below, f"{block}.{key}")
            if "items" in below:
                walk(resolved(below["items"]), f"{block}.{key}[]")
        rest = part.get("additionalProperties")
        if isinstance(rest, dict):
            walk(resolved(rest), f"{block}.<name>")

    for section, part in properties(whole()):
        if isinstance(part.get("additionalProperties"), dict):
            walk(resolved(part["additionalProperties"]), f"{section}.<name>")
        else:
            walk(part, section)
    for section, _ in properties(whole()):
        found.setdefault(section, {})["the top level"] = None
    return {key: tuple(blocks) for key, blocks in found.items()}


def suggestions(name: str, known: Iterable[str], count: int = 2) -> list[str]:
    """The known names that are most similar, best first. Empty when none is similar enough."""
    originals = {_folded(other): other for other in known}
    if _folded(name) in originals:
        return [originals[_folded(name)]]
    return [originals[other] for other in difflib.get_close_matches(_folded(name[:100]), originals, count, 0.6)]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean x or y?)`, or "" when no known name is similar."""
    names = suggestions(name, known)
    return f" (did you mean {' or '.join(names)}?)" if names else ""


def _folded(name: str) -> str:
    return name.lower().replace("-", "_")

"""The schema, read: which keys, types, bounds and defaults there are. They are declared in schema.json alone."""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Iterable, Iterator
from importlib import resources
from typing import Any

from pfxhttpd.config.node import Path

Subschema = dict[str, Any]
"""One (sub)schema, with its references resolved."""


@functools.cache
def _document() -> Subschema:
    return json.loads(resources.files("pfxhttpd.config").joinpath("schema.json").read_text("utf-8"))


def whole() -> Subschema:
    """The schema of a whole configuration. To be read only."""
    return _document()


def resolved(part: Subschema) -> Subschema:
    """The part with what it refers to; its own keywords win."""
    while "$ref" in part:
        name = part["$ref"].removeprefix("#/$defs/")
        own = {keyword: value for keyword, value in part.items() if keyword != "$ref"}
        part = {**_document()["$defs"][name], **own}
    return part


def child(part: Subschema, key: str | int) -> Subschema | None:
    """What may stand under `key`, or None when nothing may."""
    if isinstance(key, int):
        return resolved(part["items"]) if "items" in part else None
    if key in part.get("properties", {}):
        return resolved(part["properties"][key])
    rest = part.get("additionalProperties")
    return resolved(rest) if isinstance(rest, dict) else None


def at(path: Path) -> Subschema | None:
    """What may stand at this path, or None."""
    part: Subschema | None = whole()
    for key in path:
        if part is None:
            return None
        part = child(part, key)
    return part


def properties(part: Subschema) -> Iterator[tuple[str, Subschema]]:
    """The declared keys of a mapping."""
    for key in part.get("properties", {}):
        yield key, resolved(part["properties"][key])


def types(part: Subschema) -> tuple[str, ...]:
    """The JSON types that are allowed, none for any."""
    declared = part.get("type", ())
    return (declared,) if isinstance(declared, str) else tuple(declared)


@functools.cache
def key_locations() -> dict[str, tuple[str, ...]]:
    """Each key with the blocks that have it, as an administrator writes them: `timeout` -> `server.http_client`, ..."""
    found: dict[str, dict[str, None]] = {}

    def walk(part: Subschema, where: str) -> None:
        for key, below in properties(part):
            if where:
                found.setdefault(key, {})[where] = None
            walk(below, f"{where}.{key}" if where else key)
            if "items" in below:
                walk(resolved(below["items"]), f"{where}.{key}[]")
        rest = part.get("additionalProperties")
        if isinstance(rest, dict):
            walk(resolved(rest), f"{where}.<name>")

    for section, part in properties(whole()):
        if isinstance(part.get("additionalProperties"), dict):
            walk(resolved(part["additionalProperties"]), f"{section}.<name>")
        else:
            walk(part, section)
    for section, _ in properties(whole()):
        found.setdefault(section, {})["the top level"] = None
    return {key: tuple(places) for key, places in found.items()}


def _folded(word: str) -> str:
    return word.lower().replace("-", "_")


def suggestions(word: str, known: Iterable[str], count: int = 2) -> list[str]:
    """The closest of the known names, best first; none when nothing is near."""
    names = {_folded(name): name for name in known}
    if _folded(word) in names:
        return [names[_folded(word)]]
    return [names[name] for name in difflib.get_close_matches(_folded(word[:100]), names, count, 0.6)]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean x or y?)`, or "" when nothing is near."""
    names = suggestions(word, known)
    return f" (did you mean {' or '.join(names)}?)" if names else ""

"""The schema, read: what may stand where. Keys, types, bounds and defaults are declared in schema.json alone."""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any, Iterator

from pfxhttpd.config.node import Path

Part = dict[str, Any]
"""One (sub)schema, with its references resolved."""


@functools.cache
def _document() -> Part:
    return json.loads(resources.files("pfxhttpd.config").joinpath("schema.json").read_text("utf-8"))


def whole() -> Part:
    """The schema of a whole configuration. To be read only."""
    return _document()


def resolved(part: Part) -> Part:
    """The part with what it refers to; its own keywords win."""
    while "$ref" in part:
        name = part["$ref"].removeprefix("#/$defs/")
        own = {keyword: value for keyword, value in part.items() if keyword != "$ref"}
        part = {**_document()["$defs"][name], **own}
    return part


def child(part: Part, key: str | int) -> Part | None:
    """What may stand under `key`, or None when nothing may."""
    if isinstance(key, int):
        return resolved(part["items"]) if "items" in part else None
    if key in part.get("properties", {}):
        return resolved(part["properties"][key])
    rest = part.get("additionalProperties")
    return resolved(rest) if isinstance(rest, dict) else None


def at(path: Path) -> Part | None:
    """What may stand at this path, or None."""
    part: Part | None = whole()
    for key in path:
        if part is None:
            return None
        part = child(part, key)
    return part


def properties(part: Part) -> Iterator[tuple[str, Part]]:
    """The declared keys of a mapping."""
    for key in part.get("properties", {}):
        yield key, resolved(part["properties"][key])


def types(part: Part) -> tuple[str, ...]:
    """The JSON types that are allowed, none for any."""
    declared = part.get("type", ())
    return (declared,) if isinstance(declared, str) else tuple(declared)


@functools.cache
def homes() -> dict[str, tuple[str, ...]]:
    """Each key with the blocks that have it, as an administrator writes them: `timeout` -> `server.http_client`, ..."""
    found: dict[str, dict[str, None]] = {}

    def walk(part: Part, where: str) -> None:
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

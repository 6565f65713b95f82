"""The value in a backend's JSON document: where it is found, and how it is written as text."""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import Any, Final

JSON = Any
"""What json.loads returns: dict, list, str, int, float, bool or None."""

MISSING: Final = object()
"""What `find` returns if there is no value at the path. A `null` at the path is returned as None."""


MAX_FIELDS = 10
"""Fields of a document that `field_names` names."""


class UnsupportedValue(ValueError):
    """The value cannot be written on a line. The error's text says what it is."""


def find(document: JSON, path: str) -> JSON:
    """The value at `path`, or MISSING.

    The steps of the path are separated by dots. They select members of objects by name and elements of arrays by index,
    from 0. If that fails, a path without a dot is searched for as a name at any depth, and the shallowest and then
    first match is taken. A path with dots is tried as one name that contains them, at the top level only.
    """
    node = document
    for step in _steps(path):
        if type(node) is dict:
            node = node.get(step, MISSING)
            if node is MISSING:
                break
        elif type(node) is list and step.isdecimal() and step.isascii() and len(step) < 10 and int(step) < len(node):
            node = node[int(step)]
        else:
            break
    else:
        return node
    if "." not in path:
        return _search(document, path)
    return document.get(path, MISSING) if type(document) is dict else MISSING


@lru_cache(maxsize=1024)
def _steps(path: str) -> list[str]:
    """The steps of a path. A configuration has few paths, and each is needed for every response of its entry."""
    return path.split(".")


def _search(document: JSON, name: str) -> JSON:
    """The first value with that name in a breadth-first search. It uses a queue, so no depth exhausts the stack."""
    queue: deque[JSON] = deque([[document]])
    while queue:
        node = queue.popleft()
        if type(node) is dict:
            if name in node:
                return node[name]
            node = node.values()
        queue.extend([child for child in node if type(child) is dict or type(child) is list])
    return MISSING


def field_names(document: JSON) -> str:
    """The names of the document's fields, with those of the objects directly in it as paths."""
    if not isinstance(document, dict):
        return "none, it is an array"
    names: list[str] = []
    for name, value in document.items():
        names += [f"{name}.{inner}" for inner in value] if isinstance(value, dict) and value else [name]
    more = ", ..." if len(names) > MAX_FIELDS else ""
    return (", ".join(names[:MAX_FIELDS]) + more) or "none, it is empty"


def render(value: JSON) -> str | None:
    """The value as text, or None if it counts as absent: MISSING, null, an empty string, an empty list.

    Strings are not changed; the functions that write a reply remove control characters. Booleans are `true` and
    `false`, whole numbers have no fraction. The elements of a list are joined with commas, without those that are
    absent. Raises UnsupportedValue for an object, a list in a list, an object in a list and a number outside the range
    of floating point.
    """
    if type(value) is str:
        return value or None
    if type(value) is list:
        if any(type(element) is list for element in value):
            raise UnsupportedValue("a list within a list")
        return ",".join([text for text in map(render, value) if text is not None]) or None
    if value is None or value is MISSING:
        return None
    if value is True:
        return "true"
    if value is False:
        return "false"
    if type(value) is int:
        return str(value)
    if type(value) is float:
        return _render_float(value)
    raise UnsupportedValue("an object")


def _render_float(value: float) -> str:
    if value - value != 0:  # infinite, from a literal such as 1e400
        raise UnsupportedValue("a number out of range")
    text = repr(value).removesuffix(".0")
    return "0" if text == "-0" else text

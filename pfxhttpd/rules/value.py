"""Where in a backend's JSON the value is, and how it reads as text."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

JSON = Any
"""What json.loads returns: dict, list, str, int, float, bool or None."""

MISSING: Final = object()
"""What `find` returns for a path that leads nowhere; a path that leads to `null` has found None."""


class UnsupportedValue(ValueError):
    """The value has no form that fits on a line. The message says what it is."""


def find(document: JSON, path: str) -> JSON:
    """The value that `path` leads to, or MISSING.

    The steps of the path, separated by dots, walk objects by name and arrays by index (from 0). If they lead nowhere,
    a path without a dot is looked for at any depth, the shallowest and then the first one wins; a path with dots is
    taken for a name that contains them, at the top level only.
    """
    node = document
    for step in path.split("."):
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
        return _anywhere(document, path)
    return document.get(path, MISSING) if type(document) is dict else MISSING


def _anywhere(document: JSON, name: str) -> JSON:
    """The shallowest value of that name. A queue and not recursion, so depth costs nothing."""
    waiting: deque[JSON] = deque([[document]])
    while waiting:
        node = waiting.popleft()
        if type(node) is dict:
            if name in node:
                return node[name]
            node = node.values()
        waiting.extend([child for child in node if type(child) is dict or type(child) is list])
    return MISSING


def render(value: JSON) -> str | None:
    """The value as text; None where it counts as absent: MISSING, null, an empty string, an empty list.

    Strings as they are, `true` and `false`, whole numbers without a fraction. Lists are joined with commas, absent
    elements left out. Raises UnsupportedValue for an object, for a list within a list or one that holds an object, and for a number
    outside the range of floating point. Nothing is cleaned here: that is the encoders' work.
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
        return _number(value)
    raise UnsupportedValue("an object")


def _number(value: float) -> str:
    if value - value != 0:  # infinite, from a literal such as 1e400
        raise UnsupportedValue("a number out of range")
    text = repr(value).removesuffix(".0")
    return "0" if text == "-0" else text

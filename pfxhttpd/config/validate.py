"""Validation against the schema. jsonschema finds the mistakes; this module puts them into plain words.

What is reported is also removed from the tree, so that the checks that follow see only values of the right form and
all mistakes can be reported at once.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jsonschema

from pfxhttpd.config import schema, values
from pfxhttpd.config.errors import Problem
from pfxhttpd.config.node import Node, describe
from pfxhttpd.config.schema import did_you_mean, suggestions

_TYPES = {
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
}

_PRECEDENCE = ("type", "enum", "duration", "pattern")
"""Of several errors in one value, the one with the first of these keywords is reported."""


def validate(root: Node) -> list[Problem]:
    """Every violation of the schema. The invalid values are removed from the tree."""
    invalid: dict[int, tuple[Node, Node | None, Any]] = {}
    missing: list[tuple[Node, list[str]]] = []
    problems: list[Problem] = []
    for error in _validator().iter_errors(root.plain()):
        node, parent = _locate(root, error.absolute_path)
        if error.validator == "additionalProperties":
            problems += _unknown_keys(node, error.schema)
        elif error.validator == "required":
            missing.append((node, error.validator_value))
        elif "propertyNames" in error.relative_schema_path:
            problems.append(node.value[error.instance].key_problem(f"expected {error.schema['expected']}"))
        elif id(node) not in invalid or _rank(error) < _rank(invalid[id(node)][2]):
            invalid[id(node)] = (node, parent, error)
    for node, required in missing:
        problems += _missing_keys(node, required)
    for node, parent, error in invalid.values():
        problems.append(node.problem(_message(error, node)))
        _remove(node, parent)
    _remove_unknown_keys(root, schema.whole())
    return list(dict.fromkeys(problems))


@functools.cache
def _validator() -> Any:
    keywords = {"duration": _duration, "pattern": _pattern}
    validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, keywords)  # type: ignore[no-untyped-call]
    return validator(schema.whole())


def _duration(validator: Any, bounds: dict[str, str], value: Any, part: Any) -> Iterator[jsonschema.ValidationError]:
    """The keyword `duration` of our schema: its lower and upper bound."""
    if not isinstance(value, (str, int, float)):
        return
    try:
        length = values.seconds(value)
    except ValueError as error:
        yield jsonschema.ValidationError(str(error))
        return
    if not values.seconds(bounds["minimum"]) <= length <= values.seconds(bounds["maximum"]):
        yield jsonschema.ValidationError(f"must be from {bounds['minimum']} to {bounds['maximum']}")


def _pattern(validator: Any, pattern: str, value: Any, part: Any) -> Iterator[jsonschema.ValidationError]:
    # In JSON Schema $ is the end of the text. In Python it also matches before a final line feed.
    if isinstance(value, str) and not re.search(re.sub(r"\$$", r"\\Z", pattern), value):
        yield jsonschema.ValidationError("pattern")


def _locate(root: Node, path: Iterable[Any]) -> tuple[Node, Node | None]:
    """The node at the path, and the node that contains it."""
    node, parent = root, None
    for key in path:
        node, parent = node.value[key], node
    return node, parent


def _rank(error: Any) -> int:
    return _PRECEDENCE.index(error.validator) if error.validator in _PRECEDENCE else len(_PRECEDENCE)


def _message(error: Any, node: Node) -> str:
    """The error in plain words. The value of a key that can hold a secret is not repeated."""
    part = schema.resolved(error.schema)
    but = "" if "secret" in part else f", not {describe(node.value)}"
    match error.validator:
        case "type":
            wanted = part.get("expected") or " or ".join(_TYPES[name] for name in schema.types(part))
            unquoted = schema.types(part) == ("string",) and (
                isinstance(node.value, (bool, int, float)) or node.path[-1] == "payload"
            )
            hint = " (put it in quotes)" if unquoted and "quotes" not in wanted else _entry_hint(node)
            return f"expected {wanted}{but}{hint}"
        case "enum":
            choices = [choice for choice in error.validator_value if choice != ""]
            guess = did_you_mean(node.value, choices) if isinstance(node.value, str) else ""
            return f"expected one of {', '.join(choices)}, not {describe(node.value)}{guess}"
        case "minimum" | "maximum":
            return f"must be from {part['minimum']} to {part['maximum']}, not {describe(node.value)}"
        case "minLength":
            return "must not be empty"
        case "minItems":
            return "must have at least one item"
        case "duration":
            return f"{error.message}, not {describe(node.value)}"
    return f"expected {part.get('expected', 'another form')}{but}"


def _entry_hint(node: Node) -> str:
    """The hint for `socket_maps: {target: ...}`, where the level with the name of the entry is missing."""
    if len(node.path) != 2 or not isinstance(node.path[1], str):
        return ""
    section = schema.at(node.path[:1]) or {}
    entry = section.get("additionalProperties")
    if isinstance(entry, dict) and node.path[1] in schema.resolved(entry)["properties"]:
        return f" ({node.path[1]} belongs one level deeper, below the name of an entry)"
    return ""


def _unknown_keys(node: Node, part: schema.Subschema) -> list[Problem]:
    known = schema.resolved(part).get("properties", {})
    for key in node.value.keys() - known.keys():
        node.dropped.update(suggestions(key, known, 1))  # that key is not missing, only misspelt
    return [
        child.key_problem(f"unknown key{_key_hint(key, known)}")
        for key, child in node.value.items()
        if key not in known
    ]


def _key_hint(key: str, known: Mapping[str, Any]) -> str:
    """What an unknown key was probably meant to be: a similar key of this block, or one that another block has."""
    here = suggestions(key, known)
    blocks = schema.key_locations()
    elsewhere = [name for name in blocks if name == key.lower().replace("-", "_")]
    if elsewhere and not (here and here[0] == elsewhere[0]):
        return f" (it belongs in {_first_three(blocks[elsewhere[0]])})"
    if here:
        return did_you_mean(key, known)
    similar = suggestions(key, blocks, 1)
    return f" (did you mean {similar[0]} in {_first_three(blocks[similar[0]])}?)" if similar else ""


def _first_three(blocks: tuple[str, ...]) -> str:
    return " or ".join(blocks[:3])


def _missing_keys(node: Node, required: list[str]) -> list[Problem]:
    missing = [key for key in required if key not in node.value and key not in node.dropped]
    return [node.child(key, None).key_problem("is missing") for key in missing]


def _remove(node: Node, parent: Node | None) -> None:
    if parent is None:
        node.value = {}
    elif isinstance(parent.value, dict):
        for key in [key for key, child in parent.value.items() if child is node]:
            del parent.value[key]
            parent.dropped.add(key)
    else:
        parent.value[:] = [child for child in parent.value if child is not node]


def _remove_unknown_keys(node: Node, part: schema.Subschema) -> None:
    for key, child in list(node.children()):
        below = schema.child(part, key)
        if below is not None:
            _remove_unknown_keys(child, below)
        elif isinstance(key, str):
            del node.value[key]

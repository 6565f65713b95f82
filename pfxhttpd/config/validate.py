"""The schema's verdict in words an administrator can use. jsonschema validates; this file names the mistakes.

What is reported is also removed from the tree, so that the checks that follow see only values of the right form and
all mistakes can be reported at once.

Before that, `coerce` turns values that leave no doubt into the wanted type, as the original did.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import jsonschema

from pfxhttpd.config import schema, values
from pfxhttpd.config.errors import Problem
from pfxhttpd.config.node import Node, shown
from pfxhttpd.config.schema import did_you_mean, suggestions

_TYPES = {
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
}

_ORDER = ("type", "enum", "duration", "pattern")
"""Of several errors in one value the first of these is told."""


def validate(root: Node) -> list[Problem]:
    """Every breach of the schema. The values at fault are removed from the tree."""
    found: dict[int, tuple[Node, Node | None, Any]] = {}
    problems: list[Problem] = []
    missing: list[tuple[Node, list[str]]] = []
    for error in _validator().iter_errors(root.plain()):
        node, parent = _locate(root, error.absolute_path)
        if error.validator == "additionalProperties":
            problems += _unknown_keys(node, error.schema)
        elif error.validator == "required":
            missing.append((node, error.validator_value))
        elif "propertyNames" in error.relative_schema_path:
            problems.append(node.value[error.instance].wrong_key(f"expected {error.schema['expected']}"))
        elif id(node) not in found or _rank(error) < _rank(found[id(node)][2]):
            found[id(node)] = (node, parent, error)
    for node, required in missing:
        problems += _missing_keys(node, required)
    for node, parent, error in found.values():
        problems.append(node.wrong(_message(error, node)))
        _remove(node, parent)
    for problem_node, key in _unknown(root, schema.whole()):
        del problem_node.value[key]
    return list(dict.fromkeys(problems))


@functools.cache
def _validator() -> Any:
    kind = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"duration": _duration, "pattern": _pattern})
    return kind(schema.whole())


def _duration(validator: Any, bounds: dict[str, str], value: Any, part: Any) -> Iterator[jsonschema.ValidationError]:
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
    # JSON Schema's $ is the end of the text; Python's would let a line feed pass.
    if isinstance(value, str) and not re.search(re.sub(r"\$$", r"\\Z", pattern), value):
        yield jsonschema.ValidationError("pattern")


def _locate(root: Node, path: Any) -> tuple[Node, Node | None]:
    node, parent = root, None
    for key in path:
        node, parent = node.value[key], node
    return node, parent


def _rank(error: Any) -> int:
    return _ORDER.index(error.validator) if error.validator in _ORDER else len(_ORDER)


def _message(error: Any, node: Node) -> str:
    part = schema.resolved(error.schema)
    hidden = "secret" in part
    match error.validator:
        case "type":
            wanted = part.get("expected") or " or ".join(_TYPES[kind] for kind in schema.types(part))
            unquoted = schema.types(part) == ("string",) and isinstance(node.value, (bool, int, float))
            hint = " (put it in quotes)" if unquoted and "quotes" not in wanted else _entry_hint(node)
            return f"expected {wanted}{'' if hidden else f', not {shown(node.value)}'}{hint}"
        case "enum":
            choices = [choice for choice in error.validator_value if choice != ""]
            guess = did_you_mean(node.value, choices) if isinstance(node.value, str) else ""
            return f"expected one of {', '.join(choices)}, not {shown(node.value)}{guess}"
        case "minimum" | "maximum":
            return f"must be from {part['minimum']} to {part['maximum']}, not {shown(node.value)}"
        case "minLength":
            return "must not be empty"
        case "minItems":
            return "must have at least one item"
        case "duration":
            return f"{error.message}, not {shown(node.value)}"
    return f"expected {part.get('expected', 'another form')}{'' if hidden else f', not {shown(node.value)}'}"


def _entry_hint(node: Node) -> str:
    """For `socket_maps: {target: ...}`, where the level with the name was forgotten."""
    if len(node.path) != 2 or not isinstance(node.path[1], str):
        return ""
    section = schema.at(node.path[:1]) or {}
    entry = section.get("additionalProperties")
    if isinstance(entry, dict) and node.path[1] in schema.resolved(entry)["properties"]:
        return f" ({node.path[1]} belongs one level deeper, below the name of an entry)"
    return ""


def _unknown_keys(node: Node, part: Any) -> list[Problem]:
    known = schema.resolved(part).get("properties", {})
    for key in node.value.keys() - known.keys():
        node.dropped.update(suggestions(key, known, 1))  # then that one is not missing, only misspelt
    return [
        child.wrong_key(f"unknown key{_likely(key, known)}") for key, child in node.value.items() if key not in known
    ]


def _likely(key: str, known: Any) -> str:
    """What an unknown key was likely meant to be: a key of this place, else the place that has it."""
    here = suggestions(key, known)
    homes = schema.key_locations()
    elsewhere = [name for name in homes if name == key.lower().replace("-", "_")]
    if elsewhere and not (here and here[0] == elsewhere[0]):
        return f" (it belongs in {' or '.join(_short(homes[elsewhere[0]]))})"
    if here:
        return f" (did you mean {' or '.join(here)}?)"
    far = suggestions(key, homes, 1)
    return f" (did you mean {far[0]} in {' or '.join(_short(homes[far[0]]))}?)" if far else ""


def _short(places: tuple[str, ...]) -> tuple[str, ...]:
    return places[:3]


def _missing_keys(node: Node, required: list[str]) -> list[Problem]:
    missing = [key for key in required if key not in node.value and key not in node.dropped]
    return [node.child(key, None).wrong_key("is missing") for key in missing]


def _remove(node: Node, parent: Node | None) -> None:
    if parent is None:
        node.value = {}
    elif isinstance(parent.value, dict):
        for key in [key for key, child in parent.value.items() if child is node]:
            del parent.value[key]
            parent.dropped.add(key)
    else:
        parent.value[:] = [child for child in parent.value if child is not node]


def _unknown(node: Node, part: schema.Subschema) -> Iterator[tuple[Node, str]]:
    """The keys that the schema does not know, wherever they are."""
    for key, child in list(node.children()):
        below = schema.child(part, key)
        if below is not None:
            yield from _unknown(child, below)
        elif isinstance(key, str):
            yield node, key


_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")


def coerce(node: Node, part: schema.Subschema | None) -> None:
    """Change the tree in place. Whatever remains of a wrong type is for the schema's check to report."""
    if part is None:
        return
    if isinstance(node.value, dict):
        entries = isinstance(part.get("additionalProperties"), dict)
        for key, child in list(node.value.items()):
            if child.bad:
                del node.value[key]
                node.dropped.add(key)
            elif child.value is None and not entries:
                del node.value[key]
            else:
                if child.value is None:
                    child.value = {}  # an entry that has nothing but the defaults
                coerce(child, schema.child(part, key))
    elif isinstance(node.value, list):
        node.value = [child for child in node.value if not child.bad]
        for index, child in enumerate(node.value):
            coerce(child, schema.child(part, index))
    else:
        _scalar(node, schema.types(part))


def _scalar(node: Node, kinds: tuple[str, ...]) -> None:
    value = node.value
    if isinstance(value, str) and "string" not in kinds:
        if "integer" in kinds and _DECIMAL.fullmatch(value):
            node.value = int(value)
        elif "boolean" in kinds and value in ("true", "false"):
            node.value = value == "true"
    elif isinstance(value, float) and "integer" in kinds and value.is_integer() and abs(value) < 1e18:
        node.value = int(value)
    elif isinstance(value, int) and not isinstance(value, bool) and kinds == ("string",) and node.text == str(value):
        node.value = node.text

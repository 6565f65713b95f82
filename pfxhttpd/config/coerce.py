"""Values that are not quite of the wanted type but leave no doubt: the original took them, so they are taken here.

"25" is 25 where a whole number is wanted, "true" is true where yes or no is wanted, 25 is "25" where a text is wanted
(if it was written just so: 0755 or 1_000 could mean two things). An empty value counts as not given.
"""

from __future__ import annotations

import re

from pfxhttpd.config import schema
from pfxhttpd.config.node import Node

_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")


def coerce(node: Node, part: schema.Part | None) -> None:
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

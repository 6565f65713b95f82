"""Defaults: the `defaults` block of each section, and what the schema declares.

Explicit values win, even `false` and `""`; header lists are put together; nested blocks merge key by key.
"""

from __future__ import annotations

import copy

from pfxhttpd.config import schema, values
from pfxhttpd.config.node import Node, written
from pfxhttpd.config.settings import DOVECOT_SASL, SECTIONS

FILE = "_file"
"""`client_secret_file` is another way to say `client_secret`, and so on."""


def alternative_key(key: str) -> str:
    """The other way to give the same value: `x` for `x_file` and `x_file` for `x`."""
    return key.removesuffix(FILE) if key.endswith(FILE) else key + FILE


def inherit(root: Node) -> None:
    """Merge each section's `defaults` into its entries and remove the block."""
    for section in SECTIONS.values():
        node = root.get(section)
        if node is None or not isinstance(node.value, dict):
            continue
        defaults = node.value.pop("defaults", None)
        for name, entry in node.value.items():
            if "defaults" in node.dropped:
                entry.dropped |= {key for key, _ in schema.properties(schema.at((section, name)) or {})}
            if defaults is not None:
                _merge(defaults, entry)
            _settle_headers(entry)


def _merge(defaults: Node, own: Node) -> None:
    given = set(own.value)
    own.dropped |= defaults.dropped - given
    theirs = _without_overruled_login(defaults, own)
    for key, value in theirs.items():
        if key == "custom_headers" and key in given:
            own.value[key].value = [line.copy() for line in value.value] + own.value[key].value
        elif key not in given and alternative_key(key) not in given:
            own.value[key] = value.copy()
        elif key in given and isinstance(value.value, dict) and isinstance(own.value[key].value, dict):
            _merge(value, own.value[key])


def _without_overruled_login(defaults: Node, own: Node) -> dict[str, Node]:
    """An entry's own credentials, in whichever form, rule out those of the defaults in the other form."""
    theirs = dict(defaults.value)
    if values.login_lines(own):
        theirs.pop("http_auth_basic", None)
        theirs.pop("http_auth_basic" + FILE, None)
    elif "custom_headers" in theirs and ("http_auth_basic" in own.value or "http_auth_basic" + FILE in own.value):
        lines = theirs["custom_headers"].copy()
        lines.value = [line for line in lines.value if not values.is_login(line)]
        theirs["custom_headers"] = lines
    return theirs


def _settle_headers(entry: Node) -> None:
    lines = entry.get("custom_headers")
    if lines is not None:
        lines.value = values.last_of_each(lines.value)


def fill(node: Node, part: schema.Subschema) -> None:
    """Put in every default that the schema declares and that the tree does not have."""
    if isinstance(node.value, dict):
        for key, below in schema.properties(part):
            if key not in node.value and "default" in below:
                node.value[key] = written(copy.deepcopy(below["default"]), node, key)
    for key, child in node.children():
        below_child = schema.child(part, key)
        if below_child is not None:
            fill(child, below_child)


def derive(root: Node, processors: int) -> None:
    """Put in the defaults that depend on something else: pool sizes and timeouts."""
    server = root.value["server"]
    pool = server.value["worker_pool"]
    _default(pool, "max_workers", max(8, 2 * processors))
    _default(pool, "max_queue", 10 * pool.scalar("max_workers"))
    for listener in server.value.get("listen", server.child("listen", [])).value:
        own = listener.get("worker_pool")
        if own is not None:
            _default(own, "max_workers", pool.scalar("max_workers"))
            _default(own, "max_queue", 10 * own.scalar("max_workers"))
            _default(own, "max_requests", pool.scalar("max_requests"))
    for kind, section in SECTIONS.items():
        for entry in root.value[section].value.values():
            if kind != DOVECOT_SASL:
                _default(entry, "timeout", server.scalar("http_client", "timeout"))


def _default(node: Node, key: str, value: object) -> None:
    if key not in node.value:
        node.value[key] = node.child(key, value)

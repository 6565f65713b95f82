"""Default values: the `defaults` block of each section, and those that the schema declares.

Explicit values take precedence, even `false` and `""`. Header lists are concatenated. Nested blocks are merged key by
key.
"""

from __future__ import annotations

import copy

from pfxhttpd.config import schema
from pfxhttpd.config.node import Node, from_plain
from pfxhttpd.config.settings import DOVECOT_SASL, SECTIONS

FILE = "_file"
"""The value of `client_secret` can also be in the file named by `client_secret_file`, and so on."""

IDLE_CONNECTIONS = 20
"""The default of the numbers of idle connections, unless there are more workers."""


def alternative_key(key: str) -> str:
    """The other key that can give the same value: `client_secret_file` for `client_secret`, and the reverse."""
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
            headers = entry.get("custom_headers")
            if headers is not None:
                headers.value = _last_of_each_name(headers.value)


def _merge(defaults: Node, own: Node) -> None:
    given = set(own.value)
    own.dropped |= defaults.dropped - given
    for key, value in _without_other_credentials(defaults, own).items():
        if key == "custom_headers" and key in given:
            own.value[key].value = [line.copy() for line in value.value] + own.value[key].value
        elif key not in given and alternative_key(key) not in given:
            own.value[key] = value.copy()
        elif key in given and isinstance(value.value, dict) and isinstance(own.value[key].value, dict):
            _merge(value, own.value[key])


def _without_other_credentials(defaults: Node, own: Node) -> dict[str, Node]:
    """The defaults without credentials in another form than the entry has its own (a header or http_auth_basic)."""
    inherited = dict(defaults.value)
    if authorization_headers(own):
        inherited.pop("http_auth_basic", None)
        inherited.pop("http_auth_basic" + FILE, None)
    elif "custom_headers" in inherited and ("http_auth_basic" in own.value or "http_auth_basic" + FILE in own.value):
        headers = inherited["custom_headers"].copy()
        headers.value = [line for line in headers.value if _header_name(line) != "authorization"]
        inherited["custom_headers"] = headers
    return inherited


def authorization_headers(entry: Node) -> list[Node]:
    """The Authorization lines among an entry's `custom_headers`."""
    headers = entry.get("custom_headers")
    return [] if headers is None else [line for line in headers.value if _header_name(line) == "authorization"]


def _last_of_each_name(lines: list[Node]) -> list[Node]:
    """The header lines without those that a later line of the same name replaces."""
    last = {_header_name(line): line for line in lines}
    return [line for line in lines if last[_header_name(line)] is line]


def _header_name(line: Node) -> str:
    name: str = line.value.partition(":")[0]
    return name.strip(" \t").lower()


def fill(node: Node, part: schema.Subschema) -> None:
    """Add every default that the schema declares where the tree has no value."""
    if isinstance(node.value, dict):
        for key, below in schema.properties(part):
            if key not in node.value and "default" in below:
                node.value[key] = from_plain(copy.deepcopy(below["default"]), node, key)
    for name, child in node.children():
        child_part = schema.child(part, name)
        if child_part is not None:
            fill(child, child_part)


def derive(root: Node, processors: int) -> None:
    """Add the defaults that depend on other values: the sizes of pools (on the number of processors), idle connections (on
    the number of workers), and timeouts."""
    server = root.value["server"]
    pool = server.value["worker_pool"]
    _set_default(pool, "max_workers", max(8, 2 * processors))
    _set_default(pool, "max_queue", 10 * pool.scalar("max_workers"))
    workers = pool.scalar("max_workers")
    for listener in server.value.get("listen", server.child("listen", [])).value:
        own = listener.get("worker_pool")
        if own is not None:
            _set_default(own, "max_workers", pool.scalar("max_workers"))
            _set_default(own, "max_queue", 10 * own.scalar("max_workers"))
            _set_default(own, "max_requests", pool.scalar("max_requests"))
            workers += own.scalar("max_workers")
    for key in ("max_idle_connections", "max_idle_connections_per_host"):
        _set_default(server.value["http_client"], key, max(IDLE_CONNECTIONS, workers))
    for kind, section in SECTIONS.items():
        for entry in root.value[section].value.values():
            if kind != DOVECOT_SASL:
                _set_default(entry, "timeout", server.scalar("http_client", "timeout"))


def _set_default(node: Node, key: str, value: object) -> None:
    if key not in node.value:
        node.value[key] = node.child(key, value)

"""The checks of `server.observability` that the schema cannot express.

They are made before the defaults are filled in, so what is not given is taken from the schema.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from pfxhttpd.config import schema, values
from pfxhttpd.config.checks import given_twice
from pfxhttpd.config.endpoints import listener_endpoint, overlap, tcp_endpoint
from pfxhttpd.config.errors import Problem
from pfxhttpd.config.node import Node, dotted

PATH = ("server", "observability")
PAGES = ("prometheus_path", "health_path", "ready_path")


def observability_problems(root: Node) -> Iterator[Problem]:
    """Everything that is wrong with the block. The tree has no defaults in it yet."""
    block = root.get(*PATH)
    if block is None:
        return
    yield from given_twice(block)
    basic = block.get("prometheus_http_auth_basic")
    if basic and basic.value and ":" not in basic.value:
        yield basic.problem("expected user:password, but there is no colon")
    yield from _address_problems(block, root)
    yield from _page_problems(block)
    yield from _tls_problems(block)
    yield from _otlp_problems(block)


def _effective(block: Node, key: str) -> Any:
    """The value of the key, else its default."""
    given = block.scalar(key)
    return (schema.at((*PATH, key)) or {}).get("default") if given is None else given


def _address_problems(block: Node, root: Node) -> Iterator[Problem]:
    node = block.get("prometheus_address")
    error = values.host_error(node.value) if node and node.value else None
    if node and error:
        yield node.problem(error)
        return
    if not block.scalar("prometheus_enabled") or block.dropped & {"prometheus_address", "prometheus_port"}:
        return
    own = tcp_endpoint(_effective(block, "prometheus_address"), _effective(block, "prometheus_port"))
    listen = root.get("server", "listen")
    for listener in listen.value if listen is not None else ():
        other = listener_endpoint(listener)
        if other is not None and overlap(own, other):
            line = listener.location.line
            at = block.get("prometheus_port") or block.child("prometheus_port", own.port)
            yield at.problem(f"port {own.port} is taken by {dotted(listener.path)} in line {line}")
            return


def _page_problems(block: Node) -> Iterator[Problem]:
    taken: dict[str, str] = {}
    for key in PAGES:
        path = "" if key in block.dropped else _effective(block, key)
        if path and path in taken:
            yield (block.get(key) or block.child(key, path)).problem(f"`{taken[path]}` is the same path")
        taken[path] = key


def _tls_problems(block: Node) -> Iterator[Problem]:
    tls = block.get("prometheus_tls")
    if tls is None or not tls.scalar("enabled"):
        return
    for key in ("cert", "key"):
        if not tls.scalar(key) and key not in tls.dropped:
            yield tls.child(key, None).key_problem("is missing")


def _otlp_problems(block: Node) -> Iterator[Problem]:
    endpoint = block.get("otel_exporter_otlp_endpoint")
    if endpoint and endpoint.value:
        error = values.url_error(values.otlp_url(endpoint.value, insecure=False))
        if error or urlsplit(endpoint.value).query:
            yield endpoint.problem(error or "the URL of a collector must not have a query")
    headers = block.get("otel_exporter_otlp_headers")
    if headers and headers.value:
        try:
            values.otlp_headers(headers.plain())
        except ValueError as invalid:
            yield headers.problem(str(invalid))
    ratio = block.get("otel_sample_ratio")
    if ratio and ratio.value is not None and math.isnan(ratio.value):  # which the bounds of the schema do not exclude
        yield ratio.problem("expected a number from 0 to 1")

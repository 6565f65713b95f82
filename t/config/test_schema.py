"""The schema itself: complete, consistent, and the only place that declares a key."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from pfxhttpd.config import environment, schema, settings, values
from pfxhttpd.config.load import load_text
from pfxhttpd.config.node import Location, Node


def parts(part: dict[str, Any], path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Every declared value with its path; an entry's name is "x"."""
    yield path, part
    for key, below in schema.properties(part):
        yield from parts(below, (*path, key))
    if "items" in part:
        yield from parts(schema.resolved(part["items"]), (*path, 0))
    if isinstance(part.get("additionalProperties"), dict):
        yield from parts(schema.resolved(part["additionalProperties"]), (*path, "x"))


PARTS = {".".join(map(str, path)) or "whole": part for path, part in parts(schema.whole())}


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(schema.whole())
    assert schema.whole()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("path", PARTS)
def test_every_part_is_described_typed_and_closed(path: str) -> None:
    part = PARTS[path]
    assert "type" in part
    if not path.endswith(".0") or "object" in schema.types(part):
        description = part["description"]
        assert description.startswith("If true, ") == (schema.types(part) == ("boolean",)), "a switch says what it does"
        assert re.match(r"This (is|key|block|section|list) |If true, ", description), "a sentence with a subject"
        assert all(re.match(r"[A-Z`].*[a-z].*\.$", each) for each in re.split(r"(?<=\.) (?=[A-Z`])", description))
    if "object" in schema.types(part):
        assert part["additionalProperties"] is False or isinstance(part["additionalProperties"], dict)
    if "array" in schema.types(part):
        assert "items" in part
    if "integer" in schema.types(part):
        assert {"minimum", "maximum"} <= part.keys()
    if "pattern" in part:
        assert part["expected"]


@pytest.mark.parametrize("path", [path for path, part in PARTS.items() if "object" not in schema.types(part)])
def test_every_single_value_has_examples_that_are_valid(path: str) -> None:
    part = PARTS[path]
    assert part.get("origin") in (None, "pfxhttp", "pfxhttpd")
    obvious = "boolean" in schema.types(part) or "enum" in part or "items" in part or path.endswith(".0")
    assert part.get("examples") or obvious
    validator = jsonschema.Draft202012Validator({**part, "$defs": schema.whole()["$defs"]})
    for example in part.get("examples", []):
        assert not list(validator.iter_errors(example))
        assert example != part.get("default") or path == "server.shutdown_timeout"
        if "duration" in part:
            bounds = part["duration"]
            assert values.seconds(bounds["minimum"]) <= values.seconds(example) <= values.seconds(bounds["maximum"])


@pytest.mark.parametrize("path", [path for path, part in PARTS.items() if "default" in part])
def test_every_default_is_valid(path: str) -> None:
    part = PARTS[path]
    validator = jsonschema.Draft202012Validator({**part, "$defs": schema.whole()["$defs"]})
    assert not list(validator.iter_errors(part["default"]))
    if "duration" in part:
        bounds = part["duration"]
        assert values.seconds(bounds["minimum"]) <= values.seconds(part["default"]) <= values.seconds(bounds["maximum"])


def test_the_settings_fall_back_to_what_the_schema_declares(accepted: Any) -> None:
    loaded = accepted(
        "socket_maps: {a: {target: 'http://h/', value_field: v}}\n"
        "policy_services: {a: {target: 'http://h/', value_field: v}}\n"
        "dovecot_sasl: {a: {target: 'http://h/'}}\n"
    ).settings
    plain = dataclasses.replace(loaded.server, listen=(), worker_pool=settings.Pool(8, 80))
    assert plain == settings.Server()
    for kind in settings.SECTIONS:
        entry = loaded.entries[kind]["a"]
        assert entry == settings.Entry(kind, "a", "http://h/", value_field=entry.value_field, timeout=entry.timeout)


def test_the_spec_s_defaults(accepted: Any) -> None:
    server = accepted("socket_maps: {a: {target: 'http://h/', value_field: v}}").settings.server
    assert server.socketmap_max_reply_size == 100_000
    assert server.client_idle_timeout == 3600
    assert server.shutdown_timeout == 30
    assert server.response_cache == settings.ResponseCacheSettings(False, 300, 10_000)
    assert server.circuit_breaker == settings.CircuitBreaker(5, 5)
    assert server.http_client.timeout == 60
    assert server.logging == settings.Logging(False, "info", False, "")
    assert server.worker_pool.max_requests == 0


def test_key_locations() -> None:
    assert schema.key_locations()["ttl"] == ("server.response_cache",)
    assert schema.key_locations()["temporary_failure"] == ("dovecot_sasl.<name>",)
    assert schema.key_locations()["mode"] == ("server.listen[]",)
    assert schema.key_locations()["server"] == ("the top level",)
    assert "defaults" not in schema.key_locations()


def test_the_schema_at_a_path() -> None:
    assert schema.at(("socket_maps", "any", "custom_headers", 3)) == {"type": "string"}
    assert schema.at(("server", "listen", 0, "port"))["maximum"] == 65535
    assert schema.at(("server", "nothing")) is None
    assert schema.at(("server", "nothing", "below")) is None
    assert schema.at(("server", 0)) is None


def test_every_single_value_has_a_variable_of_its_own() -> None:
    single = {
        path
        for path, part in PARTS.items()
        if re.match(r"server\.|(socket_maps|policy_services|dovecot_sasl)\.x\.", path)
        and "properties" not in part
        and not re.search(r"\.0\b|\.x$", path)
    } | {"server.observability.otel_exporter_otlp_headers"}  # which can be written as a text as well
    known = environment.server_variables()
    for section in settings.SECTIONS.values():
        known = {**known, **environment.entry_variables(section, ["x"])}
    named = [".".join(map(str, path)) for paths in known.values() for path in paths]
    assert {path for path in named if ".defaults." not in path} == single
    assert len(set(named)) == len(named) == len(known)
    assert known["PFXHTTP_SERVER_TLS_ROOT_CA"] == (("server", "tls", "root_ca"),)
    root = Node({}, (), Location("f"), Location("f"))
    variables = dict.fromkeys(environment.server_variables(), "1")
    assert [problem.path for problem in environment.override(root, variables)] == ["PFXHTTP_SERVER_LISTEN"]


def test_the_schema_may_be_named_in_the_file() -> None:
    text = (
        '{"$schema": "https://example.org/s.json", "server": {"listen": [{"kind": "socket_map", "name": "a", "port": 1}]},'
        '"socket_maps": {"a": {"target": "http://h/", "value_field": "v"}}}'
    )
    load_text(text, "f", "json", {})

"""Default values: those of a section, of the schema, and those that depend on other values."""

from __future__ import annotations

import os
from typing import Any

import pytest

from pfxhttpd.config.settings import Entry, Pool


def entry(loaded: Any, name: str = "a", kind: str = "socket_map") -> Entry:
    return loaded.settings.entries[kind][name]


DEFAULTS = """\
socket_maps:
  defaults:
    target: http://h/
    value_field: v
    error_field: e
    http_response_compression: true
    custom_headers: ["X-One: 1", "X-Two: 2"]
    backend_oidc_auth: {enabled: true, configuration_uri: "https://p/", client_id: us, client_secret: s, scopes: [a, b]}
"""


def test_entries_inherit_and_explicit_values_take_precedence(accepted: Any) -> None:
    loaded = accepted(
        DEFAULTS
        + """\
  a: {}
  b:
  c:
    target: https://other/
    error_field: ""
    http_response_compression: false
    backend_oidc_auth: {client_id: me, scopes: [c]}
  d: {backend_oidc_auth: {enabled: false}}
"""
    )
    a, b, c, d = (entry(loaded, name) for name in "abcd")
    assert (a.target, a.value_field, a.error_field, a.http_response_compression) == ("http://h/", "v", "e", True)
    assert b.target == "http://h/" and b.headers == a.headers == (("X-One", "1"), ("X-Two", "2"))
    assert (c.target, c.value_field, c.error_field, c.http_response_compression) == ("https://other/", "v", "", False)
    assert (c.backend_oidc.client_id, c.backend_oidc.client_secret, c.backend_oidc.scopes) == ("me", "s", ("c",))
    assert c.backend_oidc.enabled and not d.backend_oidc.enabled
    assert a.backend_oidc.client_id == "us", "an entry's value does not reach its neighbours"
    assert "defaults" not in loaded.settings.entries["socket_map"]
    assert "defaults" not in loaded.document["socket_maps"]


def test_each_section_has_defaults_of_its_own(accepted: Any, refused: Any) -> None:
    loaded = accepted(
        "socket_maps: {defaults: {target: 'http://m/', value_field: v}, a: {}}\n"
        "policy_services: {defaults: {target: 'http://p/', value_field: v, failure_action: REJECT}, a: {}}\n"
        "dovecot_sasl: {defaults: {target: 'http://s/', temporary_failure: fail, default_local_port: 587}, a: {}}\n"
    )
    assert entry(loaded, "a").target == "http://m/"
    assert entry(loaded, "a", "policy_service").failure_action == "REJECT"
    sasl = entry(loaded, "a", "dovecot_sasl")
    assert (sasl.target, sasl.temporary_failure, sasl.default_local_port) == ("http://s/", "fail", "587")
    assert refused(
        "socket_maps: {defaults: {target: 'http://m/'}, a: {value_field: v}}\npolicy_services: {a: {value_field: v}}"
    ) == ["5:19: policy_services.a.target: is missing"]


@pytest.mark.parametrize(
    "defaults, own, expected",
    [
        ("custom_headers: ['A: 1', 'B: 2']", "custom_headers: ['C: 3']", {"A": "1", "B": "2", "C": "3"}),
        ("custom_headers: ['A: 1', 'B: 2']", "custom_headers: ['a: 9']", {"B": "2", "a": "9"}),
        ("custom_headers: ['A: 1']", "custom_headers: []", {"A": "1"}),
        ("custom_headers: ['A: 1', 'B: 2', 'a: 3']", "method: POST", {"B": "2", "a": "3"}),
        ("method: POST", "custom_headers: ['A:', 'B :  x:y ']", {"A": "", "B": "x:y"}),
        ("http_auth_basic: 'u:p'", "custom_headers: ['A: 1']", {"A": "1", "Authorization": "Basic dTpw"}),
        ("http_auth_basic: 'u:p'", "custom_headers: ['authorization: Bearer t']", {"authorization": "Bearer t"}),
        (
            "custom_headers: ['Authorization: Bearer t', 'A: 1']",
            "http_auth_basic: 'u:p'",
            {"A": "1", "Authorization": "Basic dTpw"},
        ),
        ("custom_headers: ['Authorization: Bearer t']", "http_auth_basic: ''", {}),
        ("http_auth_basic: 'u:p'", "http_auth_basic: ''", {}),
        ("http_auth_basic: 'u:p'", "http_auth_basic: 'x:y'", {"Authorization": "Basic eDp5"}),
        ("http_auth_basic: 'u:p'", "method: POST", {"Authorization": "Basic dTpw"}),
        (
            "method: POST",
            "{http_auth_basic: 'u:p', custom_headers: ['Authorization: Bearer t']}",
            {"Authorization": "Bearer t"},
        ),
        ("http_auth_basic: 'user:p\u00e4ss:word'", "method: POST", {"Authorization": "Basic dXNlcjpww6Rzczp3b3Jk"}),
    ],
)
def test_headers_are_merged(defaults: str, own: str, expected: dict[str, str], accepted: Any) -> None:
    own = own.strip("{}")
    loaded = accepted(f"socket_maps: {{defaults: {{{defaults}}}, a: {{target: 'http://h/', value_field: v, {own}}}}}")
    assert list(entry(loaded).headers) == list(expected.items())


def test_a_mistake_in_the_defaults_is_reported_once_and_causes_no_other_problem(refused: Any) -> None:
    assert refused("socket_maps:\n  defaults: {target: ftp://h/, value_field: [v], timeot: 5s}\n  a:\n  b: {}\n") == [
        "5:22: socket_maps.defaults.target: expected a URL that begins with http:// or https://",
        "5:45: socket_maps.defaults.value_field: expected a text on one line without control characters, not a list",
        "5:50: socket_maps.defaults.timeot: unknown key (did you mean timeout?)",
    ]
    assert refused("socket_maps: {defaults: 5, a: {}}") == ["4:25: socket_maps.defaults: expected a mapping, not 5"]


def test_pools(accepted: Any) -> None:
    def pools(pool: str, listener: str = "") -> tuple[Pool, Pool | None]:
        server = accepted(
            f"server:\n  {pool}\n  listen: [{{kind: socket_map, name: a, port: 1{listener}}}]\n"
            "socket_maps: {a: {target: 'http://h/', value_field: v}}"
        ).settings.server
        return server.worker_pool, server.listen[0].worker_pool

    usual = max(8, 2 * len(os.sched_getaffinity(0)))
    assert pools("chroot: ''") == (Pool(usual, 10 * usual, 0), None)
    assert pools("worker_pool: {max_workers: 3}") == (Pool(3, 30, 0), None)
    assert pools("worker_pool: {max_queue: 7}") == (Pool(usual, 7, 0), None)
    assert pools("worker_pool: {max_requests: 9}", ", worker_pool: {max_workers: 2}")[1] == Pool(2, 20, 9)
    assert pools("worker_pool: {max_requests: 9}", ", worker_pool: {max_workers: 2, max_queue: 5, max_requests: 0}")[
        1
    ] == Pool(2, 5, 0)
    assert pools("worker_pool:", ", worker_pool: ")[1] is None


def test_idle_connections(accepted: Any) -> None:
    """As many as there are workers, so that each can keep one."""

    def idle(server: str, listener: str = "") -> tuple[int, int]:
        client = accepted(
            f"server:\n  {server}\n  listen: [{{kind: socket_map, name: a, port: 1{listener}}}]\n"
            "socket_maps: {a: {target: 'http://h/', value_field: v}}"
        ).settings.server.http_client
        return client.max_idle_connections, client.max_idle_connections_per_host

    assert idle("worker_pool: {max_workers: 3}") == (20, 20)
    assert idle("worker_pool: {max_workers: 30}") == (30, 30)
    assert idle("worker_pool: {max_workers: 30}", ", worker_pool: {max_workers: 5}") == (35, 35)
    assert idle("http_client: {max_idle_connections: 2}\n  worker_pool: {max_workers: 30}") == (2, 30)


def test_timeouts(accepted: Any) -> None:
    text = (
        "server: {http_client: {timeout: 20s}, listen: [{kind: socket_map, name: a, port: 1}]}\n"
        "socket_maps: {a: {target: 'http://h/', value_field: v}, b: {target: 'http://h/', value_field: v, timeout: 1500ms}}\n"
        "dovecot_sasl: {a: {target: 'http://h/'}, b: {target: 'http://h/', timeout: 3}}\n"
    )
    loaded = accepted(text)
    assert [entry(loaded, name).timeout for name in "ab"] == [20, 1.5]
    assert [entry(loaded, name, "dovecot_sasl").timeout for name in "ab"] == [8, 3]
    assert loaded.document["socket_maps"]["a"]["timeout"] == "20s"

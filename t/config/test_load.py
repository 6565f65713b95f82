"""Whole configurations: those of the manual, one in three formats, and one with many mistakes."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pfxhttpd.cli.config import as_yaml
from pfxhttpd.config.errors import ConfigError, Problem
from pfxhttpd.config.load import load, load_text
from pfxhttpd.config.settings import (
    BackendOidc,
    Entry,
    HttpClient,
    Listener,
    Logging,
    Pool,
    ResponseCacheSettings,
    SaslOidc,
    Settings,
    Tls,
)

MANUAL = Path(__file__).parent / "manual"
BODY = '{\n  "key": "{{ .Key }}"\n}\n'


def manual(name: str) -> Settings:
    return load(str(MANUAL / f"{name}.yml"), None, {}).settings


def test_the_manual_s_overview() -> None:
    settings = manual("overview")
    server = settings.server
    assert settings.source == str(MANUAL / "overview.yml")
    assert (server.run_as_user, server.run_as_group, server.chroot) == ("pfxhttp", "pfxhttp", "")
    assert server.listen == (
        Listener("socket_map", "demo_map", "tcp", "[::]", 23450),
        Listener("policy_service", "example_policy", "tcp", "[::]", 23451),
        Listener("dovecot_sasl", "dovecot_sasl", "tcp", "0.0.0.0", 23453),
    )
    assert server.logging == Logging(json=True, level="info", use_systemd=False)
    assert server.tls == Tls(True, True, "/etc/ssl/certs/ca-certificates.crt", "", "")
    assert server.http_client == HttpClient(30, 100, 20, 20, 90, "http://proxy.example.com:8080")
    assert server.response_cache == ResponseCacheSettings(True, 300)

    backend = BackendOidc(
        True,
        "https://example.com/.well-known/openid-configuration",
        "foobar",
        "secret",
        auth_method="client_secret_basic",
    )
    common = {
        "payload": BODY,
        "value_field": "data.result",
        "error_field": "error",
        "no_error_value": "not-found",
        "timeout": 30,
    }
    bearer = (("Authorization", "Bearer <token>"),)
    target = "https://127.0.0.1:9443/api/v1/custom/"
    assert settings.entries["socket_map"] == {
        "demo_map": Entry("socket_map", "demo_map", target + "map", headers=bearer, **common),
        "oidc_demo_map": Entry("socket_map", "oidc_demo_map", target + "map", backend_oidc=backend, **common),
    }
    common = {
        "payload": "{{ .Key }}",
        "value_field": "policy.result",
        "error_field": "policy.error",
        "no_error_value": "OK",
        "timeout": 30,
    }
    assert settings.entries["policy_service"] == {
        "example_policy": Entry("policy_service", "example_policy", target + "policy", headers=bearer, **common),
        "oidc_example_policy": Entry(
            "policy_service", "oidc_example_policy", target + "policy", backend_oidc=backend, **common
        ),
    }
    uri = "https://127.0.0.1:9443/.well-known/openid-configuration"
    assert settings.entries["dovecot_sasl"] == {
        "dovecot_sasl": Entry(
            "dovecot_sasl",
            "dovecot_sasl",
            "https://127.0.0.1:9443/api/v1/auth/json",
            timeout=8,
            backend_oidc=BackendOidc(True, uri, "pfxhttp", "backend-secret", auth_method="client_secret_basic"),
            sasl_oidc=SaslOidc(
                True,
                uri,
                "roundcube",
                "introspection-secret",
                auth_method="client_secret_basic",
                scopes=("introspect",),
            ),
        ),
    }


def test_the_manual_s_defaults() -> None:
    entries = manual("defaults").entries["socket_map"]
    login = "Basic " + base64.b64encode(b"user:secret").decode()
    assert entries == {
        name: Entry(
            "socket_map",
            name,
            "https://api.example.com/postfix/map",
            headers=(("X-Pfx-Name", name), ("Authorization", login)),
            payload=BODY,
            value_field="result",
            error_field="error",
            http_response_compression=True,
        )
        for name in ("relay_domains", "relay_recipient_maps", "transport_maps")
    }


def test_the_manual_s_pools() -> None:
    server = manual("pools").server
    assert server.worker_pool == Pool(10, 100) and server.listen[0].worker_pool == Pool(5, 20)
    assert (server.chroot, server.logging.use_systemd, server.response_cache.enabled) == (
        "/var/lib/pfxhttp",
        True,
        True,
    )


def test_the_manual_s_compression() -> None:
    entries = manual("compression").entries
    assert [
        (entry.http_request_compression, entry.http_response_compression)
        for section in entries.values()
        for entry in section.values()
    ] == [(True, True), (False, True)]


def test_the_manual_s_login() -> None:
    entry = manual("login").entries["dovecot_sasl"]["login_smtp"]
    assert (entry.default_local_port, entry.sasl_oidc.enabled, entry.sasl_oidc.auth_method) == ("587", True, "none")


def test_the_manual_s_oidc() -> None:
    entries = manual("oidc").entries["socket_map"]
    assert entries["plain"].backend_oidc.scopes == ("api.read", "api.write")
    assert entries["example"].backend_oidc.auth_method == "client_secret_post"
    assert (entries["example"].sasl_oidc.validation, entries["example"].sasl_oidc.account_claim) == (
        "auto",
        "dovecot_account",
    )


SAME = {
    "yaml": """\
server:
  listen:
    - kind: socket_map
      name: m
      type: tcp
      port: 5
      worker_pool: {max_workers: 2}
    - {kind: dovecot_sasl, name: s, type: unix, address: /run/s, mode: "0660"}
  http_client: {timeout: 1.5}
  max_connections: 0x10
socket_maps:
  defaults:
    target: "http://h/{{ .Key }}"
    custom_headers: ["A: \\"x\\""]
    value_field: v
  a.b:
    status_code: [200, 404]
    payload: |
      two
      lines
  c: {}
dovecot_sasl:
  s: {target: "http://h/", http_auth_basic: "u:p"}
""",
    "json": """\
{"server": {"listen": [
    {"kind": "socket_map", "name": "m", "type": "tcp", "port": 5, "worker_pool": {"max_workers": 2}},
    {"kind": "dovecot_sasl", "name": "s", "type": "unix", "address": "/run/s", "mode": "0660"}],
  "http_client": {"timeout": 1.5}, "max_connections": 16},
 "socket_maps": {
   "defaults": {"target": "http://h/{{ .Key }}", "custom_headers": ["A: \\"x\\""], "value_field": "v"},
   "a.b": {"status_code": [200, 404], "payload": "two\\nlines\\n"}, "c": null},
 "dovecot_sasl": {"s": {"target": "http:\\/\\/h/", "http_auth_basic": "u:p"}}}
""",
    "toml": """\
[[server.listen]]
kind = "socket_map"
name = 'm'
type = "tcp"
port = 5
[server.listen.worker_pool]
max_workers = 2
[[server.listen]]
kind = "dovecot_sasl"
name = "s"
type = "unix"
address = "/run/s"
mode = "0660"
[server]
http_client.timeout = 1.5
max_connections = 0x10
[socket_maps.defaults]
target = "http://h/{{ .Key }}"
custom_headers = ['A: "x"']
value_field = "v"
[socket_maps."a.b"]
status_code = [200, 404]
payload = '''
two
lines
'''
[socket_maps.c]
[dovecot_sasl]
s = {target = "http://h/", http_auth_basic = "u:p"}
""",
}


def test_three_formats_say_the_same() -> None:
    loaded = {form: load_text(text, "f", form, {}) for form, text in SAME.items()}
    assert loaded["yaml"].settings == loaded["json"].settings == loaded["toml"].settings
    assert loaded["yaml"].document == loaded["json"].document == loaded["toml"].document
    assert loaded["yaml"].settings.entries["socket_map"]["a.b"].payload == "two\nlines\n"
    assert loaded["yaml"].settings.server.max_connections == 16


@pytest.mark.parametrize("form", SAME)
def test_the_effective_document_loads_to_the_same_settings(form: str) -> None:
    loaded = load_text(SAME[form], "f", form, {"PFXHTTP_SERVER_LOGGING_LEVEL": "debug"})
    again = load_text(as_yaml(loaded.document), "f", "yaml", {})
    assert again.settings == loaded.settings
    assert again.document == loaded.document
    assert again.settings.server.logging.level == "debug"


FIVE = {
    "yaml": """\
server:
  listen:
    - kind: socket_map
      name: m
      port: 99999
  loging: {}
socket_maps:
  a:
    value_field: v
    target: h
    timeout: 1 week
policy_services:
  p:
    target: http://h/
""",
    "json": """\
{"server": {
  "listen": [
    {"kind": "socket_map",
      "name": "m",
      "port": 99999}],
  "loging": {}},
"socket_maps": {
  "a": {
    "value_field": "v",
    "target": "h",
    "timeout": "1 week"}},
"policy_services": {
  "p": {
    "target": "http://h/"}}}
""",
    "toml": """\

[[server.listen]]
kind = "socket_map"
name = "m"
      port = 99999
  [server.loging]
[socket_maps.a]
value_field = "v"

    target = "h"
    timeout = "1 week"

  [policy_services.p]
target = "http://h/"
""",
}
"""One mistake in each of the lines 5, 6, 10, 11 and 13."""


@pytest.mark.parametrize("form", FIVE)
def test_every_mistake_is_reported_in_the_order_of_the_file(form: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(FIVE[form], "f", form, {})
    column = {"yaml": (13, 3, 13, 14, 3), "json": (15, 3, 15, 16, 3), "toml": (14, 4, 14, 15, 4)}[form]
    assert str(caught.value).splitlines() == [
        f"f:5:{column[0]}: server.listen[0].port: must be from 1 to 65535, not 99999",
        f"f:6:{column[1]}: server.loging: unknown key (did you mean logging?)",
        f"f:10:{column[2]}: socket_maps.a.target: expected a URL that begins with http:// or https://",
        f'f:11:{column[3]}: socket_maps.a.timeout: expected a duration such as "500ms", "30s" or "1h30m" (a bare number is seconds), not "1 week"',
        f"f:13:{column[4]}: policy_services.p.value_field: is missing",
    ]


def test_the_caller_s_checks_are_reported_like_the_others() -> None:
    def check(entry: Entry) -> Iterator[tuple[str, str]]:
        assert entry.kind in ("socket_map", "dovecot_sasl")
        if entry.name == "a.b":
            yield "payload", "is refused"
            yield "method", "was not given"
        yield "target", "is the default's"

    with pytest.raises(ConfigError) as caught:
        load_text(SAME["yaml"], "f", "yaml", {}, [check])
    assert caught.value.problems == (
        Problem("f", 13, 13, "socket_maps.defaults.target", "is the default's"),
        Problem("f", 16, 3, 'socket_maps."a.b".method', "was not given"),
        Problem("f", 18, 14, 'socket_maps."a.b".payload', "is refused"),
        Problem("f", 23, 15, "dovecot_sasl.s.target", "is the default's"),
    )


def test_the_caller_s_checks_also_see_entries_with_other_mistakes() -> None:
    text = SAME["yaml"].replace("status_code: [200, 404]", "status_code: 1").replace("c: {}", "c: {target: 5}")
    seen: list[Any] = []
    with pytest.raises(ConfigError) as caught:
        load_text(text, "f", "yaml", {}, [lambda entry: seen.append(entry) or [("payload", "!")]])
    assert [entry.name for entry in seen] == ["a.b", "c", "s"]
    assert seen[0].status_codes == {200}, "what is wrong has its default"
    assert [str(problem).split(": ")[1] for problem in caught.value.problems] == [
        'socket_maps."a.b".status_code',
        'socket_maps."a.b".payload',
        "socket_maps.c.payload",
        "socket_maps.c.target",
        "dovecot_sasl.s.payload",
    ]


def test_a_value_known_to_be_wrong_is_not_reported_again_by_the_caller_s_checks() -> None:
    text = SAME["yaml"].replace('s: {target: "http://h/"', 's: {target: "ftp://h/"')
    with pytest.raises(ConfigError) as caught:
        load_text(text, "f", "yaml", {}, [lambda entry: [("target", "one"), ("target", "two")]])
    assert [(problem.path, problem.message) for problem in caught.value.problems] == [
        ("socket_maps.defaults.target", "one"),
        ("socket_maps.defaults.target", "two"),
        ("dovecot_sasl.s.target", "expected a URL that begins with http:// or https://"),
    ]

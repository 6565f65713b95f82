"""Overrides from the environment."""

from __future__ import annotations

from typing import Any

import pytest

MAP = "socket_maps: {demo: {target: 'http://h/', value_field: v}}\n"


@pytest.mark.parametrize(
    "name, text, path, expected",
    [
        ("LOGGING_LEVEL", "debug", "logging.level", "debug"),
        ("LOGGING_JSON", "true", "logging.json", True),
        ("LOGGING_JSON", "1", "logging.json", True),
        ("LOGGING_USE_SYSTEMD", "No", "logging.use_systemd", False),
        ("HTTP_CLIENT_TIMEOUT", "90s", "http_client.timeout", 90.0),
        ("HTTP_CLIENT_TIMEOUT", "5", "http_client.timeout", 5.0),
        ("HTTP_CLIENT_PROXY", "http://p:1/", "http_client.proxy", "http://p:1/"),
        ("MAX_CONNECTIONS", " 17 ", "max_connections", 17),
        ("RUN_AS_USER", "123", "run_as_user", "123"),
        ("WORKER_POOL_MAX_WORKERS", "3", "worker_pool.max_workers", 3),
        ("TLS_ROOT_CA", "/ca", "tls.root_ca", "/ca"),
        ("CHROOT", "/jail", "chroot", "/jail"),
    ],
)
def test_a_variable_sets_a_value(name: str, text: str, path: str, expected: Any, accepted: Any) -> None:
    value = accepted(MAP, environ={f"PFXHTTP_SERVER_{name}": text}).settings.server
    for key in path.split("."):
        value = getattr(value, key)
    assert value == expected and type(value) is type(expected)


def test_a_variable_takes_precedence_over_the_file_even_over_a_mistake_in_it(accepted: Any) -> None:
    text = (
        "server:\n  listen: [{kind: socket_map, name: a, port: 1}]\n  logging: {level: loud, json: true}\n  http_client:\n"
        + MAP
    )
    server = accepted(
        text, environ={"PFXHTTP_SERVER_LOGGING_LEVEL": "error", "PFXHTTP_SERVER_HTTP_CLIENT_TIMEOUT": "1s"}
    ).settings.server
    assert (server.logging.level, server.logging.json, server.http_client.timeout) == ("error", True, 1.0)


def test_an_empty_variable_and_those_of_others_change_nothing(accepted: Any) -> None:
    environ = {
        "PFXHTTP_SERVER_LOGGING_LEVEL": "",
        "PFXHTTP_SERVER_NONE": "",
        "PFXHTTP_CONFIG": "x",
        "LOGGING_LEVEL": "x",
    }
    assert accepted(MAP, environ=environ).settings == accepted(MAP).settings


@pytest.mark.parametrize(
    "name, value, line",
    [
        (
            "LOGING_LEVEL",
            "x",
            "no such setting (did you mean PFXHTTP_SERVER_LOGGING_LEVEL or PFXHTTP_SERVER_LOGGING_SYSLOG?)",
        ),
        ("LISTEN", "x", "server.listen is a list, which cannot be set by a variable"),
        ("QQQQQQQQQQQQQQQ", "x", "no such setting"),
        ("LOGGING_LEVEL", "loud", 'server.logging.level: expected one of none, debug, info, error, not "loud"'),
        (
            "LOGGING_LEVEL",
            "debgu",
            'server.logging.level: expected one of none, debug, info, error, not "debgu" (did you mean debug?)',
        ),
        ("MAX_CONNECTIONS", "many", 'server.max_connections: expected a whole number, not "many"'),
        ("MAX_CONNECTIONS", "-1", "server.max_connections: must be from 0 to 10000000, not -1"),
        ("LOGGING_JSON", "2", 'server.logging.json: expected true or false, not "2"'),
        ("RESPONSE_CACHE_TTL", "200h", 'server.response_cache.ttl: must be from 1s to 168h, not "200h"'),
        ("CHROOT", "a\nb", 'server.chroot: expected an absolute path, not "a\\nb"'),
        ("CHROOT", "/\udcff", "server.chroot: a text must not hold U+0000 or half a surrogate pair"),
        (
            "HTTP_CLIENT_PROXY",
            "u:secret@h",
            "server.http_client.proxy: expected a URL that begins with http:// or https://",
        ),
    ],
)
def test_a_variable_that_cannot_be_used(name: str, value: str, line: str, refused: Any) -> None:
    (problem,) = refused(MAP, environ={f"PFXHTTP_SERVER_{name}": value})
    assert problem.startswith(f"environment: PFXHTTP_SERVER_{name}: {line}")


@pytest.mark.parametrize("server", ["5", "[a]", "text"])
def test_a_section_of_the_wrong_type_is_reported(server: str, refused: Any) -> None:
    lines = refused(f"server: {server}\n{MAP}", environ={"PFXHTTP_SERVER_LOGGING_LEVEL": "info"})
    assert lines[0].startswith("1:9: server: expected a mapping, not ")


ENTRIES = """\
socket_maps:
  defaults: {target: 'http://h/', value_field: v}
  demo: {http_auth_basic: 'file:secret'}
  my-map.2: {backend_oidc_auth: {enabled: true, configuration_uri: 'https://idp/', client_id: a}}
  bare:
policy_services: {rules: {target: 'http://h/', value_field: v}}
dovecot_sasl: {login: {target: 'http://h/'}}
"""


@pytest.mark.parametrize(
    "name, text, kind, entry, path, expected",
    [
        ("SOCKET_MAPS_DEMO_TARGET", "https://i/", "socket_map", "demo", "target", "https://i/"),
        ("SOCKET_MAPS_DEMO_STATUS_CODE", "404", "socket_map", "demo", "status_codes", frozenset({404})),
        ("SOCKET_MAPS_BARE_TIMEOUT", "3s", "socket_map", "bare", "timeout", 3.0),
        ("SOCKET_MAPS_DEFAULTS_TIMEOUT", "4s", "socket_map", "bare", "timeout", 4.0),
        ("SOCKET_MAPS_MY_MAP_2_TARGET", "https://i/", "socket_map", "my-map.2", "target", "https://i/"),
        ("SOCKET_MAPS_MY-MAP.2_TARGET", "https://i/", "socket_map", "my-map.2", "target", "https://i/"),
        (
            "SOCKET_MAPS_MY_MAP_2_BACKEND_OIDC_AUTH_CLIENT_SECRET",
            "s3cret",
            "socket_map",
            "my-map.2",
            "backend_oidc.client_secret",
            "s3cret",
        ),
        ("POLICY_SERVICES_RULES_FAILURE_ACTION", "DUNNO", "policy_service", "rules", "failure_action", "DUNNO"),
        ("POLICY_SERVICES_DEFAULTS_METHOD", "GET", "policy_service", "rules", "method", "GET"),
        ("DOVECOT_SASL_LOGIN_DEFAULT_LOCAL_PORT", "587", "dovecot_sasl", "login", "default_local_port", "587"),
        ("DOVECOT_SASL_LOGIN_SASL_OIDC_AUTH_USERNAME_MATCH", "on", "dovecot_sasl", "login", "sasl_oidc.username_match", True),
    ],
)  # fmt: skip
def test_a_variable_sets_a_value_of_an_entry(
    name: str, text: str, kind: str, entry: str, path: str, expected: Any, accepted: Any
) -> None:
    value = accepted(ENTRIES, environ={f"PFXHTTP_{name}": text}).settings.entries[kind][entry]
    for key in path.split("."):
        value = getattr(value, key)
    assert value == expected


def test_credentials_from_the_environment_replace_those_of_the_file(accepted: Any) -> None:
    environ = {"PFXHTTP_SOCKET_MAPS_DEMO_HTTP_AUTH_BASIC": "user:other", "PFXHTTP_SOCKET_MAPS_DEFAULTS_HTTP_AUTH_BASIC": "a:b"}  # fmt: skip
    maps = accepted(ENTRIES, environ=environ).settings.entries["socket_map"]
    assert maps["demo"].headers == (("Authorization", "Basic dXNlcjpvdGhlcg=="),)
    assert maps["bare"].headers == (("Authorization", "Basic YTpi"),)


@pytest.mark.parametrize(
    "name, line",
    [
        ("SOCKET_MAPS_DEMO_TARGT", "no such setting (did you mean PFXHTTP_SOCKET_MAPS_DEMO_TARGET"),
        ("SOCKET_MAPS_NONE_TARGET", "no such setting"),
        ("DOVECOT_SASL_LOGIN", "no such setting"),
        ("SOCKET_MAPS_DEMO_CUSTOM_HEADERS", "socket_maps.demo.custom_headers is a list, which cannot be set by a variable"),
        (
            "DOVECOT_SASL_LOGIN_SASL_OIDC_AUTH_REQUIRED_CLAIMS",
            "dovecot_sasl.login.sasl_oidc_auth.required_claims is a mapping, which cannot be set by a variable",
        ),
        ("SOCKET_MAPS_DEMO_METHOD", "socket_maps.demo.method: expected one of "),
    ],
)  # fmt: skip
def test_a_variable_of_an_entry_that_cannot_be_used(name: str, line: str, refused: Any) -> None:
    (problem,) = refused(ENTRIES, environ={f"PFXHTTP_{name}": "xyz"})
    assert problem.startswith(f"environment: PFXHTTP_{name}: {line}")


@pytest.mark.parametrize(
    "names, variable, line",
    [
        (("a-b", "a_b"), "A_B_TARGET", "socket_maps.a-b.target or socket_maps.a_b.target"),
        (
            ("a", "a_backend_oidc_auth"),
            "A_BACKEND_OIDC_AUTH_CLIENT_ID",
            "",
        ),
        (
            ("a_backend", "a_backend_oidc_auth", "a"),
            "A_BACKEND_OIDC_AUTH_CLIENT_ID",
            "",
        ),
        (
            ("a", "a_backend_oidc_auth_client"),
            "A_BACKEND_OIDC_AUTH_CLIENT_ID",
            "",
        ),
        (("x", "X"), "X_TARGET", "socket_maps.x.target or socket_maps.X.target"),
    ],
)
def test_a_variable_that_could_mean_two_values(
    names: tuple[str, ...], variable: str, line: str, accepted: Any, refused: Any
) -> None:
    text = "socket_maps:\n" + "".join(f"  {name}: {{target: 'http://h/', value_field: v}}\n" for name in names)
    assert accepted(text)
    environ = {f"PFXHTTP_SOCKET_MAPS_{variable}": "http://i/"}
    if line:
        assert refused(text, environ=environ) == [
            f"environment: {next(iter(environ))}: is ambiguous: it can mean {line}"
        ]
    else:
        maps = accepted(text, environ=environ).settings.entries["socket_map"]
        assert maps["a"].backend_oidc.client_id == "http://i/"

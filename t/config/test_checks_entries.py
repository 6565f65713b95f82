"""Entries, and `server` without its listeners: mistakes with their locations, and values of another type."""

from __future__ import annotations

from typing import Any

import pytest

from pfxhttpd.config.settings import BackendOidc, SaslOidc

START = "socket_maps:\n  demo:\n    target: http://h/\n    value_field: v\n"
"""With the listener of the fixture these are lines 4 to 7."""


@pytest.mark.parametrize(
    "more, line",
    [
        ("    target2: x\n", "8:5: socket_maps.demo.target2: unknown key (did you mean target?)"),
        ("    status-code: 200\n", "8:5: socket_maps.demo.status-code: unknown key (did you mean status_code?)"),
        ("    Payload: x\n", "8:5: socket_maps.demo.Payload: unknown key (did you mean payload?)"),
        ("    ttl: 5s\n", "8:5: socket_maps.demo.ttl: unknown key (it belongs in server.response_cache)"),
        (
            "    failure_action: x\n",
            "8:5: socket_maps.demo.failure_action: unknown key (it belongs in policy_services.<name>)",
        ),
        (
            "    default_local_port: 1\n",
            "8:5: socket_maps.demo.default_local_port: unknown key (it belongs in dovecot_sasl.<name>)",
        ),
        (
            "    audience: x\n",
            "8:5: socket_maps.demo.audience: unknown key (it belongs in socket_maps.<name>.sasl_oidc_auth or socket_maps.<name>.sasl_oidc_auth.providers[] or policy_services.<name>.sasl_oidc_auth)",
        ),
        (
            "    backend_oidc_auth: {enabld: true}\n",
            "8:25: socket_maps.demo.backend_oidc_auth.enabld: unknown key (did you mean enabled?)",
        ),
        (
            "  second: {target: !x y, value_field: v}\n",
            "8:20: socket_maps.second.target: a YAML tag that means nothing here (a value that begins with ! must be in quotes)",
        ),
        ("    zzz: 1\n", "8:5: socket_maps.demo.zzz: unknown key"),
        ('    "a\\nb": 1\n', '8:5: socket_maps.demo."a\\nb": unknown key'),
        ("listen: []\n", "8:1: listen: unknown key (it belongs in server)"),
        ("socket_map: {}\n", "8:1: socket_map: unknown key (did you mean socket_maps?)"),
        ("    status_code: 99\n", "8:18: socket_maps.demo.status_code: must be from 100 to 599, not 99"),
        ("    status_code: [200, 600]\n", "8:24: socket_maps.demo.status_code[1]: must be from 100 to 599, not 600"),
        ("    status_code: []\n", "8:18: socket_maps.demo.status_code: must have at least one item"),
        ("    status_code: ok\n", '8:18: socket_maps.demo.status_code: expected a whole number or a list, not "ok"'),
        ("    timeout: 5ms\n", '8:14: socket_maps.demo.timeout: must be from 10ms to 1h, not "5ms"'),
        (
            "    timeout: 5d\n",
            '8:14: socket_maps.demo.timeout: expected a duration such as "500ms", "30s" or "1h30m" (a bare number is seconds), not "5d"',
        ),
        (
            "    timeout: true\n",
            '8:14: socket_maps.demo.timeout: expected a duration such as "500ms", "30s" or "1h30m" (a bare number is seconds), not true',
        ),
        (
            "    timeout: .nan\n",
            '8:14: socket_maps.demo.timeout: expected a duration such as "500ms", "30s" or "1h30m" (a bare number is seconds), not nan',
        ),
        (
            "    timeout: -1\n",
            '8:14: socket_maps.demo.timeout: expected a duration such as "500ms", "30s" or "1h30m" (a bare number is seconds), not -1',
        ),
        ("    method: PUT\n", '8:13: socket_maps.demo.method: expected one of POST, GET, not "PUT"'),
        (
            "    method: get\n",
            '8:13: socket_maps.demo.method: expected one of POST, GET, not "get" (did you mean GET?)',
        ),
        (
            "    http_request_compression: 1\n",
            "8:31: socket_maps.demo.http_request_compression: expected true or false, not 1",
        ),
        (
            "    http_request_compression: 'yes'\n",
            '8:31: socket_maps.demo.http_request_compression: expected true or false, not "yes"',
        ),
        (
            '    error_field: "a\\n"\n',
            '8:18: socket_maps.demo.error_field: expected a text on one line without control characters, not "a\\n"',
        ),
        (
            "    no_error_value: no\n",
            "8:21: socket_maps.demo.no_error_value: expected a text, not false (put it in quotes)",
        ),
        ('    payload: {"key": 1}\n', "8:14: socket_maps.demo.payload: expected a text (put it in quotes)"),
        ("    http_auth_basic: 12:34\n", "8:22: socket_maps.demo.http_auth_basic: expected a text (put it in quotes)"),
        (
            "    http_auth_basic: geheim\n",
            "8:22: socket_maps.demo.http_auth_basic: expected user:password, but there is no colon",
        ),
        ("    custom_headers: 'A: 1'\n", "8:21: socket_maps.demo.custom_headers: expected a list"),
        ("    custom_headers: [A: 1]\n", "8:22: socket_maps.demo.custom_headers[0]: expected a text, not a mapping"),
        (
            "    custom_headers: [geheim]\n",
            "8:22: socket_maps.demo.custom_headers[0]: expected a header line, `Name: value`, but there is no colon",
        ),
        (
            "    custom_headers: ['A: 1', 'B b: geheim']\n",
            '8:30: socket_maps.demo.custom_headers[1]: "B b" is no header name',
        ),
        ("    custom_headers: [': 1']\n", '8:22: socket_maps.demo.custom_headers[0]: "" is no header name'),
        (
            '    custom_headers: ["A: 1\\r\\nB: 2"]\n',
            "8:22: socket_maps.demo.custom_headers[0]: the value of A must be one line of printable ASCII",
        ),
        (
            "    custom_headers: ['A: \u00fc']\n",
            "8:22: socket_maps.demo.custom_headers[0]: the value of A must be one line of printable ASCII",
        ),
        (
            "    custom_headers: ['CONTENT-length: 1']\n",
            "8:22: socket_maps.demo.custom_headers[0]: CONTENT-length cannot be configured, the HTTP client sets it",
        ),
        (
            "    custom_headers: ['Transfer-Encoding: x']\n",
            "8:22: socket_maps.demo.custom_headers[0]: Transfer-Encoding cannot be configured, the HTTP client sets it",
        ),
        (
            "    custom_headers: ['connection: close']\n",
            "8:22: socket_maps.demo.custom_headers[0]: connection cannot be configured, the HTTP client sets it",
        ),
        (
            "    http_auth_basic: a:b\n    http_auth_basic_file: /x\n",
            "9:5: socket_maps.demo.http_auth_basic_file: given together with `http_auth_basic`; only one of the two is allowed",
        ),
        (
            "    backend_oidc_auth: {enabled: true, client_id: x}\n",
            "8:5: socket_maps.demo.backend_oidc_auth.configuration_uri: is missing",
        ),
        (
            "    backend_oidc_auth: {enabled: true, configuration_uri: 'http://p/'}\n",
            "8:5: socket_maps.demo.backend_oidc_auth.client_id: is missing",
        ),
        (
            "    backend_oidc_auth: {configuration_uri: 'p/'}\n",
            "8:44: socket_maps.demo.backend_oidc_auth.configuration_uri: expected a URL that begins with http:// or https://",
        ),
        (
            "    backend_oidc_auth: {enabled: true, configuration_uri: 'http://p/', client_id: x, auth_method: private_key_jwt}\n",
            "8:99: socket_maps.demo.backend_oidc_auth.auth_method: private_key_jwt needs `private_key_file`",
        ),
        (
            "    backend_oidc_auth: {enabled: true, configuration_uri: 'http://p/', client_id: x, auth_method: client_secret_post}\n",
            "8:99: socket_maps.demo.backend_oidc_auth.auth_method: client_secret_post needs `client_secret` or `client_secret_file`",
        ),
        (
            "    backend_oidc_auth: {client_secret: a, client_secret_file: /x}\n",
            "8:43: socket_maps.demo.backend_oidc_auth.client_secret_file: given together with `client_secret`; only one of the two is allowed",
        ),
        (
            "    backend_oidc_auth: {scopes: ['a b']}\n",
            '8:34: socket_maps.demo.backend_oidc_auth.scopes[0]: expected a scope: printable ASCII without blanks, quotes and backslashes, not "a b"',
        ),
        (
            "    sasl_oidc_auth: {jwks_cache_ttl: 999ms}\n",
            '8:38: socket_maps.demo.sasl_oidc_auth.jwks_cache_ttl: must be from 1s to 168h, not "999ms"',
        ),
        (
            "    sasl_oidc_auth: {validation: jwk}\n",
            '8:34: socket_maps.demo.sasl_oidc_auth.validation: expected one of introspection, jwks, auto, userinfo, not "jwk" (did you mean jwks?)',
        ),
        ("  second: {target: 'http://h/'}\n", "8:3: socket_maps.second.value_field: is missing"),
        ("  second: {value_field: v, target: ''}\n", "8:3: socket_maps.second.target: is missing"),
        ("  second: {value_field: '', target: 'http://h/'}\n", "8:3: socket_maps.second.value_field: is missing"),
        (
            "  second: {value_fild: v, target: 'http://h/'}\n",
            "8:12: socket_maps.second.value_fild: unknown key (did you mean value_field?)",
        ),
        (
            "  target: http://h/\n",
            '8:11: socket_maps.target: expected a mapping, not "http://h/" (target belongs one level deeper, below the name of an entry)',
        ),
        (
            "  two words: {target: 'http://h/', value_field: v}\n",
            '8:3: socket_maps."two words": expected a name without blanks and control characters, for a request\'s map name ends at the first blank',
        ),
        (
            "  '': {target: 'http://h/', value_field: v}\n",
            '8:3: socket_maps."": expected a name without blanks and control characters, for a request\'s map name ends at the first blank',
        ),
        (
            "  \"a\\u0085\": {target: 'http://h/', value_field: v}\n",
            '8:3: socket_maps."a\\x85": expected a name without blanks and control characters, for a request\'s map name ends at the first blank',
        ),
        (
            "  \"a\\n\": {target: 'http://h/', value_field: v}\n",
            '8:3: socket_maps."a\\n": expected a name without blanks and control characters, for a request\'s map name ends at the first blank',
        ),
        ("policy_services:\n  p: {target: 'http://h/'}\n", "9:3: policy_services.p.value_field: is missing"),
        (
            "policy_services:\n  p: {target: 'http://h/', value_field: v, failure_action: ''}\n",
            '9:60: policy_services.p.failure_action: expected an action on one line that begins with a word, or with a 4xx or 5xx code followed by text, not ""',
        ),
        (
            "policy_services:\n  p: {target: 'http://h/', value_field: v, failure_action: 450}\n",
            '9:60: policy_services.p.failure_action: expected an action on one line that begins with a word, or with a 4xx or 5xx code followed by text, not "450"',
        ),
        (
            "policy_services:\n  p: {target: 'http://h/', value_field: v, cache_ignore: ['']}\n",
            "9:59: policy_services.p.cache_ignore[0]: must not be empty",
        ),
        ("dovecot_sasl:\n  s: {}\n", "9:3: dovecot_sasl.s.target: is missing"),
        (
            "dovecot_sasl:\n  s: {target: 'http://h/', method: GET}\n",
            "9:28: dovecot_sasl.s.method: unknown key (it belongs in socket_maps.<name> or policy_services.<name>)",
        ),
        (
            "dovecot_sasl:\n  s: {target: 'http://h/', default_local_port: 65536}\n",
            "9:48: dovecot_sasl.s.default_local_port: must be from 1 to 65535, not 65536",
        ),
        (
            "dovecot_sasl:\n  s: {target: 'http://h/', default_local_port: '065'}\n",
            '9:48: dovecot_sasl.s.default_local_port: expected a port from 1 to 65535, not "065"',
        ),
        (
            "dovecot_sasl:\n  s: {target: 'http://h/', sasl_oidc_auth: {enabled: true, configuration_uri: 'http://p/', client_secret: s}}\n",
            "9:28: dovecot_sasl.s.sasl_oidc_auth.client_id: is missing",
        ),
    ],
)
def test_a_mistake_in_an_entry(more: str, line: str, refused: Any) -> None:
    assert refused(START + more) == [line]


@pytest.mark.parametrize(
    "more, line",
    [
        ("  tls: {cert: /c}", "3:15: server.tls.cert: a `cert` needs a `key`"),
        ("  tls: {enabled: true, key: /k, cert: ''}", "3:29: server.tls.key: a `key` needs a `cert`"),
        (
            f"  runtime_directory: /{'x' * 90}",
            "3:22: server.runtime_directory: the path can have 90 bytes, this has 91; there will be Unix sockets in the directory",
        ),
        (
            "  http_client: {proxy: 'socks5://p:1'}",
            "3:24: server.http_client.proxy: expected a URL that begins with http:// or https://",
        ),
        ("  http_client: {timeout: 61m}", '3:26: server.http_client.timeout: must be from 10ms to 1h, not "61m"'),
        ("  response_cache: {ttl: 0.5}", "3:25: server.response_cache.ttl: must be from 1s to 168h, not 0.5"),
        ("  response_cache: {ttl: 169h}", '3:25: server.response_cache.ttl: must be from 1s to 168h, not "169h"'),
        (
            "  circuit_breaker: {failures: -1}",
            "3:31: server.circuit_breaker.failures: must be from 0 to 1000000, not -1",
        ),
        ("  worker_pool: {max_workers: 0}", "3:30: server.worker_pool.max_workers: must be from 1 to 1000, not 0"),
        ("  chroot: jail", '3:11: server.chroot: expected an absolute path, not "jail"'),
        (
            "  logging: {syslog: mial}",
            '3:21: server.logging.syslog: expected one of auth, authpriv, cron, daemon, ftp, kern, lpr, mail, news, syslog, user, uucp, local0, local1, local2, local3, local4, local5, local6, local7, not "mial" (did you mean mail?)',
        ),
        ("  logging: {level: 5}", '3:20: server.logging.level: expected one of none, debug, info, error, not "5"'),
        ("  run_as_usr: x", "3:3: server.run_as_usr: unknown key (did you mean run_as_user or run_as_group?)"),
        (
            "  custom_header: []",
            "3:3: server.custom_header: unknown key (did you mean custom_headers in socket_maps.<name> or policy_services.<name> or dovecot_sasl.<name>?)",
        ),
        (
            "  timeout: 5s",
            "3:3: server.timeout: unknown key (it belongs in server.http_client or socket_maps.<name> or policy_services.<name>)",
        ),
    ],
)
def test_a_mistake_in_server(more: str, line: str, refused: Any) -> None:
    text = f"server:\n  listen: [{{kind: socket_map, name: a, port: 1}}]\n{more}\nsocket_maps: {{a: {{target: 'http://h/', value_field: v}}}}\n"
    assert refused(text)[0].startswith(line)
    assert len(refused(text)) == 1


@pytest.mark.parametrize(
    "more, key, expected",
    [
        ("status_code: '201'", "status_codes", {201}),
        ("status_code: [200, '404', 204.0]", "status_codes", {200, 204, 404}),
        ("http_request_compression: 'true'", "http_request_compression", True),
        ("http_request_compression: 'false'", "http_request_compression", False),
        ("error_field: 5", "error_field", "5"),
        ("timeout: '5'", "timeout", 5.0),
        ("timeout: 10ms", "timeout", 0.01),
        ("timeout: 60m", "timeout", 3600.0),
        ("timeout: 5.5", "timeout", 5.5),
        ("payload: ~", "payload", ""),
        ("no_error_value: 0", "no_error_value", "0"),
        ("method: GET", "method", "GET"),
        ("status_code:", "status_codes", {200}),
        ("backend_oidc_auth:", "backend_oidc", BackendOidc()),
    ],
)
def test_a_value_that_is_coerced(more: str, key: str, expected: Any, accepted: Any) -> None:
    entry = accepted(f"{START}    {more}\n").settings.entries["socket_map"]["demo"]
    assert getattr(entry, key) == expected


def test_a_number_that_could_mean_two_texts_is_refused(refused: Any) -> None:
    for number in ("0755", "1_000", "0x1F", "12:30"):
        assert len(refused(f"{START}    error_field: {number}\n")) == 1


def test_sasl_settings(accepted: Any) -> None:
    entry = accepted(
        START
        + """\
dovecot_sasl:
  s:
    target: http://h/
    default_local_port: 587
    temporary_failure: fail
    payload: has no effect
    sasl_oidc_auth: {enabled: true, configuration_uri: "https://p/", validation: jwks, jwks_cache_ttl: 1m, account_claim: c, audience: a}
"""
    ).settings.entries["dovecot_sasl"]["s"]
    assert (entry.default_local_port, entry.temporary_failure) == ("587", "fail")
    assert entry.sasl_oidc == SaslOidc(
        True, "https://p/", validation="jwks", jwks_cache_ttl=60, account_claim="c", audience=("a",)
    )


@pytest.mark.parametrize(
    ("written", "codes"),
    [
        ("", set()),
        ("    reject_status: []\n", set()),
        ("    reject_status: 403\n", {403}),
        ("    reject_status: '403'\n", {403}),
    ],
)
def test_codes_that_reject(written: str, codes: set[int], accepted: Any) -> None:
    text = f"dovecot_sasl:\n  s:\n    target: http://h/\n{written}"
    assert accepted(START + text).settings.entries["dovecot_sasl"]["s"].reject_status == codes


def test_codes_that_reject_are_inherited_and_replaced(accepted: Any) -> None:
    text = "dovecot_sasl: {defaults: {target: 'http://h/', reject_status: [400, 403]}, a: {}, b: {reject_status: []}}\n"
    entries = accepted(START + text).settings.entries["dovecot_sasl"]
    assert (entries["a"].reject_status, entries["b"].reject_status) == ({400, 403}, set())


@pytest.mark.parametrize(
    ("written", "line"),
    [
        ("reject_status: 99", "10:20: dovecot_sasl.s.reject_status: must be from 100 to 599, not 99"),
        ("reject_status: ok", '10:20: dovecot_sasl.s.reject_status: expected a whole number or a list, not "ok"'),
    ],
)
def test_codes_that_cannot_reject(written: str, line: str, refused: Any) -> None:
    assert refused(f"{START}dovecot_sasl:\n  s: {{target: http://h/,\n    {written}}}\n") == [line]


def test_a_lookup_has_no_codes_that_reject(refused: Any) -> None:
    assert refused(f"{START}    reject_status: 403\n") == [
        "8:5: socket_maps.demo.reject_status: unknown key (it belongs in dovecot_sasl.<name>)"
    ]


def test_what_tokens_must_have(accepted: Any) -> None:
    entry = accepted(
        START
        + """\
dovecot_sasl:
  s:
    target: http://h/
    sasl_oidc_auth:
      enabled: true
      configuration_uri: https://p/
      audience: [a, b]
      issuers: ["https://sts.example/{tenantid}/"]
      required_scopes: [mail, send]
      required_claims: {token_type: access_token, mail_enabled: true, level: 3}
      username_match: true
      clock_skew: 0
"""
    ).settings.entries["dovecot_sasl"]["s"]
    assert entry.sasl_oidc == SaslOidc(
        True,
        "https://p/",
        audience=("a", "b"),
        issuers=("https://sts.example/{tenantid}/",),
        required_scopes=("mail", "send"),
        required_claims={"token_type": "access_token", "mail_enabled": True, "level": 3},
        username_match=True,
        clock_skew=0.0,
    )


PROVIDERS = """\
dovecot_sasl:
  s:
    target: http://h/
    sasl_oidc_auth:
      enabled: %s
      providers:
        - {configuration_uri: https://p/, validation: jwks, audience: a}
        - {configuration_uri: https://q/, client_id: us, client_secret_file: secret}
        - {configuration_uri: https://r/, enabled: false}
"""


def test_several_providers(accepted: Any, tmp_path: Any) -> None:
    (tmp_path / "secret").write_text("geheim")
    text = START + PROVIDERS
    (p, q) = accepted(text % "true", file=f"{tmp_path}/f").settings.entries["dovecot_sasl"]["s"].sasl_oidc.providers
    assert p == SaslOidc(True, "https://p/", validation="jwks", audience=("a",))
    assert q == SaslOidc(True, "https://q/", "us", "geheim", auth_method="client_secret_basic")
    assert accepted(text % "false", file="/f").settings.entries["dovecot_sasl"]["s"].sasl_oidc.providers == ()


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        ("assertion_audience: x", "assertion_audience: expected endpoint, issuer or a URL"),
        ("validation: userinfo, audience: a", "audience: cannot be checked with `validation: userinfo`"),
        ("validation: userinfo, required_scopes: [a]", "required_scopes: cannot be checked"),
        ("tokeninfo_url: 'https://t/'", "tokeninfo_url: has no effect without `validation: userinfo`"),
        ("validation: userinfo, tokeninfo_url: 't'", "tokeninfo_url: expected a URL"),
        ("providers: [{configuration_uri: 'https://q/'}]", "configuration_uri: has no effect beside `providers`"),
        ("clock_skew: 1h", "clock_skew: must be from 0s to 10m"),
        ("required_claims: {a: [1]}", "required_claims.a: expected a text or a whole number or true or false"),
        ("audience: 7", "audience: expected a text or a list, not 7"),
        ("audience: ['']", "audience[0]: must not be empty"),
    ],
)
def test_mistakes_about_providers(block: str, complaint: str, refused: Any) -> None:
    begin = (
        "dovecot_sasl:\n  s: {target: 'http://h/', sasl_oidc_auth: {enabled: true, configuration_uri: 'https://p/', "
    )
    (line,) = refused(f"{START}{begin}{block}}}}}\n")
    assert f"dovecot_sasl.s.sasl_oidc_auth.{complaint}" in line


@pytest.mark.parametrize(
    ("provider", "complaint"),
    [
        ("{validation: jwks}", "configuration_uri: is missing"),
        ("{configuration_uri: p}", "configuration_uri: expected a URL"),
        ("{configuration_uri: 'https://p/', client_secret: s}", "client_id: is missing"),
        ("{configuration_uri: 'https://p/', providers: []}", "providers: unknown key"),
        (
            "{configuration_uri: 'https://p/', client_secret: a, client_secret_file: b, client_id: c}",
            "client_secret_file: given",
        ),
    ],
)
def test_mistakes_in_one_of_several_providers(provider: str, complaint: str, refused: Any) -> None:
    begin = "dovecot_sasl:\n  s: {target: 'http://h/', sasl_oidc_auth: {enabled: true, providers: ["
    (line,) = refused(f"{START}{begin}{{configuration_uri: 'https://o/'}}, {provider}]}}}}\n")
    assert f"dovecot_sasl.s.sasl_oidc_auth.providers[1].{complaint}" in line


def test_policy_settings(accepted: Any) -> None:
    text = (
        START
        + "policy_services: {p: {target: 'http://h/', value_field: v, failure_action: '450 4.3.0 later', cache_ignore: [stress]}}"
    )
    entry = accepted(text).settings.entries["policy_service"]["p"]
    assert (entry.failure_action, entry.cache_ignore) == ("450 4.3.0 later", {"stress"})


@pytest.mark.parametrize(
    "oidc, method",
    [
        ("enabled: false", "none"),
        ("client_secret: s", "client_secret_basic"),
        ("client_secret_file: /s", "client_secret_basic"),
        ("private_key_file: /k", "private_key_jwt"),
        ("private_key_file: /k, client_secret: s", "private_key_jwt"),
        ("auth_method: auto, client_secret: s", "client_secret_basic"),
        ("auth_method: client_secret_post, client_secret: s", "client_secret_post"),
        ("auth_method: none, client_secret: s", "none"),
        ("auth_method: private_key_jwt, private_key_file: /k", "private_key_jwt"),
    ],
)
def test_how_to_authenticate_to_the_provider(oidc: str, method: str, accepted: Any) -> None:
    entry = accepted(f"{START}    backend_oidc_auth: {{{oidc}}}\n").settings.entries["socket_map"]["demo"]
    assert entry.backend_oidc.auth_method == method

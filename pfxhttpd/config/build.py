"""The frozen settings, made from the merged tree.

The tree has been checked before, so every value in it has the right form.
"""

from __future__ import annotations

import base64
from typing import Any

from pfxhttpd.config.checks import auth_method
from pfxhttpd.config.defaults import authorization_headers
from pfxhttpd.config.node import Node
from pfxhttpd.config.secret_files import SecretFiles
from pfxhttpd.config.settings import (
    DOVECOT_SASL,
    POLICY_SERVICE,
    BackendOidc,
    CircuitBreaker,
    Entry,
    HttpClient,
    Listener,
    Logging,
    Observability,
    Pool,
    PrometheusTls,
    ResponseCacheSettings,
    SaslOidc,
    Server,
    Tls,
)
from pfxhttpd.config.values import otlp_headers, otlp_url, parse_header, seconds


def server(node: Node, watched: Observability) -> Server:
    """The settings of the `server` section. `node` has all defaults in it; `watched` are those of its `observability`."""
    plain = node.plain()
    client, cache, breaker = plain["http_client"], plain["response_cache"], plain["circuit_breaker"]
    return Server(
        listen=tuple(map(_listener, plain["listen"])),
        worker_pool=Pool(**plain["worker_pool"]),
        run_as_user=plain["run_as_user"],
        run_as_group=plain["run_as_group"],
        chroot=plain["chroot"],
        runtime_directory=plain["runtime_directory"],
        logging=Logging(**plain["logging"]),
        tls=Tls(**plain["tls"]),
        http_client=HttpClient(**_in_seconds(client, "timeout", "idle_connection_timeout")),
        response_cache=ResponseCacheSettings(**_in_seconds(cache, "ttl")),
        circuit_breaker=CircuitBreaker(**_in_seconds(breaker, "cooldown")),
        observability=watched,
        socketmap_max_reply_size=plain["socketmap_max_reply_size"],
        client_idle_timeout=seconds(plain["client_idle_timeout"]),
        max_connections=plain["max_connections"],
        shutdown_timeout=seconds(plain["shutdown_timeout"]),
    )


def observability(node: Node, secrets: SecretFiles) -> Observability:
    """The settings of `server.observability`. Those of a block with mistakes are built too, without the wrong values."""
    plain = node.plain()
    del plain["prometheus_http_auth_basic_file"]
    key = "prometheus_http_auth_basic"
    plain[key] = secrets.credentials(node, key) if plain["prometheus_enabled"] else ""
    plain["prometheus_tls"] = PrometheusTls(**plain["prometheus_tls"])
    endpoint, headers = plain["otel_exporter_otlp_endpoint"], plain["otel_exporter_otlp_headers"]
    plain["otel_exporter_otlp_endpoint"] = otlp_url(endpoint, plain["otel_exporter_otlp_insecure"])
    try:
        plain["otel_exporter_otlp_headers"] = otlp_headers(headers)
    except ValueError:
        plain["otel_exporter_otlp_headers"] = ()  # reported by observability_problems
    return Observability(**plain)


def _in_seconds(plain: dict[str, Any], *keys: str) -> dict[str, Any]:
    """The same values, with the durations under `keys` as numbers."""
    return {**plain, **{key: seconds(plain[key]) for key in keys}}


def _listener(plain: dict[str, Any]) -> Listener:
    mode, pool = plain.pop("mode"), plain.pop("worker_pool", None)
    return Listener(
        **plain,
        mode=int(mode.removeprefix("0o"), 8) if mode else -1,
        worker_pool=Pool(**pool) if pool else None,
    )


def entry(kind: str, name: str, node: Node, secrets: SecretFiles) -> Entry:
    """The settings of one entry.

    An entry with mistakes is built too, without the wrong values, so that further checks can look at the others.
    """
    plain = node.plain()
    of_kind: dict[str, Any] = {}
    if kind == POLICY_SERVICE:
        of_kind = {"failure_action": plain["failure_action"], "cache_ignore": frozenset(plain["cache_ignore"])}
    elif kind == DOVECOT_SASL:
        port = plain["default_local_port"]
        of_kind = {
            "reject_status": _codes(plain["reject_status"]),
            "temporary_failure": plain["temporary_failure"],
            "default_local_port": str(port),
        }
    return Entry(
        kind=kind,
        name=name,
        target=plain.get("target", ""),
        method=plain.get("method", "POST"),
        headers=_headers(node, secrets),
        payload=plain["payload"],
        status_codes=_codes(plain["status_code"]),
        value_field=plain["value_field"],
        error_field=plain["error_field"],
        no_error_value=plain["no_error_value"],
        timeout=seconds(plain["timeout"]),
        http_request_compression=plain["http_request_compression"],
        http_response_compression=plain["http_response_compression"],
        backend_oidc=BackendOidc(**_oidc(node.value["backend_oidc_auth"], secrets)),
        sasl_oidc=_sasl_oidc(node.value["sasl_oidc_auth"], secrets),
        **of_kind,
    )


def _codes(written: int | list[int]) -> frozenset[int]:
    """The status codes of a key that takes one or a list."""
    return frozenset(written if isinstance(written, list) else [written])


def _headers(node: Node, secrets: SecretFiles) -> tuple[tuple[str, str], ...]:
    headers: list[tuple[str, str]] = []
    for line in node.value["custom_headers"].value:
        try:
            headers.append(parse_header(line.value))
        except ValueError:
            continue  # reported by written_problems
    if not authorization_headers(node):
        credentials = secrets.credentials(node)
        if credentials:
            headers.append(("Authorization", "Basic " + base64.b64encode(credentials.encode()).decode()))
    return tuple(headers)


def _sasl_oidc(node: Node, secrets: SecretFiles) -> SaslOidc:
    """The settings of `sasl_oidc_auth`, or of one of its providers."""
    plain = _in_seconds(_oidc(node, secrets), "jwks_cache_ttl", "clock_skew")
    audience = plain["audience"]
    plain["audience"] = tuple(audience) if isinstance(audience, list) else (audience,) if audience else ()
    for key in ("issuers", "required_scopes"):
        plain[key] = tuple(plain[key])
    providers = node.get("providers")
    if providers is not None:
        built = (_sasl_oidc(provider, secrets) for provider in providers.value) if plain["enabled"] else ()
        plain["providers"] = tuple(provider for provider in built if provider.enabled)
    return SaslOidc(**plain)


def _oidc(node: Node, secrets: SecretFiles) -> dict[str, Any]:
    plain: dict[str, Any] = node.plain()
    del plain["client_secret_file"]
    plain["auth_method"] = auth_method(node)
    plain["scopes"] = tuple(plain["scopes"])
    if plain["enabled"]:
        plain["client_secret"] = secrets.text(node, "client_secret")
        key = node.value["private_key_file"]
        if key.value:
            plain["private_key"] = secrets.pem(key)
            plain["private_key_file"] = secrets.path(key)
    return plain

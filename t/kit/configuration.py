"""Configurations of a test's daemon, as mappings: only what the test is about has to be said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def listener(kind: str, name: str, port: int = 0, **more: Any) -> dict[str, Any]:
    """A listener on 127.0.0.1, or on the Unix socket `address` when no port is given."""
    if port:
        return {"kind": kind, "name": name, "type": "tcp", "address": "127.0.0.1", "port": port, **more}
    return {"kind": kind, "name": name, "type": "unix", **more}


def socket_map(target: str, **more: Any) -> dict[str, Any]:
    """A socket map's entry; the value is the member `result`, an error the member `error`."""
    return {"target": target, "value_field": "result", "error_field": "error", **more}


def policy(target: str, **more: Any) -> dict[str, Any]:
    """A policy service's entry; the action is the member `action`, an error the member `error`."""
    return {"target": target, "value_field": "action", "error_field": "error", **more}


def configuration(
    *listeners: Mapping[str, Any],
    socket_maps: Mapping[str, Any] | None = None,
    policy_services: Mapping[str, Any] | None = None,
    dovecot_sasl: Mapping[str, Any] | None = None,
    workers: int = 2,
    level: str = "debug",
    **server: Any,
) -> dict[str, Any]:
    """A whole configuration: few workers, a talkative log, no circuit breaker unless the test sets one."""
    settings: dict[str, Any] = {
        "listen": [dict(each) for each in listeners],
        "logging": {"level": level},
        "worker_pool": {"max_workers": workers},
        "circuit_breaker": {"failures": 0},
    }
    settings.update(server)
    sections = {"socket_maps": socket_maps, "policy_services": policy_services, "dovecot_sasl": dovecot_sasl}
    return {"server": settings, **{name: dict(entries) for name, entries in sections.items() if entries}}


def traces(endpoint: str, **more: Any) -> dict[str, Any]:
    """The section `server.observability` that sends a trace of each request to a collector."""
    keys = {"otel_enabled": True, "otel_traces_enabled": True, "otel_exporter_otlp_endpoint": endpoint}
    return {**keys, **more}

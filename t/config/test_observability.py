"""`server.observability`: its defaults, its checks, and its secrets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pfxhttpd.cli.config import redacted
from pfxhttpd.config import schema
from pfxhttpd.config.settings import Observability, PrometheusTls
from pfxhttpd.config.warnings import warnings
from pfxhttpd.rules.known_secrets import configured_secrets

START = """\
server:
  listen:
    - {kind: socket_map, name: demo, type: tcp, address: 127.0.0.1, port: 9464}
    - {kind: socket_map, name: free, type: tcp, address: 127.0.0.1, port: 23450}
  observability:
"""
END = "socket_maps: {demo: {target: 'http://h/', value_field: v}}\n"


def written(*lines: str) -> str:
    return START + "".join(f"    {line}\n" for line in lines) + END


def test_without_the_block_everything_is_off(accepted: Any) -> None:
    assert accepted(END).settings.server.observability == Observability()
    assert not (Observability().prometheus_enabled or Observability().sends_traces or Observability().sends_metrics)


def test_every_key_is_read(accepted: Any) -> None:
    text = written(
        "prometheus_enabled: true",
        "prometheus_address: '::1'",
        "prometheus_port: 9999",
        "prometheus_path: /m",
        "prometheus_runtime_metrics: true",
        "prometheus_http_auth_basic: 'u:geheim'",
        "prometheus_tls: {enabled: true, cert: /c, key: /k, min_tls_version: TLS1.3}",
        "health_path: ''",
        "ready_path: /r",
        "otel_enabled: true",
        "otel_traces_enabled: true",
        "otel_metrics_enabled: true",
        "otel_service_name: n",
        "otel_service_version: '7'",
        "otel_exporter_otlp_endpoint: 'collector:4318'",
        "otel_exporter_otlp_headers: {x-key: geheimer}",
        "otel_exporter_otlp_insecure: true",
        "otel_sample_ratio: 0.25",
    )
    loaded = accepted(text)
    own = loaded.settings.server.observability
    assert own == Observability(
        prometheus_enabled=True,
        prometheus_address="::1",
        prometheus_port=9999,
        prometheus_path="/m",
        prometheus_runtime_metrics=True,
        prometheus_http_auth_basic="u:geheim",
        prometheus_tls=PrometheusTls(True, "/c", "/k", "TLS1.3"),
        health_path="",
        ready_path="/r",
        otel_enabled=True,
        otel_traces_enabled=True,
        otel_metrics_enabled=True,
        otel_service_name="n",
        otel_service_version="7",
        otel_exporter_otlp_endpoint="http://collector:4318",
        otel_exporter_otlp_headers=(("x-key", "geheimer"),),
        otel_exporter_otlp_insecure=True,
        otel_sample_ratio=0.25,
    )
    assert own.sends_traces and own.sends_metrics
    assert "geheim" not in repr(loaded.settings)
    assert "geheim" not in str(redacted(loaded.document, schema.whole()))
    assert {"geheim", "geheimer"} <= configured_secrets(loaded.settings)


@pytest.mark.parametrize(
    "given, insecure, expected",
    [
        ("''", False, "http://localhost:4318"),
        ("collector:4318", False, "https://collector:4318"),
        ("'[::1]:4318'", True, "http://[::1]:4318"),
        ("http://collector:4318/", False, "http://collector:4318"),
        ("https://collector/otlp", True, "https://collector/otlp"),
    ],
)
def test_the_collector_s_url(given: str, insecure: bool, expected: str, accepted: Any) -> None:
    text = written(
        f"otel_exporter_otlp_endpoint: {given}", f"otel_exporter_otlp_insecure: {'true' if insecure else 'false'}"
    )
    assert accepted(text).settings.server.observability.otel_exporter_otlp_endpoint == expected


def test_the_collector_s_headers_and_numbers_from_the_environment(accepted: Any) -> None:
    prefix = "PFXHTTP_SERVER_OBSERVABILITY_"
    environ = {f"{prefix}OTEL_EXPORTER_OTLP_HEADERS": "a=1, b=x%2Cy=", f"{prefix}OTEL_SAMPLE_RATIO": "0.5"}
    own = accepted(END, environ=environ).settings.server.observability
    assert own.otel_exporter_otlp_headers == (("a", "1"), ("b", "x,y=")) and own.otel_sample_ratio == 0.5


@pytest.mark.parametrize(
    "lines, problem",
    [
        (["prometheus_enabled: true"], "port 9464 is taken by server.listen[0] in line 3"),
        (["prometheus_enabled: true", "prometheus_address: '0.0.0.0'", "prometheus_port: 23450"], "in line 4"),
        (["prometheus_address: 1.2.3"], "neither a host name nor an IP address"),
        (["prometheus_http_auth_basic: geheim"], "expected user:password, but there is no colon"),
        (["prometheus_http_auth_basic: 'u:geheim'", "prometheus_http_auth_basic_file: f"], "only one of the two"),
        (["prometheus_path: metrics"], "expected a path that begins with /"),
        (["prometheus_path: /a?b"], "expected a path that begins with /"),
        (["prometheus_path: ''"], "expected a path that begins with /"),
        (["ready_path: /metrics"], "`prometheus_path` is the same path"),
        (["prometheus_tls: {enabled: true, cert: /c}"], "prometheus_tls.key: is missing"),
        (["prometheus_tls: {min_tls_version: TLS1.1}"], "expected one of TLS1.2, TLS1.3"),
        (["otel_sample_ratio: 1.5"], "must be from 0 to 1, not 1.5"),
        (["otel_sample_ratio: .nan"], "otel_sample_ratio"),
        (["otel_exporter_otlp_endpoint: 'ftp://x'"], "otel_exporter_otlp_endpoint"),
        (["otel_exporter_otlp_endpoint: 'http://x/?a=geheim'"], "must not have a query"),
        (["otel_exporter_otlp_headers: geheim"], "a name without ="),
        (["otel_exporter_otlp_headers: {a b: geheim}"], 'otel_exporter_otlp_headers: "a b" is no header name'),
        (["otel_exporter_otlp_headers: {a: [geheim]}"], "otel_exporter_otlp_headers.a: expected a text"),
        (["otel_enable: true"], "did you mean otel_enabled"),
    ],
)
def test_mistakes(lines: list[str], problem: str, refused: Any) -> None:
    problems = refused(written(*lines))
    assert len(problems) == 1 and problem in problems[0] and "geheim" not in problems[0]


def test_the_password_from_a_file(tmp_path: Path, accepted: Any, refused: Any) -> None:
    text = written("prometheus_enabled: true", "prometheus_port: 1", "prometheus_http_auth_basic_file: login")
    (tmp_path / "login").write_text("u:geheim\n")
    own = accepted(text, file=f"{tmp_path}/pfxhttp.yml").settings.server.observability
    assert own.prometheus_http_auth_basic == "u:geheim"
    (tmp_path / "login").write_text("geheim\n")
    (problem,) = refused(text, file=f"{tmp_path}/pfxhttp.yml")
    assert "must hold user:password" in problem and "geheim" not in problem


@pytest.mark.parametrize(
    "lines, expected",
    [
        (["otel_enabled: true"], "has no effect, because neither otel_traces_enabled nor"),
        (["otel_traces_enabled: true"], "otel_traces_enabled: has no effect, because otel_enabled is not true"),
        (
            [
                "prometheus_enabled: true",
                "prometheus_address: ''",
                "prometheus_port: 1",
                "prometheus_http_auth_basic: u:p",
            ],
            "the password for the metrics is sent without encryption",
        ),
        (
            [
                "otel_enabled: true",
                "otel_traces_enabled: true",
                "otel_exporter_otlp_headers: a=b",
                "otel_exporter_otlp_endpoint: http://192.0.2.1:4318",
            ],
            "sent to another machine without encryption",
        ),
        (["otel_enabled: true", "otel_metrics_enabled: true", "otel_exporter_otlp_headers: a=b"], ""),
    ],
)
def test_what_is_unwise(lines: list[str], expected: str, accepted: Any) -> None:
    loaded = accepted(written(*lines))
    found = [str(each) for each in warnings(loaded.settings, loaded.tree, loaded.files) if "observability" in str(each)]
    assert len(found) == bool(expected) and all(expected in each for each in found)

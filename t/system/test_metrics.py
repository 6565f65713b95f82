"""Metrics and health checks: what a real Prometheus learns from a real server, whatever happens to its processes."""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from kit import ports, proc
from kit.answer import Answer, Keyed
from kit.backend import Backend
from kit.certificates import Authority, Pair
from kit.clients import Closed, Policy, Sasl, SocketMap
from kit.configuration import configuration, listener, policy, socket_map
from kit.control import reload, status, wait_status
from kit.daemon import Daemon
from kit.needs import needs, program
from kit.prometheus import Prometheus
from kit.scrape import Page, Samples, get
from kit.waiting import until

CONTRIB = Path(__file__).resolve().parents[2] / "contrib"
ALERTS = CONTRIB / "prometheus/alerts.yml"
DASHBOARD = json.loads((CONTRIB / "grafana/pfxhttpd.json").read_text())
CREDENTIALS = "prometheus:geheim"
REQUESTS = "pfxhttp_application_requests_total"
EXCHANGES = "pfxhttp_backend_http_requests_total"
CONNECTIONS = "pfxhttp_listener_connections_total"
ACTIVE = "pfxhttp_listener_active_connections"


class Shop:
    """A server with one entry of each kind, whose metrics need a password."""

    def __init__(self, backend: Backend, authority: Authority) -> None:
        self.maps, self.policies, self.logins, self.metrics = (ports.free() for _ in range(4))
        self.backend = backend
        quick = Answer(json={"result": "{key}"}, fill=True)
        others = {
            "nobody": Answer(json={"result": None}),
            "refused": Answer(json={"error": "no"}),
            "strange": Answer(status=404, json={}),
            "broken": Answer(status=503),
        }
        backend.answer("/map", Keyed(others, quick))
        backend.answer("/policy", json={"action": "DUNNO"})
        backend.answer("/login", headers={"Auth-User": "u"})
        self.config = configuration(
            listener("socket_map", "maps", self.maps),
            listener("policy_service", "check", self.policies),
            listener("dovecot_sasl", "login", self.logins),
            socket_maps={"users": socket_map(backend.url("/map")), "other": socket_map(backend.url("/map"))},
            policy_services={"check": policy(backend.url("/policy"))},
            dovecot_sasl={"login": {"target": backend.url("/login")}},
            level="info",
            response_cache={"enabled": True},
            tls={"enabled": True, "root_ca": authority.certificate},
            observability={
                "prometheus_enabled": True,
                "prometheus_port": self.metrics,
                "prometheus_runtime_metrics": True,
                "prometheus_http_auth_basic": CREDENTIALS,
            },
        )
        self.daemon = Daemon(self.config)

    def with_observability(self, **changes: Any) -> dict[str, Any]:
        """The configuration with other settings of that block."""
        config = copy.deepcopy(self.config)
        config["server"]["observability"].update(changes)
        return config

    def page(self, path: str, credentials: str = CREDENTIALS, port: int = 0, **headers: str) -> Page:
        return get(f"http://127.0.0.1:{port or self.metrics}{path}", credentials, **headers)

    def scrape(self) -> Samples:
        """Samples that are not older than this call. A snapshot is used for a second (process/metrics.py)."""
        seen = Samples(self.page("/metrics").text)
        page = until(lambda: (page := self.page("/metrics")).text != seen.text and page, "new samples")
        assert page.status == 200, page
        return Samples(page.text)

    def client(self) -> SocketMap:
        return SocketMap(("127.0.0.1", self.maps))

    def ask(self, name: str, key: str) -> str:
        with self.client() as client:
            return client.ask(name, key)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.server()


@pytest.fixture(scope="module")
def shop(backend: Backend, authority: Authority) -> Iterator[Shop]:
    opened = Shop(backend, authority)
    with opened.daemon:
        yield opened
    assert "geheim" not in opened.daemon.log.text


@pytest.fixture(scope="module")
def prometheus(shop: Shop) -> Iterator[Prometheus]:
    """It scrapes as contrib/prometheus/prometheus.yml says, apart from the port and the password."""
    needs("prometheus")
    (job,) = yaml.safe_load((CONTRIB / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    user, _, password = CREDENTIALS.partition(":")
    job |= {
        "scrape_interval": "1s",
        "basic_auth": {"username": user, "password": password},
        "static_configs": [{"targets": [f"127.0.0.1:{shop.metrics}"]}],
    }
    with Prometheus(job, ALERTS) as started:
        yield started


def test_how_each_request_ended_is_counted(shop: Shop) -> None:
    before = shop.scrape()
    with shop.client() as client:
        for key in ("a", "b", "nobody", "refused", "strange", "broken"):
            client.ask("users", key)
        assert client.ask("geheime-map", "a").startswith("PERM")
        shop.backend.answer("/map", Answer(status=503))
        assert client.ask("users", "a") == "OK a"  # from the cache
        shop.backend.answer("/map", json={"result": "there again"})
        with Policy(("127.0.0.1", shop.policies)) as other, Sasl(("127.0.0.1", shop.logins)) as login:
            assert other.ask({"sender": "a"}) == "DUNNO"
            assert login.auth("PLAIN", "\0u\0p").startswith("OK")
            during = shop.scrape()
    wait_status(shop.daemon, lambda shown: shown["connections"] == 0, "the connections to end")
    after = shop.scrape()

    def added(metric: str, /, **labels: str) -> float:
        return after.sum(metric, **labels) - before.sum(metric, **labels)

    outcomes = {"found": 2, "not_found": 1, "refused": 1, "unexpected": 1, "failed": 1, "cached": 1, "not_sent": 0}
    for outcome, count in outcomes.items():
        labels = {"component": "socket_map", "name": "users", "listener": "maps", "outcome": outcome}
        assert added(REQUESTS, **labels) == count, outcome
        assert added("pfxhttp_application_request_duration_seconds_count", **labels) == count
    for kind, name in (("policy_service", "check"), ("dovecot_sasl", "login")):
        assert added(REQUESTS, component=kind, name=name, listener=name, outcome="found") == 1
    assert added(REQUESTS, name="other") == 0
    for status_class, result, count in (("2xx", "success", 4), ("4xx", "error", 1), ("5xx", "error", 2)):
        labels = {"name": "users", "method": "POST", "status_class": status_class, "result": result}
        assert added(EXCHANGES, **labels) == count, status_class
    assert added("pfxhttp_backend_http_request_duration_seconds_count", name="users") == 7
    assert 0 < added("pfxhttp_backend_http_request_duration_seconds_sum", name="users") < 7
    assert added("pfxhttp_listener_unknown_map_requests_total") == 1
    assert added("pfxhttp_cache_hits_total") == 1 and added("pfxhttp_cache_misses_total") == 1
    for kind, name in (("socket_map", "maps"), ("policy_service", "check"), ("dovecot_sasl", "login")):
        own = {"component": kind, "name": name}
        assert during.sum(ACTIVE, **own) == 1 and after.sum(ACTIVE, **own) == 0
        assert added(CONNECTIONS, **own, event="accepted") == added(CONNECTIONS, **own, event="closed") == 1
        assert added("pfxhttp_listener_connection_duration_seconds_count", **own, result="success") == 1
    assert "geheim" not in after.text


def test_the_format_is_right(shop: Shop) -> None:
    needs("promtool")
    page = shop.page("/metrics")
    assert page.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    promtool = str(program("promtool"))
    done = subprocess.run([promtool, "check", "metrics"], input=page.text, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    newer = shop.page("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert newer.headers["Content-Type"].startswith("application/openmetrics-text") and "# EOF" in newer.text
    assert shop.page("/metrics", Accept="text/plain; version=x;;,q=").headers["Content-Type"].startswith("text/plain")


def test_the_state_of_the_server_is_shown(shop: Shop) -> None:
    samples = shop.scrape()
    assert samples.sum("pfxhttp_workers", pool="global", state="idle") == 2
    assert samples.sum("pfxhttp_ready") == 1
    assert samples.sum("pfxhttp_build_info", version=status(shop.daemon)["version"]) == 1
    assert samples.sum("pfxhttp_certificate_expiry_timestamp_seconds", certificate="server.tls.root_ca") > 2e9
    assert samples.label_values("target") == {shop.backend.url(path) for path in ("/map", "/policy", "/login")}
    roles = {"master": 1, "worker": 2, "parking": 1, "cache": 1, "metrics": 1}
    assert {role: samples.sum("pfxhttp_processes", role=role) for role in samples.label_values("role")} == roles
    assert samples.sum("pfxhttp_process_resident_memory_bytes", role="worker") > 2e7
    assert samples.sum("pfxhttp_process_cpu_seconds_total", role="master") > 0
    open_files = len(os.listdir(f"/proc/{shop.daemon.pid}/fd"))
    assert abs(samples.sum("pfxhttp_process_open_fds", role="master") - open_files) <= 3


def test_prometheus_scrapes_and_answers_queries(shop: Shop, prometheus: Prometheus) -> None:
    for _ in range(3):
        assert shop.ask("users", "a").startswith("OK")
    counted = shop.scrape().sum(REQUESTS, name="users")
    query = f'sum by (name) ({REQUESTS}{{job="pfxhttpd", name="users"}})'
    until(lambda: prometheus.query(query) == {(("name", "users"),): counted}, "the counters to be scraped", 20)
    assert list(prometheus.query('up{job="pfxhttpd"}').values()) == [1]


def test_the_alert_rules_work(shop: Shop, prometheus: Prometheus, tmp_path: Path) -> None:
    needs("promtool")
    (group,) = prometheus.api("rules")["groups"]
    assert len(group["rules"]) == 11 and all(rule["annotations"]["runbook"] for rule in group["rules"])
    until(
        lambda: all(rule["health"] == "ok" for rule in prometheus.api("rules")["groups"][0]["rules"]),
        "all rules to be evaluated",
    )

    failing = 'pfxhttp_backend_http_requests_total{instance="a",component="socket_map",name="m",result="%s"}'
    series = {
        failing % "success": "0+100x15",
        failing % "error": "0+50x15",
        'pfxhttp_pool_waiting_clients{pool="g"}': "3x15",
        'pfxhttp_pool_backlog{pool="g"}': "0x15",
        'pfxhttp_workers{pool="g",state="idle"}': "0x15",
        'pfxhttp_breaker_state{target="t"}': "0x8 1x6",
        "pfxhttp_cache_up": "1x8 0x6",
        'pfxhttp_process_deaths_total{process="worker"}': "0+1x15",
        'pfxhttp_certificate_expiry_timestamp_seconds{certificate="c"}': "86400x15",
        "pfxhttp_last_reload_successful": "1x15",
    }
    firing = {
        8: {
            "PfxhttpdBackendFailing",
            "PfxhttpdPoolSaturated",
            "PfxhttpdProcessesRestart",
            "PfxhttpdCertificateExpires",
        },
    }
    firing[14] = firing[8] | {"PfxhttpdBreakerOpen", "PfxhttpdCacheGone"}
    test = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {
                        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                        "eval_time": f"{minute}m",
                        "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(names)],
                    }
                    for minute, names in firing.items()
                ],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test))
    done = subprocess.run(
        [str(program("promtool")), "test", "rules", str(tmp_path / "test.yml")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def expressions() -> list[str]:
    """The queries of the dashboard, with values for its variables."""
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    return [
        expression.replace("$__rate_interval", "1m").replace("$job", ".*").replace("$instance", ".*")
        for expression in found
    ]


def test_the_dashboard_and_the_alerts_use_metrics_that_exist(shop: Shop, prometheus: Prometheus) -> None:
    rules = [rule["expr"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    queries = expressions()
    assert len(queries) > 30
    names = shop.scrape().names()
    used = {name for query in queries + rules for name in re.findall(r"\bpfxhttp_\w+", query)}
    assert used <= names, used - names
    for query in queries:
        prometheus.query(query)


def _is_gone(pid: int) -> bool:
    return not proc.is_running(pid)


def test_no_counter_goes_back_when_processes_end(shop: Shop) -> None:
    """Whatever ends between two requests, all of them are counted, and none twice."""
    before = first = shop.scrape()
    asked = 0
    with shop.client() as held:
        held.ask("users", "a")
        asked += 1
        for role, number in (
            ("worker 1", signal.SIGKILL),
            ("worker 2", signal.SIGTERM),
            ("parking", signal.SIGKILL),
            ("cache", signal.SIGKILL),
            ("metrics", signal.SIGKILL),
            ("", signal.SIGHUP),
        ):
            for _ in range(3):
                assert shop.ask("users", "a").startswith("OK")
                asked += 1
            wait_status(shop.daemon, lambda shown: shown["connections"] <= 1, "the other clients to be gone")
            if role:
                victim = shop.daemon.process_named(role)
                os.kill(victim, number)
                until(partial(_is_gone, victim), f"{role} to be gone")
            else:
                reload(shop.daemon)
            wait_status(
                shop.daemon,
                lambda shown: (
                    len(shown["workers"]) == 2
                    and len(shown["processes"]) == 3
                    and all(each["state"] in ("serving", "idle") for each in shown["processes"] + shown["workers"])
                ),
                "all processes to serve",
            )
            now = shop.scrape()
            for key, value in before.counters().items():
                assert now.counters()[key] >= value, (role, key)
            before = now
    assert before.sum(REQUESTS, name="users") - first.sum(REQUESTS, name="users") == asked
    assert before.sum(EXCHANGES, name="users") - first.sum(EXCHANGES, name="users") == asked
    for role in ("worker", "parking", "cache", "metrics"):
        deaths = "pfxhttp_process_deaths_total"
        assert before.sum(deaths, process=role) - first.sum(deaths, process=role) == 1, role
    assert before.sum("pfxhttp_reloads_total", result="success") == 1
    wait_status(shop.daemon, lambda shown: shown["connections"] == 0, "the connections to end")
    last = shop.scrape()
    assert last.sum(ACTIVE) == 0
    accepted, closed = (last.sum(CONNECTIONS, event=event, component="socket_map") for event in ("accepted", "closed"))
    assert accepted == closed


def test_a_failed_reload_is_shown(shop: Shop) -> None:
    failed = shop.scrape().sum("pfxhttp_reloads_total", result="error")
    shop.daemon.reload("server: {}")
    samples = shop.scrape()
    assert samples.sum("pfxhttp_reloads_total", result="error") == failed + 1
    assert samples.sum("pfxhttp_last_reload_successful") == 0
    reload(shop.daemon, shop.config)
    assert shop.scrape().sum("pfxhttp_last_reload_successful") == 1


@pytest.mark.parametrize("credentials", ["", "prometheus:falsch", "prometheus:geheim ", ":", "prometheus"])
def test_wrong_credentials_are_refused(shop: Shop, credentials: str) -> None:
    page = shop.page("/metrics", credentials)
    assert page.status == 401 and "pfxhttp_" not in page.text
    assert page.headers["WWW-Authenticate"].startswith("Basic ")


def test_the_pages_for_health_checks(shop: Shop) -> None:
    assert (shop.page("/healthz", "").status, shop.page("/healthz", "").text) == (200, "ok\n")
    assert (shop.page("/readyz", "").status, shop.page("/readyz", "").text) == (200, "ready\n")
    assert shop.page("/", "").status == shop.page("/metrics/x", "").status == 404
    os.kill(shop.daemon.pid, signal.SIGSTOP)
    try:
        late = until(lambda: (page := shop.page("/readyz", "")).status != 200 and page, "the silence to show")
        assert shop.page("/healthz", "").status == 200
    finally:
        os.kill(shop.daemon.pid, signal.SIGCONT)
    assert (late.status, late.text) == (503, "the master process does not respond\n")


def test_slow_clients_delay_nobody(shop: Shop) -> None:
    slow = [socket.create_connection(("127.0.0.1", shop.metrics), 20) for _ in range(100)]
    for client in slow:
        client.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
    assert shop.page("/metrics").status == 200
    assert shop.ask("users", "a").startswith("OK")
    assert slow[0].recv(1) == b""  # the oldest had to go
    for client in slow:
        client.close()


def test_a_reload_moves_encrypts_and_removes_the_port(shop: Shop, authority: Authority, pair: Pair) -> None:
    moved = ports.free()
    files = {"cert": pair.certificate, "key": pair.key}
    tls = {"enabled": True, **files, "min_tls_version": "TLS1.3"}
    reload(shop.daemon, shop.with_observability(prometheus_port=moved, prometheus_tls=tls, prometheus_path="/m"))
    client = ssl.create_default_context(cafile=authority.certificate)
    url = f"https://localhost:{moved}/m"
    samples = Samples(until(lambda: get(url, CREDENTIALS, client), "the new process").text)
    expiry = "pfxhttp_certificate_expiry_timestamp_seconds"
    assert samples.sum(expiry, certificate="server.observability.prometheus_tls.cert") > 1e9
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(OSError, match="VERSION"):
        get(url, CREDENTIALS, client)
    with pytest.raises((OSError, Closed)):
        shop.page("/m", port=moved)  # without TLS
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", shop.metrics)):
        pass
    reload(shop.daemon, shop.with_observability(prometheus_enabled=False))
    until(lambda: not any("metrics" in title for title in shop.daemon.children().values()), "the process to leave")
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", moved)):
        pass
    assert shop.ask("users", "a").startswith("OK")
    reload(shop.daemon, shop.config)
    assert until(lambda: shop.page("/metrics"), "metrics").status == 200


def test_a_pool_without_a_worker_is_not_ready(shop: Shop) -> None:
    """A worker that dies early again and again is replaced after pauses that grow (process/child.py)."""

    def not_ready() -> Page | None:
        for worker in shop.daemon.workers():
            os.kill(worker, signal.SIGKILL)
        page = shop.page("/readyz", "")
        return page if page.status == 503 else None

    page = until(not_ready, "a pool without workers")
    assert page.text == "the pool global has no worker that serves\n"
    until(lambda: shop.page("/readyz", "").status == 200, "new workers", 20)

"""Traces by OTLP: which spans there are, what is in them and what never is, and that no collector delays an answer."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit import ports
from kit.backend import Backend
from kit.clients import Policy, Sasl, SocketMap
from kit.collector import PATH, Collector, Span
from kit.configuration import configuration, listener, policy, socket_map, traces
from kit.daemon import TREE, Daemon, run
from kit.logfmt import parse
from kit.scrape import Samples, get
from kit.site import Site
from kit.waiting import until

SECRETS = ("s3cret-header", "s3cret-query", "s3cret-basic", "s3cret-password", "ann@example.test", "k3y@example.test")
FAST = 0.5
"""Seconds within which answers come that wait for nothing; a collector that hangs takes 5."""


class Traced:
    """A server that sends traces of everything, its collector, and a client of each protocol."""

    def __init__(self, backend: Backend, collector: Collector, refusing: int) -> None:
        """`refusing` is a port where nothing listens."""
        self.collector = collector
        self.ports = {kind: ports.free() for kind in ("socket_map", "policy_service", "dovecot_sasl")}
        maps = {
            "map": socket_map(backend.url("/map/{{ .Key }}?api_key=s3cret-query"), http_auth_basic="a:s3cret-basic"),
            "static": socket_map(backend.url("/static")),
            "down": socket_map(f"http://127.0.0.1:{refusing}/down"),
            "slow": socket_map(backend.url("/slow"), timeout="100ms"),
        }
        self.daemon = Daemon(
            configuration(
                *(listener(kind, "here", port) for kind, port in self.ports.items()),
                socket_maps=maps,
                policy_services={"here": policy(backend.url("/policy"))},
                dovecot_sasl={"here": {"target": backend.url("/login")}},
                circuit_breaker={"failures": 2},
                observability=traces(
                    collector.url(""),
                    otel_service_name="mx1",
                    otel_service_version="2.0",
                    otel_exporter_otlp_headers="x-token=s3cret-header",
                ),
            )
        )
        self.maps = SocketMap(("127.0.0.1", self.ports["socket_map"]))

    def look_up(self, name: str, key: str = "k3y@example.test") -> tuple[str, dict[str, Span]]:
        """The reply and the trace of a lookup."""
        mark = self.daemon.log.position
        reply = self.maps.ask(name, key)
        return reply, self.trace(mark)

    def trace(self, mark: int) -> dict[str, Span]:
        """The trace of the request whose lines begin at the mark, by the identifiers in these lines."""
        lines = [parse(line) for line in self.daemon.log.lines(mark) if "trace_id=" in line]
        assert len({(line["trace_id"], line["span_id"]) for line in lines}) == 1, lines
        spans = self.collector.wait_trace(lines[0]["trace_id"])
        (root,) = (span for span in spans.values() if not span.parent)
        assert root.kind == "SERVER" and root.span_id == lines[0]["span_id"]
        assert {span.parent for span in spans.values() if span is not root} == {root.span_id}
        assert all(root.start <= span.start <= span.end <= root.end for span in spans.values())
        return spans


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as started:
        yield started


@pytest.fixture(scope="module")
def traced(backend: Backend, collector: Collector) -> Iterator[Traced]:
    backend.answer("/map/k3y%40example.test", json={"result": "v"})
    backend.answer("/static", json={"result": "v"})
    backend.answer("/policy", json={"action": "DUNNO"})
    backend.answer("/login", status=403, headers={"Auth-Status": "wrong password"})
    backend.answer("/slow", silent=True)
    with ports.refusing() as refusing:
        made = Traced(backend, collector, refusing)
        with made.daemon, made.maps:
            yield made


def test_the_trace_of_a_lookup(traced: Traced, backend: Backend) -> None:
    backend.forget()
    reply, spans = traced.look_up("map")
    assert reply == "OK v"
    root, exchange = spans["socket_map map"], spans["POST /map/{{ .Key }}"]
    assert set(spans) == {root.name, exchange.name, "decode", "encode"}
    assert root.attributes == {
        "pfxhttp.component": "socket_map",
        "pfxhttp.listener": "here",
        "pfxhttp.name": "map",
        "pfxhttp.outcome": "found",
    }
    assert exchange.kind == "CLIENT" and exchange.attributes == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": backend.port,
        "url.scheme": "http",
        "url.template": "/map/{{ .Key }}",
    }
    assert not any(span.error for span in spans.values())
    assert spans["decode"].kind == spans["encode"].kind == "INTERNAL"
    assert spans["decode"].end <= exchange.start and exchange.end <= spans["encode"].start
    origin = root.resource
    assert (origin["service.name"], origin["service.version"]) == ("mx1", "2.0")
    assert origin["process.pid"] in traced.daemon.workers()
    (request,) = backend.requests()
    assert request.header("traceparent") == f"00-{exchange.trace_id}-{exchange.span_id}-01"
    assert {request.header("x-token") for request in traced.collector.requests(PATH)} == {"s3cret-header"}


def test_a_target_without_placeholders_is_shown_whole(traced: Traced, backend: Backend) -> None:
    _, spans = traced.look_up("static")
    assert spans["POST /static"].attributes["url.full"] == backend.url("/static")


def test_the_trace_of_a_policy_request(traced: Traced) -> None:
    mark = traced.daemon.log.position
    with Policy(("127.0.0.1", traced.ports["policy_service"])) as client:
        assert client.ask({"sender": "ann@example.test"}) == "DUNNO"
    spans = traced.trace(mark)
    assert set(spans) == {"policy_service here", "decode", "POST /policy", "encode"}
    assert spans["policy_service here"].attributes["pfxhttp.outcome"] == "found"


def test_the_trace_of_a_login(traced: Traced) -> None:
    """One trace for the attempt, none for the other lines; a wrong password is no error."""
    mark = traced.daemon.log.position
    with Sasl(("127.0.0.1", traced.ports["dovecot_sasl"])) as client:
        assert client.auth("UNKNOWN").startswith("FAIL")
        assert client.plain("ann@example.test", "s3cret-password").startswith("FAIL")
    spans = traced.trace(mark)
    assert set(spans) == {"dovecot_sasl here", "decode", "POST /login", "encode"}
    assert spans["dovecot_sasl here"].attributes["pfxhttp.outcome"] == "refused"
    assert spans["POST /login"].attributes["http.response.status_code"] == 403
    assert not any(span.error for span in spans.values())


def test_what_goes_wrong_is_in_the_trace(traced: Traced, backend: Backend) -> None:
    """An unexpected status, a timeout, no connection; and no request at all while the breaker is open."""
    _, spans = traced.look_up("map", "nobody")
    assert spans["socket_map map"].error and spans["socket_map map"].attributes["error.type"] == "unexpected"
    failed = spans["POST /map/{{ .Key }}"]
    assert failed.error and failed.attributes["error.type"] == "404"
    reply, spans = traced.look_up("slow")
    assert reply.startswith("TIMEOUT") and spans["POST /slow"].attributes["error.type"] == "timeout"
    assert "http.response.status_code" not in spans["POST /slow"].attributes
    for _ in range(2):
        _, spans = traced.look_up("down")
        assert spans["POST /down"].attributes["error.type"] == "requests.exceptions.ConnectionError"
        assert spans["socket_map down"].attributes["pfxhttp.outcome"] == "failed"
    mark = traced.daemon.log.position
    traced.maps.ask("down", "k")
    line = parse(next(line for line in traced.daemon.log.lines(mark) if "trace_id=" in line))
    spans = traced.collector.wait_trace(line["trace_id"], 3)
    assert set(spans) == {"socket_map down", "decode", "encode"} and spans["socket_map down"].error
    assert spans["socket_map down"].attributes["error.type"] == "not_sent"


def test_a_map_that_does_not_exist_is_not_named(traced: Traced) -> None:
    mark = traced.daemon.log.position
    traced.maps.ask("k3y@example.test", "k")
    line = parse(next(line for line in traced.daemon.log.lines(mark) if "trace_id=" in line))
    assert set(traced.collector.wait_trace(line["trace_id"], 2)) == {"socket_map", "decode"}


def test_traces_outlive_a_worker(traced: Traced, collector: Collector) -> None:
    """The others send theirs, and so does the one that replaces it."""
    before = set(traced.daemon.workers())
    victim = traced.look_up("map")[1]["decode"].resource["process.pid"]
    os.kill(int(victim), signal.SIGKILL)
    traced.daemon.log.wait_for(f'Process died".* pid={victim}')
    after = until(lambda: len(workers := set(traced.daemon.workers()) - {victim}) == 2 and workers, "another worker")
    assert after
    (survivor,), (replacement,) = before & after, after - before
    for pid in (survivor, replacement):  # each serves alone once
        (other,) = after - {pid}
        os.kill(other, signal.SIGSTOP)
        try:
            traced.maps.close()
            traced.maps = SocketMap(("127.0.0.1", traced.ports["socket_map"]))
            assert traced.look_up("map")[1]["decode"].resource["process.pid"] == pid
        finally:
            os.kill(other, signal.SIGCONT)


def test_signals_are_for_the_main_thread(traced: Traced) -> None:
    """The other one would swallow those that have to interrupt a system call: of the supervisor, and of the master's death."""
    for pid in traced.daemon.workers():
        (other,) = {int(name) for name in os.listdir(f"/proc/{pid}/task")} - {pid}
        lines = Path(f"/proc/{pid}/task/{other}/status").read_text().splitlines()
        blocked = int(next(line for line in lines if line.startswith("SigBlk")).split()[1], 16)
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGALRM):
            assert blocked >> (number - 1) & 1, number


def test_what_is_secret_or_personal_is_in_no_span(traced: Traced, collector: Collector) -> None:
    """Of all spans that the tests above have caused: neither credentials nor keys nor users, in no spelling."""
    bodies = b"".join(request.content for request in collector.requests(PATH))
    assert b"socket_map map" in bodies and b"dovecot_sasl here" in bodies
    assert [secret for secret in (*SECRETS, "k3y%40", "nobody", "wrong password") if secret.encode() in bodies] == []
    assert [secret for secret in SECRETS[:3] if secret in traced.daemon.log.text] == []


def test_the_last_spans_are_sent_at_the_end(backend: Backend, collector: Collector) -> None:
    """A worker that leaves does not wait for the next interval."""
    backend.answer("/static", json={"result": "v"})
    maps = {"static": socket_map(backend.url("/static"))}
    with Site(maps, observability=traces(collector.url(""))) as site:
        mark = site.log.position
        site.ask("static", "k")
        trace = parse(next(line for line in site.log.lines(mark) if "trace_id=" in line))["trace_id"]
    assert len(collector.spans(lambda span: span.trace_id == trace)) == 4


def test_without_traces_nothing_of_them_is_there(backend: Backend) -> None:
    """No thread, no module of the SDK, no header field, no identifiers in the log."""
    backend.answer("/static", json={"result": "v"})
    backend.forget()
    observability = traces("http://127.0.0.1:1", otel_enabled=False)
    with Site({"static": socket_map(backend.url("/static"))}, observability=observability) as site:
        assert site.ask("static", "k") == "OK v"
        for pid in site.daemon.workers():
            assert len(os.listdir(f"/proc/{pid}/task")) == 1
            assert "google/_upb" not in Path(f"/proc/{pid}/maps").read_text()
        assert "trace_id" not in site.log.text
    assert [request.header("traceparent") for request in backend.requests()] == [None]


@pytest.mark.parametrize("collector_is", ["hanging", "refusing"])
def test_no_collector_delays_an_answer(backend: Backend, collector_is: str) -> None:
    """Nor the end of the server, beyond the second that a worker gives to its last spans."""
    backend.answer("/static", json={"result": "v"})
    with Collector() as collector, ports.refusing() as refusing:
        collector.answer(PATH, silent=True)
        endpoint = collector.url("") if collector_is == "hanging" else f"http://127.0.0.1:{refusing}"
        maps = {"static": socket_map(backend.url("/static"))}
        with Site(maps, observability=traces(endpoint), level="info", workers=1) as site, site.client() as client:
            client.ask("static", "k")
            if collector_is == "hanging":
                collector.wait_requests(1, PATH)
            for number in range(600):  # more than the queue holds
                before = time.monotonic()
                assert client.ask("static", str(number)) == "OK v"
                assert time.monotonic() - before < FAST
            before = time.monotonic()
            site.daemon.stop()
            assert time.monotonic() - before < 3.0
            (line,) = (parse(line) for line in site.log.find("Traces"))
            assert line["msg"] == "Traces cannot be sent" and line["collector"] == endpoint
            assert int(line["spans"]) + int(line["requests"]) > 0


def test_a_failure_is_logged_once_a_minute(backend: Backend) -> None:
    """By one of the workers, however many have lost something, with what the collector had to say; all is counted."""
    backend.answer("/static", json={"result": "v"})
    with Collector() as collector:
        collector.answer(PATH, status=400)
        maps = {"static": socket_map(backend.url("/static"))}
        metrics = {"prometheus_enabled": True, "prometheus_port": (port := ports.free())}
        with Site(maps, observability=traces(collector.url(""), **metrics), level="info") as site:
            clients = [site.client() for _ in range(2)]
            seen: set[str] = set()
            while len(seen) < 2 or collector.count(PATH) < 4:
                for client in clients:
                    client.ask("static", "k")
                seen = {str(span.resource["process.pid"]) for span in collector.spans()}
            line = parse(site.log.wait_for("Traces cannot be sent"))
            assert line["reason"] == "it responded with status code 400"
            lost = Samples(get(f"http://127.0.0.1:{port}/metrics").text).sum("pfxhttp_lost_spans_total")
            assert lost >= int(line["spans"]) > 0
            for client in clients:
                client.close()
        assert len(site.log.find("Traces")) == 1


def test_the_packages_are_asked_for(tmp_path: Path) -> None:
    """`check` and a start name what is missing, in one line."""
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry/__init__.py").write_text("raise ImportError('not here')\n")
    config = configuration(
        listener("socket_map", "m", ports.free()),
        socket_maps={"m": socket_map("http://127.0.0.1:9/")},
        observability=traces("http://127.0.0.1:4318"),
    )
    environment = {"PYTHONPATH": f"{tmp_path}:{TREE}"}
    said = "the packages of OpenTelemetry are missing (pip install 'pfxhttpd[otel]'): not here"
    with Daemon(config, ready=False, environment=environment) as daemon:
        assert daemon.wait() == os.EX_CONFIG
        daemon.log.wait_end()
        assert daemon.log.lines() == [f"pfxhttpd: server.observability.otel_enabled: {said}"]
        checked = run("--config", str(daemon.config_path), "check", environment=environment)
        assert checked.returncode == os.EX_CONFIG
        assert [line.partition(": ")[2] for line in checked.stderr.splitlines()] == [
            f"server.observability.otel_enabled: {said}"
        ]
        daemon.destroy()

"""Metrics that are sent to a collector: the same as those that Prometheus gets."""

from __future__ import annotations

from kit import ports
from kit.backend import Backend
from kit.collector import METRICS_PATH, Collector, decode_metrics
from kit.configuration import socket_map
from kit.logfmt import parse
from kit.scrape import Samples, get
from kit.site import Site
from kit.waiting import until

COUNTED = ("pfxhttp_application_", "pfxhttp_backend_", "pfxhttp_listener_")


def observability(endpoint: str, **more: object) -> dict[str, object]:
    return {"otel_enabled": True, "otel_metrics_enabled": True, "otel_exporter_otlp_endpoint": endpoint, **more}


def test_the_same_metrics_as_for_prometheus(backend: Backend) -> None:
    """A metrics process sends at once when it starts, here after a reload."""
    backend.answer("/map", json={"result": "v"})
    with Collector() as collector:
        keys = observability(collector.url(""), prometheus_enabled=True, prometheus_port=(port := ports.free()))
        keys["otel_exporter_otlp_headers"] = {"x-token": "s3cret-header"}
        with Site({"map": socket_map(backend.url("/map"))}, observability=keys, workers=1) as site:
            (first,) = collector.wait_requests(1, METRICS_PATH)
            assert first.header("x-token") == "s3cret-header"
            for key in ("a", "b", "c"):
                assert site.ask("map", key) == "OK v"
            site.ask("none", "a")
            shown = f"http://127.0.0.1:{port}/metrics"
            closed = {"event": "closed", "component": "socket_map"}
            until(lambda: Samples(get(shown).text).sum("pfxhttp_listener_connections_total", **closed) == 4, "4 ends")
            site.daemon.reload()
            (_, last) = collector.wait_requests(2, METRICS_PATH)
            sent, origin = decode_metrics(last.content)
            scraped = Samples(get(shown).text)
    assert origin["service.name"] == "pfxhttp"
    assert {name for name, _ in sent} == {name for name, _ in scraped.values}
    compared = {key: value for key, value in scraped.values.items() if key[0].startswith(COUNTED)}
    assert {key: sent.get(key) for key in compared} == compared
    found = [value for (name, labels), value in sent.items() if ("outcome", "found") in labels and "_total" in name]
    assert sum(found) == 3


def test_a_collector_that_fails_is_logged(backend: Backend) -> None:
    """Mail is not concerned, and neither is the end of the server."""
    backend.answer("/map", json={"result": "v"})
    with Collector() as collector:
        collector.answer(METRICS_PATH, status=400)
        keys = observability(collector.url(""))
        with Site({"map": socket_map(backend.url("/map"))}, observability=keys, level="info") as site:
            line = parse(site.log.wait_for("Metrics cannot be sent"))
            assert line["reason"] == "it responded with status code 400"
            assert site.ask("map", "k") == "OK v"

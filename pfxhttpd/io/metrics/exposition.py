"""The metrics in the formats of Prometheus: prometheus_client writes them, and this module says what they are called.

The names and labels of the first group are those of the Go program. `families` makes them from a snapshot
(`process.metrics_snapshot`), and `exposition` writes them in the format that the client asks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

__all__ = ["Metric", "RoleUsage", "exposition", "families"]

Snapshot = Mapping[str, Any]


class RoleUsage(NamedTuple):
    """What all processes of a role use together; `files` is None if it is not known of each of them."""

    processes: int
    memory: int
    processor: float
    files: int | None


def exposition(metrics: Iterable[Metric], accept: str) -> tuple[bytes, str]:
    """The text of the metrics and its media type, in the format that the Accept header field prefers."""
    try:
        encode, media_type = choose_encoder(accept)
    except (TypeError, ValueError):  # prometheus_client 0.26 cannot read every version in the field
        encode, media_type = choose_encoder("")
    return encode(_Collected(list(metrics))), media_type


class _Collected:
    """What the encoders of prometheus_client take for a registry."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Sequence[Metric]:
        return self._metrics


def families(snapshot: Snapshot, usage: Mapping[str, RoleUsage] | None = None) -> Iterator[Metric]:
    """The metrics of a snapshot, and those of the processes by their role unless `usage` is None."""
    yield from _listeners(snapshot)
    yield from _requests(snapshot)
    yield from _pools(snapshot)
    yield from _server(snapshot)
    if usage is not None:
        yield from _processes(usage)


def _histogram(name: str, text: str, labels: Sequence[str], rows: Iterable[Sequence[Any]]) -> Metric:
    """A histogram of `rows`: the labels' values, the bounds, the counts between them, and the sum."""
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, bounds, cells, seconds in rows:
        edges = [*(repr(float(bound)) for bound in bounds), "+Inf"]
        family.add_metric(values, list(zip(edges, accumulate(cells), strict=True)), seconds)
    return family


def _counter(name: str, text: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[str], float]]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, count in rows:
        family.add_metric(values, count)
    return family


def _gauge(name: str, text: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[str], float]]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _one(value: float) -> list[tuple[Sequence[str], float]]:
    """The only row of a metric without labels."""
    return [((), value)]


# Those of the Go program


def _listeners(snapshot: Snapshot) -> Iterator[Metric]:
    listeners, bounds = snapshot["listeners"], snapshot["connection_bounds"]
    names = [((each["component"], each["name"]), each) for each in listeners]
    yield _counter(
        "pfxhttp_listener_connections",
        "Client connections that were accepted and closed.",
        ("component", "name", "event", "result"),
        (
            ((*values, event, result), count)
            for values, each in names
            for event, result, count in (
                ("accepted", "success", each["accepted"]),
                ("accepted", "error", each["accept_failed"]),
                *(("closed", result, count) for result, count in each["closed"].items()),
            )
        ),
    )
    yield _gauge(
        "pfxhttp_listener_active_connections",
        "Client connections that are open.",
        ("component", "name"),
        ((values, each["active"]) for values, each in names),
    )
    yield _histogram(
        "pfxhttp_listener_connection_duration_seconds",
        "How long client connections were open.",
        ("component", "name", "result"),
        (
            ((*values, result), bounds, cells, seconds)
            for values, each in names
            for result, (cells, seconds) in each["durations"].items()
        ),
    )
    yield _counter(
        "pfxhttp_listener_unknown_map_requests",
        "Lookups in socket maps that do not exist.",
        ("component", "name"),
        ((values, each["unknown_map"]) for values, each in names if each["component"] == "socket_map"),
    )


def _requests(snapshot: Snapshot) -> Iterator[Metric]:
    bounds = snapshot["request_bounds"]
    for what, name, text, labels in (
        (
            "application",
            "pfxhttp_application_request",
            "Requests of clients",
            ("component", "name", "listener", "outcome"),
        ),
        (
            "backend",
            "pfxhttp_backend_http_request",
            "HTTP requests to backends",
            ("component", "name", "method", "status_class", "result"),
        ),
    ):
        rows = snapshot[what]
        yield _counter(f"{name}s", f"{text}.", labels, ((values, sum(cells)) for values, cells, _ in rows))
        durations = ((values, bounds, cells, seconds) for values, cells, seconds in rows)
        yield _histogram(f"{name}_duration_seconds", f"{text}, by how long they took.", labels, durations)


# Those of pfxhttpd


def _pools(snapshot: Snapshot) -> Iterator[Metric]:
    pools = snapshot["pools"]
    yield _gauge(
        "pfxhttp_workers",
        "Worker processes by state.",
        ("pool", "state"),
        (((each["pool"], state), count) for each in pools for state, count in each["states"].items()),
    )
    for key, name, text in (
        ("workers", "pfxhttp_pool_size", "Workers that the pool is to have."),
        ("waiting", "pfxhttp_pool_waiting_clients", "Clients that have sent a request and wait for a worker."),
        ("backlog", "pfxhttp_pool_backlog", "Clients that wait for their connection to be accepted."),
        ("max_queue", "pfxhttp_pool_max_queue", "Clients that may wait for a worker."),
    ):
        yield _gauge(name, text, ("pool",), (((each["pool"],), each[key]) for each in pools))


def _server(snapshot: Snapshot) -> Iterator[Metric]:
    yield _gauge("pfxhttp_connections", "Client connections that are open.", (), _one(snapshot["connections"]))
    yield _gauge("pfxhttp_connections_max", "Connections that may be open.", (), _one(snapshot["max_connections"]))
    yield _gauge("pfxhttp_parked_connections", "Connections that parking holds.", (), _one(snapshot["parked"]))
    cache = snapshot["cache"]
    yield _gauge("pfxhttp_cache_enabled", "1 if the response cache is enabled.", (), _one(cache["enabled"]))
    yield _gauge(
        "pfxhttp_cache_up", "1 if the cache process responds, or if none is needed.", (), _one(cache["responds"])
    )
    yield _gauge("pfxhttp_cache_entries", "Responses in the cache.", (), _one(cache["entries"]))
    yield _gauge("pfxhttp_cache_bytes", "Size of the responses in the cache.", (), _one(cache["bytes"]))
    yield _counter("pfxhttp_cache_hits", "Requests that the cache had an answer for.", (), _one(cache["hits"]))
    yield _counter("pfxhttp_cache_misses", "Requests that the cache had no answer for.", (), _one(cache["misses"]))
    yield _counter(
        "pfxhttp_cache_evictions", "Answers that were removed because the cache was full.", (), _one(cache["evictions"])
    )
    yield _gauge(
        "pfxhttp_breaker_state",
        "The circuit breaker of a target: 0 closed, 1 open, 2 half-open.",
        ("target",),
        (((target,), state) for target, state in snapshot["breakers"].items()),
    )
    yield _counter(
        "pfxhttp_process_deaths",
        "Processes that ended unexpectedly, and were started again.",
        ("process",),
        (((role,), count) for role, count in snapshot["deaths"].items()),
    )
    yield _counter(
        "pfxhttp_reloads",
        "Reloads of the configuration.",
        ("result",),
        (((result,), count) for result, count in snapshot["reloads"].items()),
    )
    spans, requests = snapshot["lost_traces"]
    yield _counter("pfxhttp_lost_spans", "Spans of traces that could not be sent.", (), _one(spans))
    yield _counter(
        "pfxhttp_untraced_requests",
        "Requests that were to be traced and were not, because too many spans waited to be sent.",
        (),
        _one(requests),
    )
    yield _gauge(
        "pfxhttp_last_reload_successful",
        "0 if the last reload failed.",
        (),
        _one(snapshot["last_reload_successful"]),
    )
    yield _gauge("pfxhttp_ready", "1 if every pool has a worker that serves.", (), _one(not snapshot["not_ready"]))
    yield _gauge("pfxhttp_start_time_seconds", "When the server was started.", (), _one(snapshot["started"]))
    yield _gauge(
        "pfxhttp_build_info",
        "The version of pfxhttpd and of Python.",
        ("version", "python_version"),
        [((snapshot["version"], snapshot["python_version"]), 1)],
    )
    yield _gauge(
        "pfxhttp_certificate_expiry_timestamp_seconds",
        "When a certificate of the configuration expires.",
        ("certificate",),
        (((key,), expiry) for key, expiry in snapshot["certificates"].items()),
    )


def _processes(usage: Mapping[str, RoleUsage]) -> Iterator[Metric]:
    roles = usage.items()
    yield _gauge("pfxhttp_processes", "Processes.", ("role",), (((role,), own.processes) for role, own in roles))
    yield _gauge(
        "pfxhttp_process_resident_memory_bytes",
        "Resident memory of the processes. Most of it is shared by all of them.",
        ("role",),
        (((role,), own.memory) for role, own in roles),
    )
    yield _counter(
        "pfxhttp_process_cpu_seconds",
        "Processor time of the processes, those that have ended among them.",
        ("role",),
        (((role,), own.processor) for role, own in roles),
    )
    yield _gauge(
        "pfxhttp_process_open_fds",
        "Open file descriptors of the processes.",
        ("role",),
        (((role,), own.files) for role, own in roles if own.files is not None),
    )

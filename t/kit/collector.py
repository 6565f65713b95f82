"""A collector for traces and metrics: a backend that understands OTLP over HTTP, and shows what it was sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan

from kit import waiting
from kit.backend import Backend

PATH, METRICS_PATH = "/v1/traces", "/v1/metrics"


@dataclass(frozen=True, slots=True)
class Span:
    """A span as it arrived. Identifiers are in hexadecimal; `parent` is "" for the first span of a trace."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent: str
    start: int
    end: int
    error: bool
    attributes: dict[str, str | int]
    resource: dict[str, str | int]


class Collector(Backend):
    """The collector, in a process of its own. `answer(PATH, ...)` makes it misbehave."""

    def __init__(self) -> None:
        super().__init__()
        for path in (PATH, METRICS_PATH):
            self.answer(path, status=200)

    def spans(self, wanted: Callable[[Span], bool] = lambda span: True) -> list[Span]:
        """The spans that have arrived, in any order."""
        return [span for request in self.requests(PATH) for span in decode(request.content) if wanted(span)]

    def wait_trace(self, trace_id: str, number: int = 4) -> dict[str, Span]:
        """The spans of one trace by name, once there are so many. Raises TimeoutError."""

        def arrived() -> list[Span]:
            spans = self.spans(lambda span: span.trace_id == trace_id)
            return spans if len(spans) >= number else []

        found = waiting.until(arrived, f"trace {trace_id} with {number} spans")
        assert len(found) == number, found
        return {span.name: span for span in found}


def decode(body: bytes) -> list[Span]:
    """The spans of one request. Raises google.protobuf.message.DecodeError."""
    return [
        Span(
            name=span.name,
            kind=ProtoSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent=span.parent_span_id.hex(),
            start=span.start_time_unix_nano,
            end=span.end_time_unix_nano,
            error=span.status.code == 2,
            attributes=_values(span.attributes),
            resource=_values(origin.resource.attributes),
        )
        for origin in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in origin.scope_spans
        for span in scope.spans
    ]


Metrics = dict[tuple[str, frozenset[tuple[str, str]]], float]


def decode_metrics(body: bytes) -> tuple[Metrics, dict[str, str | int]]:
    """The samples as `kit.scrape` shows those of Prometheus, and what the sender says of itself. All sums and histograms
    must be cumulative. Raises google.protobuf.message.DecodeError."""
    (origin,) = ExportMetricsServiceRequest.FromString(body).resource_metrics
    samples: Metrics = {}
    for metric in (metric for scope in origin.scope_metrics for metric in scope.metrics):
        kind = metric.WhichOneof("data")
        data = getattr(metric, kind)
        assert kind == "gauge" or data.aggregation_temporality == 2, metric
        for point in data.data_points:
            labels = {(name, str(value)) for name, value in _values(point.attributes).items()}
            if kind == "histogram":
                samples[metric.name + "_count", frozenset(labels)] = point.count
                samples[metric.name + "_sum", frozenset(labels)] = point.sum
                edges = [*map(str, point.explicit_bounds), "+Inf"]
                for edge, below in zip(edges, accumulate(point.bucket_counts), strict=True):
                    samples[metric.name + "_bucket", frozenset(labels | {("le", edge)})] = below
            else:
                samples[metric.name, frozenset(labels)] = getattr(point, point.WhichOneof("value"))
    return samples, _values(origin.resource.attributes)


def _values(pairs: Iterable[KeyValue]) -> dict[str, str | int]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in pairs}

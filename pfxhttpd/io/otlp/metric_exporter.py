"""Sends the metrics that `io.metrics` makes for Prometheus to a collector, under the same names."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import export
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client.core import Metric
from prometheus_client.samples import Sample
from requests import RequestException, Session

from pfxhttpd import __version__
from pfxhttpd.config.settings import Observability
from pfxhttpd.io.otlp.collector import CollectorSession, exporter_options, resource, silence_sdk

_CUMULATIVE = export.AggregationTemporality.CUMULATIVE
_NANOSECONDS = 1_000_000_000
_UNITS = {"seconds": "s", "bytes": "By"}
"""The last word of a name -> the unit, in UCUM's notation."""


class MetricExporter:
    """Belongs to one process; `session` is for requests to the collector alone."""

    def __init__(self, settings: Observability, session: Session) -> None:
        self._session = CollectorSession(session)
        self._exporter = OTLPMetricExporter(**exporter_options(settings, "/v1/metrics", self._session))
        self._resource = resource(settings)
        self._started = 0.0
        silence_sdk()

    def send(self, families: Iterable[Metric], started: float) -> str:
        """Send the metrics. `started` is when the counters were 0 (seconds since 1970); the first value counts, since it
        must be the same each time, and the clock may be set.

        Returns why they could not be sent, "" if they were. Waits for the collector at most `collector.TIMEOUT`.
        """
        self._started = self._started or started
        moments = int(self._started * _NANOSECONDS), time.time_ns()
        metrics = [metric for family in families for metric in _converted(family, *moments)]
        scope = export.ScopeMetrics(InstrumentationScope("pfxhttpd", __version__), metrics, "")
        try:
            result = self._exporter.export(export.MetricsData([export.ResourceMetrics(self._resource, [scope], "")]))
        except RequestException:  # from some versions of the SDK
            return self._session.problem
        return "" if result is export.MetricExportResult.SUCCESS else self._session.problem or "they cannot be encoded"


def _converted(family: Metric, start: int, now: int) -> list[export.Metric]:
    """A metric of Prometheus as one of OpenTelemetry; none if it has no values. Times are in nanoseconds.

    The values of Prometheus are floating-point numbers. Here some may still be booleans, which OTLP does not have.
    """
    samples: Sequence[Sample] = family.samples
    if not samples:
        return []
    name, data = family.name, _data(family.type, samples, start, now)
    if family.type == "counter":
        name += "_total"
    return [export.Metric(name, family.documentation, _UNITS.get(family.name.rpartition("_")[2], ""), data)]


def _data(kind: str, samples: Sequence[Sample], start: int, now: int) -> export.Sum | export.Gauge | export.Histogram:
    if kind == "histogram":
        return export.Histogram(_histogram_points(samples, start, now), _CUMULATIVE)
    if kind == "counter":
        points = [export.NumberDataPoint(sample.labels, start, now, float(sample.value)) for sample in samples]
        return export.Sum(points, _CUMULATIVE, is_monotonic=True)
    return export.Gauge([export.NumberDataPoint(sample.labels, 0, now, float(sample.value)) for sample in samples])


def _histogram_points(samples: Sequence[Sample], start: int, now: int) -> list[export.HistogramDataPoint]:
    """One point for each set of labels. The buckets of Prometheus contain those below them, these here do not."""
    points = []
    bounds: list[float] = []
    counts: list[int] = []
    for sample in samples:
        if sample.name.endswith("_bucket"):
            bounds.append(float(sample.labels["le"]))
            counts.append(int(sample.value))
        elif sample.name.endswith("_sum"):  # the last one of its point
            own = [count - below for count, below in zip(counts, [0, *counts], strict=False)]
            points.append(
                export.HistogramDataPoint(
                    attributes=sample.labels,
                    start_time_unix_nano=start,
                    time_unix_nano=now,
                    count=counts[-1],
                    sum=sample.value,
                    bucket_counts=own,
                    explicit_bounds=bounds[:-1],  # without the infinite one
                    min=None,  # type: ignore[arg-type]  # optional in OTLP, and the encoder leaves it out
                    max=None,  # type: ignore[arg-type]
                )
            )
            bounds, counts = [], []
    return points

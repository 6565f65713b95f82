"""Traces and metrics for OpenTelemetry, sent by OTLP over HTTP (https://opentelemetry.io/docs/specs/otlp/).

The SDK is an optional dependency, and the modules here are imported only if something is to be sent.

    tracer           which requests are traced, and the spans of the one in progress
    span_queue       the queue and the thread that send the spans
    metric_exporter  sends metrics
    collector        what both need to send something to a collector
"""

from __future__ import annotations

import importlib

from pfxhttpd.config.settings import Observability
from pfxhttpd.io import SetupError

INSTALL = "pip install 'pfxhttpd[otel]'"
"""What installs the packages."""


def load(settings: Observability) -> None:
    """Import the modules and the SDK if anything is to be sent: before the fork, so that the processes share the memory,
    and before the chroot.

    Raises SetupError if a package is missing.
    """
    wanted = {"tracer": settings.sends_traces, "metric_exporter": settings.sends_metrics}
    try:
        for name in wanted:
            if wanted[name]:
                importlib.import_module(f"{__name__}.{name}")
    except ImportError as error:
        raise SetupError(f"the packages of OpenTelemetry are missing ({INSTALL}): {error}") from error

"""Sends the metrics to a collector once a minute, from a thread of the metrics process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pfxhttpd.io.log import Logger
from pfxhttpd.io.metrics.exposition import Metric
from pfxhttpd.process.child import error_location

if TYPE_CHECKING:
    from pfxhttpd.io.otlp.metric_exporter import MetricExporter

INTERVAL = 60.0
"""Seconds between two times."""


class MetricsSender:
    """`snapshot` gives the latest snapshot, None if there is none, and `families` the metrics of one."""

    def __init__(
        self,
        exporter: MetricExporter,
        snapshot: Callable[[], Mapping[str, Any] | None],
        families: Callable[[Mapping[str, Any]], Iterable[Metric]],
        collector: str,
        logger: Logger,
    ) -> None:
        """`collector` is the URL for the log."""
        self._exporter, self._snapshot, self._families = exporter, snapshot, families
        self._collector, self._log = collector, logger

    def start(self) -> None:
        """Start the thread. It ends with the process."""
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                problem = self._send()
            except Exception as error:  # a defect of ours; nobody else would report that the thread has ended
                problem = f"internal error: {error_location(error)}"
            if problem and self._log.error:
                self._log.error("Metrics cannot be sent", collector=self._collector, reason=problem)
            time.sleep(INTERVAL)

    def _send(self) -> str:
        snapshot = self._snapshot()
        if snapshot is None:
            return "the master process does not respond"
        return self._exporter.send(self._families(snapshot), snapshot["started"])

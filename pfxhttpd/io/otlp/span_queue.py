"""The way of finished spans to the collector: a bounded queue, and a thread of the SDK that empties it.

The thread belongs to one worker and is started after the fork. Nothing waits for it, except `close`. It sends what there
is once a second, and tries again for a few seconds if the collector does not take it. What cannot be sent is lost and
counted.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from requests import Session

from pfxhttpd.config.settings import Observability
from pfxhttpd.io.otlp.collector import CollectorSession, exporter_options, silence_sdk

QUEUE_SIZE = 2048
"""Spans that may wait to be sent."""
RESERVED = 32
"""Space in the queue without which no further request is traced; a request has fewer spans."""
BATCH_SIZE = 128
"""Spans that are sent in one request. While the thread encodes them, for some milliseconds, the worker is slower."""
SEND_INTERVAL = 1.0
"""Seconds after which spans are sent that are fewer than a batch."""
SWITCH_INTERVAL = 0.0005
"""Seconds after which the thread lets the worker go on, which is in the middle of a request; Python's default is ten times
that, and a request has several system calls after each of which it may have to wait (sys.setswitchinterval)."""


class _CountingExporter(SpanExporter):
    """Counts the spans that have left the queue, and those of them that could not be sent."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner
        self.taken = self.failed = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._inner.export(spans)
        finally:
            if result is not SpanExportResult.SUCCESS:
                self.failed += len(spans)
            self.taken += len(spans)
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()


class SpanQueue(BatchSpanProcessor):
    """The queue of one worker. The thread sends requests to the collector by `session`, which nobody else may use."""

    def __init__(self, settings: Observability, session: Session) -> None:
        self._session = CollectorSession(session)
        self._counts = _CountingExporter(OTLPSpanExporter(**exporter_options(settings, "/v1/traces", self._session)))
        self._queued = self._reported = self._left = 0
        silence_sdk()
        sys.setswitchinterval(SWITCH_INTERVAL)
        # Signals are for the main thread, which they have to wake up from system calls. A thread inherits the mask.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            super().__init__(
                self._counts,
                max_queue_size=QUEUE_SIZE,
                schedule_delay_millis=SEND_INTERVAL * 1000,
                max_export_batch_size=BATCH_SIZE,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def on_end(self, span: ReadableSpan) -> None:
        self._queued += 1
        super().on_end(span)

    @property
    def full(self) -> bool:
        """Whether there is no space for the spans of another request."""
        return self._queued - self._counts.taken > QUEUE_SIZE - RESERVED

    @property
    def problem(self) -> str:
        """Why the last request to the collector failed; "" if it did not."""
        return self._session.problem

    def take_failed(self) -> int:
        """How many spans could not be sent, without those that an earlier call returned."""
        failed = self._left + self._counts.failed
        count, self._reported = failed - self._reported, failed
        return count

    def close(self, timeout: float) -> None:
        """Send what is queued, for so many seconds at most, and end the thread. Spans that are left then cannot be sent."""
        thread = threading.Thread(target=self.shutdown, daemon=True)
        thread.start()
        thread.join(timeout)
        self._left = self._queued - self._counts.taken

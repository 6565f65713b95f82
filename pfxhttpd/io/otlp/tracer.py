"""Which requests are traced, and the spans of the one in progress.

    socket_map aliases      SERVER    from the first look at the request until the reply is sent
      decode                INTERNAL  the request is parsed
      POST /api/v1/map      CLIENT    one request to the backend, until its response is complete
      encode                INTERNAL  the reply is made and sent

A span contains neither the key, user, attributes or token of a request, nor anything of a response but its status code.
Names of attributes without `pfxhttp.` are those of OpenTelemetry's semantic conventions for HTTP and errors.

While a request is in progress only moments and identifiers are kept; its spans are made when it has ended. They are made
directly instead of with the SDK's tracer, which takes five times as long and offers nothing that is needed here.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from requests import Session, Timeout

from pfxhttpd import __version__
from pfxhttpd.config.settings import Observability
from pfxhttpd.io.otlp.collector import resource
from pfxhttpd.io.otlp.span_queue import SpanQueue

FLUSH_TIMEOUT = 1.0
"""Seconds for which a worker that leaves tries to send its last spans."""
ANSWERS = ("found", "not_found", "refused", "cached")
"""The outcomes that are no errors."""
OTHER = "_OTHER"
"""The `error.type` of an error without an outcome: there is no such entry, or a defect of ours."""

Attributes = Mapping[str, str | int]

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSET, _ERROR = Status(StatusCode.UNSET), Status(StatusCode.ERROR)
_SCOPE = InstrumentationScope("pfxhttpd", __version__)


class Tracer:
    """The tracer of one worker, to be made after the fork. `session` is for requests to the collector alone.

    `sampled` says whether the request in progress was chosen; then `finish` has to be called after it. `current` is its
    trace, None if it is not traced.
    """

    def __init__(self, settings: Observability, session: Session) -> None:
        self.current: RequestTrace | None = None
        self.sampled = False
        self.random_bits = random.Random().getrandbits
        self._bound = round(settings.otel_sample_ratio * (1 << 64))
        self._queue = SpanQueue(settings, session)
        self._resource = resource(settings)
        self._skipped = 0

    def begin(self) -> RequestTrace | None:
        """A request is looked at. Returns its trace if it is to be traced.

        As with the SDK's TraceIdRatioBased, the last 64 bits of the trace's identifier decide. Without space in the queue
        no request is traced.
        """
        self.current, self.sampled = None, False
        low = self.random_bits(64)
        if low >= self._bound:
            return None
        self.sampled = True
        if self._queue.full:
            self._skipped += 1
            return None
        self.current = RequestTrace(self, (self.random_bits(64) << 64 | low) or 1)
        return self.current

    def finish(self) -> None:
        """The request has been answered, or was none, or its connection was closed."""
        trace, self.current, self.sampled = self.current, None, False
        if trace is not None:
            trace.end()

    def record(
        self,
        name: str,
        kind: SpanKind,
        context: SpanContext,
        parent: SpanContext | None,
        moments: tuple[int, int],
        attributes: Attributes | None = None,
        failed: bool = False,
    ) -> None:
        """Put a span into the queue. `moments` are its start and its end (nanoseconds since 1970)."""
        self._queue.on_end(
            ReadableSpan(
                name,
                context,
                parent,
                self._resource,
                attributes,
                kind=kind,
                status=_ERROR if failed else _UNSET,
                start_time=moments[0],
                end_time=moments[1],
                instrumentation_scope=_SCOPE,
            )
        )

    def take_losses(self) -> tuple[int, int]:
        """How many spans could not be sent since the last call, and how many requests were not traced because the queue
        was full."""
        skipped, self._skipped = self._skipped, 0
        return self._queue.take_failed(), skipped

    @property
    def problem(self) -> str:
        """Why the last request to the collector failed; "" if it did not."""
        return self._queue.problem

    def close(self) -> None:
        """Send the last spans, for at most FLUSH_TIMEOUT; those that are left then count as lost."""
        self._queue.close(FLUSH_TIMEOUT)


class RequestTrace:
    """The trace of a client's request."""

    __slots__ = (
        "_attributes",
        "_context",
        "_decided_at",
        "_decoded_at",
        "_exchanges",
        "_name",
        "_outcome",
        "_started_at",
        "_tracer",
    )

    def __init__(self, tracer: Tracer, trace_id: int) -> None:
        self._started_at = time.time_ns()
        self._tracer = tracer
        self._context = SpanContext(trace_id, self._new_id(), False, _SAMPLED)
        self._decoded_at = self._decided_at = 0
        self._name = self._outcome = ""
        self._attributes: dict[str, str | int] = {}
        self._exchanges: list[Exchange] = []

    def _new_id(self) -> int:
        """The identifier of another span."""
        return self._tracer.random_bits(64) or 1

    @property
    def ids(self) -> dict[str, str]:
        """The fields of the request's log lines; none as long as it is not complete, since it may never be."""
        if not self._decoded_at:
            return {}
        return {"trace_id": f"{self._context.trace_id:032x}", "span_id": f"{self._context.span_id:016x}"}

    def decoded(self, component: str, name: str, listener: str) -> None:
        """The request is complete, and for the entry `name`; "" if there is no such entry."""
        self._decoded_at = time.time_ns()
        self._attributes = {"pfxhttp.component": component, "pfxhttp.listener": listener}
        if name:
            self._attributes["pfxhttp.name"] = name
        self._name = f"{component} {name}" if name else component

    def start_exchange(self, name: str, attributes: Attributes) -> Exchange:
        """A request to the backend begins. `name` and `attributes` are those of its span."""
        exchange = Exchange(name, {**attributes}, self._context.trace_id, self._new_id())
        if self._exchanges:
            exchange.attributes["http.request.resend_count"] = len(self._exchanges)
        self._exchanges.append(exchange)
        return exchange

    def decided(self, outcome: str) -> None:
        """It is known how the request ends, and the reply can be made."""
        self._outcome = outcome
        self._decided_at = time.time_ns()

    def end(self) -> None:
        """Record the spans, unless there was no complete request."""
        if not self._decoded_at:
            return
        now, root, record = time.time_ns(), self._context, self._tracer.record
        self._record_part("decode", self._started_at, self._decoded_at)
        for each in self._exchanges:
            context = SpanContext(root.trace_id, each.span_id, False, _SAMPLED)
            moments = each.started_at, each.ended_at or now
            record(each.name, SpanKind.CLIENT, context, root, moments, each.attributes, each.failed)
        attributes = self._attributes
        if self._decided_at:
            self._record_part("encode", self._decided_at, now)
            attributes["pfxhttp.outcome"] = self._outcome
        failed = self._outcome not in ANSWERS
        if failed:
            attributes["error.type"] = self._outcome or OTHER
        record(self._name, SpanKind.SERVER, root, None, (self._started_at, now), attributes, failed)

    def _record_part(self, name: str, start: int, end: int) -> None:
        context = SpanContext(self._context.trace_id, self._new_id(), False, _SAMPLED)
        self._tracer.record(name, SpanKind.INTERNAL, context, self._context, (start, end))


class Exchange:
    """One request to a backend, and what its span will say of it."""

    __slots__ = ("attributes", "ended_at", "failed", "name", "span_id", "started_at", "traceparent")

    def __init__(self, name: str, attributes: dict[str, str | int], trace_id: int, span_id: int) -> None:
        self.name, self.attributes, self.span_id = name, attributes, span_id
        self.failed = False
        self.started_at, self.ended_at = time.time_ns(), 0
        self.traceparent = f"00-{trace_id:032x}-{span_id:016x}-01"
        """The value of the request's header field of that name: the request is sampled (W3C Trace Context)."""

    def end(self, status: int, expected: bool) -> None:
        """The response has this status code, for which the entry is configured or not."""
        self.ended_at = time.time_ns()
        self.attributes["http.response.status_code"] = status
        if not expected and status >= 400:
            self._fail(str(status))

    def fail(self, error: BaseException) -> None:
        """There is no response, because of this error."""
        self.ended_at = time.time_ns()
        kind = type(error)
        self._fail("timeout" if isinstance(error, Timeout) else f"{kind.__module__}.{kind.__qualname__}")

    def _fail(self, kind: str) -> None:
        self.attributes["error.type"] = kind
        self.failed = True

"""Which requests are traced, and what becomes of the spans, at a tracer in this process."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from requests import PreparedRequest, Response, Session, exceptions

from pfxhttpd.config.settings import Observability
from pfxhttpd.io.otlp import span_queue
from pfxhttpd.io.otlp.tracer import Tracer


class Answers(Session):
    """A collector without a network: the requests that it was sent, and what comes of each."""

    def __init__(self, status: int = 200) -> None:
        super().__init__()
        self.status, self.sent = status, 0

    def send(self, request: PreparedRequest, **_: Any) -> Response:
        self.sent += 1
        if not self.status:
            raise exceptions.InvalidURL("no such place")
        response = Response()
        response.status_code = self.status
        return response


@pytest.fixture(autouse=True)
def _logger() -> Iterator[None]:
    logger = logging.getLogger("opentelemetry")
    before = logger.handlers[:], logger.propagate
    yield
    logger.handlers, logger.propagate = before


Start = Callable[..., Tracer]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Makes tracers that have as long as they need for their last spans. None of their threads outlives the test, since
    the SDK starts a thread for each of them in every process that is forked."""
    monkeypatch.setattr("pfxhttpd.io.otlp.tracer.FLUSH_TIMEOUT", 60.0)
    interval, made = sys.getswitchinterval(), list[Tracer]()

    def make(settings: Observability, collector: Session) -> Tracer:
        made.append(Tracer(settings, collector))
        return made[-1]

    yield make
    for tracer in made:
        tracer.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("Otel")]
    sys.setswitchinterval(interval)


def trace_one(tracer: Tracer) -> int:
    """Trace a request, if it is to be traced. Returns its identifier, else 0."""
    trace = tracer.begin()
    if trace is None:
        tracer.finish()
        return 0
    trace.decoded("socket_map", "m", "l")
    trace.decided("found")
    tracer.finish()
    return int(trace.ids["trace_id"], 16)


@pytest.mark.parametrize("ratio", [0.0, 0.25, 1.0])
def test_the_ratio_is_kept_as_the_sdk_keeps_it(ratio: float, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that gets the identifier and has the same ratio decides the same."""
    monkeypatch.setattr(span_queue, "QUEUE_SIZE", 1 << 16)
    tracer, sampler = start(Observability(otel_sample_ratio=ratio), Answers()), TraceIdRatioBased(ratio)
    traced = [identifier for _ in range(2000) if (identifier := trace_one(tracer))]
    assert abs(len(traced) - 2000 * ratio) <= 120  # six standard deviations
    assert len(set(traced)) == len(traced)
    assert all(sampler.should_sample(None, identifier, "x").decision.is_sampled() for identifier in traced)
    tracer.close()
    assert tracer.take_losses() == (0, 0)


def test_what_is_no_request_leaves_nothing(start: Start) -> None:
    collector = Answers()
    tracer = start(Observability(), collector)
    assert tracer.begin() is not None and tracer.sampled
    tracer.finish()
    assert not tracer.sampled and tracer.current is None
    tracer.close()
    assert collector.sent == 0


def test_a_repeated_request_says_so(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a response with 401, with another token."""
    tracer = start(Observability(), Answers())
    recorded: list[ReadableSpan] = []
    monkeypatch.setattr(tracer._queue, "on_end", recorded.append)
    trace = tracer.begin()
    assert trace is not None
    trace.decoded("policy_service", "p", "p")
    shared = {"server.port": 80}
    first, second = trace.start_exchange("POST /", shared), trace.start_exchange("POST /", shared)
    assert len({first.traceparent, second.traceparent}) == 2
    first.end(401, expected=False)
    second.end(200, expected=True)
    trace.decided("found")
    tracer.finish()
    exchanges = [dict(span.attributes or {}) for span in recorded if span.name == "POST /"]
    assert exchanges == [
        {"server.port": 80, "http.response.status_code": 401, "error.type": "401"},
        {"server.port": 80, "http.response.status_code": 200, "http.request.resend_count": 1},
    ]
    assert shared == {"server.port": 80}
    assert not recorded[-1].status.description and recorded[-1].status.is_unset


@pytest.mark.parametrize(
    ("status", "problem"),
    [(404, "it responded with status code 404"), (302, "it responded with status code 302"), (0, "no such place")],
)
def test_what_cannot_be_sent_is_counted(status: int, problem: str, start: Start) -> None:
    tracer = start(Observability(), Answers(status))
    trace_one(tracer)
    tracer.close()
    assert tracer.take_losses() == (3, 0)
    assert tracer.take_losses() == (0, 0)
    assert tracer.problem == problem


def test_a_full_queue_stops_tracing(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """No span of a request is lost that has identifiers: it was decided before."""
    monkeypatch.setattr(span_queue, "QUEUE_SIZE", 128)
    monkeypatch.setattr(span_queue, "SEND_INTERVAL", 1000.0)
    collector = Answers()
    tracer = start(Observability(), collector)
    traced = [trace_one(tracer) for _ in range(40)]
    assert traced[:33].count(0) == 0 and traced[33:] == [0] * 7
    assert tracer.take_losses() == (0, 7)
    tracer.close()
    assert collector.sent == 1 and tracer.take_losses() == (0, 0)
    assert trace_one(tracer)

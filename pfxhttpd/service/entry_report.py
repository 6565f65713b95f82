"""What becomes known of the outcomes of an entry's requests: the counts that `status` shows, and the lines in the log.

A failure is logged at level error once per target; until there has been none for a minute, further ones are logged at
level info, and the master adds a line a minute with their number (`process.target_failure_log`). So an outage of a busy backend
fills no disk, and is still seen in a log that has errors only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from pfxhttpd.config.settings import DOVECOT_SASL, POLICY_SERVICE, SOCKET_MAP, Entry
from pfxhttpd.io.log import Logger
from pfxhttpd.io.scoreboard import FAILURES, STATUS_CODES, TargetRow
from pfxhttpd.io.scoreboard.entry_counters import FAILED, FOUND, NOT_FOUND, REFUSED, UNEXPECTED, EntryRow
from pfxhttpd.rules.response import JSON, BackendError, BackendResponse, is_failure
from pfxhttpd.rules.value import MISSING, field_names, find
from pfxhttpd.rules.verdict import MapVerdict, PolicyVerdict
from pfxhttpd.service.breaker import BreakerOpen
from pfxhttpd.service.log_context import LogContext
from pfxhttpd.service.request_metrics import CACHED, NOT_SENT, OUTCOME_INDEXES, OUTCOMES, EntryMeter
from pfxhttpd.wire.sanitize import one_line

if TYPE_CHECKING:
    from pfxhttpd.io.otlp.tracer import Tracer

_FIELDS = {SOCKET_MAP: "map", POLICY_SERVICE: "policy", DOVECOT_SASL: "sasl"}
"""The log field that holds an entry's name, by its kind."""


BODY_LIMIT = 200
"""Characters of a response's body that are logged."""
MAX_BODY = 4000
"""Bytes of it in which secrets are looked for, so that one is found whole that is only partly among those characters."""


class EntryReport:
    """One worker's report about one entry. `row` counts; `target_row` is the target's row on the scoreboard."""

    def __init__(
        self,
        entry: Entry,
        row: EntryRow,
        target_row: TargetRow,
        target: str,
        logger: Logger,
        meter: EntryMeter | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """`target` is the target's URL as it may be shown. `meter` counts for the metrics if they are on, and `tracer` is
        given if requests are traced."""
        self._row, self._target_row, self._target, self._log = row, target_row, target, logger
        self._entry = entry
        self._name = {_FIELDS[entry.kind]: entry.name}
        self._meter, self._tracer = meter, tracer
        self.listener = entry.name
        """The listener of the request in progress. A socket map has other names than its listeners."""
        self.count: Callable[[int], object] = row.count if meter is None and tracer is None else self._count
        """Counts a request that was answered: FOUND, NOT_FOUND or REFUSED."""

    def begin(self, now: float) -> None:
        """A request begins (monotonic seconds)."""
        self._row.began = now

    def _count(self, outcome: int) -> None:
        seconds = self._row.count(outcome)
        if self._meter is not None:
            self._meter.count(self.listener, outcome, seconds)
        self._trace(OUTCOME_INDEXES[outcome])

    def judged(
        self, message: str, response: BackendResponse, verdict: MapVerdict | PolicyVerdict, context: LogContext
    ) -> None:
        """A lookup or a policy request was answered. `message` is for the log, if there is a problem."""
        if not verdict.problem:
            if verdict.cacheable:
                self.count(FOUND)
            else:
                self._not_found(response.document)
        elif response.status in self._entry.status_codes:
            self.count(REFUSED)
            if self._log.info:
                self._log.info(message, **context.fields, **self._name, reason=verdict.problem)
        else:
            self._unexpected(message, verdict.problem, response.status, context.fields)

    def _not_found(self, document: JSON) -> None:
        """A request was answered with this JSON document, in which there is no value."""
        if self._row.may_lack_field:
            missing = find(document, self._entry.value_field) is MISSING
            self._row.note_fields(one_line(field_names(document)) if missing else "")
        self.count(NOT_FOUND)

    def log_response(
        self, response: BackendResponse, fields: Mapping[str, object], redact: Callable[[str], str]
    ) -> None:
        """Log the response at level debug. `redact` removes the secrets of the exchange from a text."""
        if self._log.debug:
            self._log.debug(
                "Backend responded",
                **fields,
                method=self._entry.method,
                url=self._target,
                status=response.status,
                seconds=round(time.monotonic() - self._row.began, 6),
                body=redact(response.body[:MAX_BODY].decode("utf-8", "replace"))[:BODY_LIMIT],
            )

    def failed(
        self,
        message: str,
        error: BackendError,
        fields: Mapping[str, object],
        cached: bool | None,
        redact: Callable[[str], str],
    ) -> None:
        """The request failed. `message` and `fields` are for the log; `cached` says whether the cache had an answer, None
        without a cache. `redact` is that of `log_response`."""
        if error.response is not None:
            self.log_response(error.response, fields, redact)
        level: Callable[..., None] | None = self._log.info
        if isinstance(error, BreakerOpen):
            self._row.count_not_sent()
            self._fail(NOT_SENT, cached)
        else:
            unexpected = error.status > 0 and not is_failure(error.status)
            outcome = UNEXPECTED if unexpected else FAILED
            self._row.count(outcome)
            self._fail(OUTCOME_INDEXES[outcome], cached)
            self._row.note_error(one_line(error.reason))
            level = self._level(STATUS_CODES if unexpected else FAILURES)
        if cached:
            self._row.count_cached()
        if level:
            cache = None if cached is None else "hit" if cached else "miss"
            level(message, **fields, **self._name, target=self._target, reason=error.reason, cache=cache)

    def _fail(self, index: int, cached: bool | None) -> None:
        """The request failed with this one of OUTCOMES, unless the cache had an answer."""
        index = CACHED if cached else index
        if self._meter is not None:
            self._meter.count_index(self.listener, index, time.monotonic() - self._row.began)
        self._trace(index)

    def _unexpected(self, message: str, problem: str, status: int, fields: Mapping[str, object]) -> None:
        """The request was answered with a status code that the entry does not expect."""
        self.count(UNEXPECTED)
        self._row.note_error(one_line(problem))
        level = self._level(STATUS_CODES)
        if level:
            level(message, **fields, **self._name, target=self._target, reason=problem, status=status)

    def _trace(self, index: int) -> None:
        if self._tracer is not None and self._tracer.current is not None:
            self._tracer.current.decided(OUTCOMES[index])

    def _level(self, kind: int) -> Callable[..., None] | None:
        """The method that logs a line about a problem of this kind: `error` for the first one, else `info`."""
        log = self._log
        return log.error if log.error and self._target_row.is_first(kind, time.monotonic()) else log.info

"""What becomes known of the outcomes of an entry's requests: the counts that `status` shows, and the lines in the log.

A failure is logged at level error once per target; until there has been none for a minute, further ones are logged at
level info, and the master adds a line a minute with their number (`process.target_log`). So an outage of a busy backend
fills no disk, and is still seen in a log that has errors only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from pfxhttpd.config.settings import DOVECOT_SASL, POLICY_SERVICE, SOCKET_MAP, Entry
from pfxhttpd.io.log import Logger
from pfxhttpd.io.scoreboard import FAILURES, STATUS_CODES, TargetRow
from pfxhttpd.io.scoreboard.entry_counters import FAILED, NOT_FOUND, UNEXPECTED, EntryRow
from pfxhttpd.rules.response import JSON, BackendError, BackendResponse, is_failure
from pfxhttpd.rules.value import MISSING, field_names, find
from pfxhttpd.service.breaker import BreakerOpen
from pfxhttpd.wire.sanitize import one_line

_FIELDS = {SOCKET_MAP: "map", POLICY_SERVICE: "policy", DOVECOT_SASL: "sasl"}
"""The log field that holds an entry's name, by its kind."""


BODY_LIMIT = 200
"""Characters of a response's body that are logged."""
MAX_BODY = 4000
"""Bytes of it in which secrets are looked for, so that one is found whole that is only partly among those characters."""


class EntryReport:
    """One worker's report about one entry. `row` counts; `target_row` is the target's row on the scoreboard."""

    def __init__(self, entry: Entry, row: EntryRow, target_row: TargetRow, target: str, logger: Logger) -> None:
        """`target` is the target's URL as it may be shown."""
        self._row, self._target_row, self._target, self._log = row, target_row, target, logger
        self._entry = entry
        self._name = {_FIELDS[entry.kind]: entry.name}
        self.count = row.count
        """Counts a request that was answered: FOUND, NOT_FOUND or REFUSED."""

    def begin(self, now: float) -> None:
        """A request begins (monotonic seconds)."""
        self._row.began = now

    def not_found(self, document: JSON) -> None:
        """A request was answered with this JSON document, in which there is no value."""
        if self._row.may_lack_field:
            missing = find(document, self._entry.value_field) is MISSING
            self._row.note_fields(one_line(field_names(document)) if missing else "")
        self._row.count(NOT_FOUND)

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
        else:
            unexpected = error.status > 0 and not is_failure(error.status)
            self._row.count(UNEXPECTED if unexpected else FAILED)
            self._row.note_error(one_line(error.reason))
            level = self._level(STATUS_CODES if unexpected else FAILURES)
        if cached:
            self._row.count_cached()
        if level:
            cache = None if cached is None else "hit" if cached else "miss"
            level(message, **fields, **self._name, target=self._target, reason=error.reason, cache=cache)

    def unexpected(self, message: str, problem: str, status: int, fields: Mapping[str, object]) -> None:
        """The request was answered with a status code that the entry does not expect."""
        self._row.count(UNEXPECTED)
        self._row.note_error(one_line(problem))
        level = self._level(STATUS_CODES)
        if level:
            level(message, **fields, **self._name, target=self._target, reason=problem, status=status)

    def _level(self, kind: int) -> Callable[..., None] | None:
        """The method that logs a line about a problem of this kind: `error` for the first one, else `info`."""
        log = self._log
        return log.error if log.error and self._target_row.is_first(kind, time.monotonic()) else log.info

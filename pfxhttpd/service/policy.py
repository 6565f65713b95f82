"""Policy requests: may this mail pass? (SMTPD_POLICY_README)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pfxhttpd.config.settings import POLICY_SERVICE, Entry
from pfxhttpd.io.handoff import Connection
from pfxhttpd.io.log import Logger
from pfxhttpd.rules import cache_key
from pfxhttpd.rules.response import BackendError
from pfxhttpd.rules.verdict import policy_action
from pfxhttpd.service.backend import Backend
from pfxhttpd.service.cache_buffer import CacheBuffer
from pfxhttpd.service.log_context import LogContext
from pfxhttpd.wire import policy

if TYPE_CHECKING:
    from pfxhttpd.io.otlp.tracer import Tracer

_NO_SUCH_POLICY = "DEFER Temporary server problem"


class PolicyService:
    """Answers the requests of policy clients. A connection's listener names the policy."""

    def __init__(
        self, backends: Mapping[str, Backend], cache: CacheBuffer, logger: Logger, tracer: Tracer | None = None
    ) -> None:
        self._backends, self._cache, self._log, self._tracer = backends, cache, logger, tracer

    def handle(self, connection: Connection) -> bytes | None:
        """The reply to the next request in `connection.unread`, which is consumed; None if it is not complete.

        Raises `wire.ProtocolError` for a request that is malformed; it cannot be answered.
        """
        trace = self._tracer.begin() if self._tracer is not None else None
        taken = policy.parse(connection.unread)
        if taken is None:
            return None
        attributes, used = taken
        connection.unread = connection.unread[used:]
        if trace is not None:
            trace.decoded(POLICY_SERVICE, connection.name, connection.name)
        log, context = self._log, LogContext(connection, trace)
        if log.debug:
            log.debug("Received request", **context.fields, policy=connection.name, attributes=attributes)
        backend = self._backends.get(connection.name)
        action = self._decide(backend, attributes, context) if backend else _NO_SUCH_POLICY
        if log.debug:
            log.debug("Response sent", **context.fields, action=action)
        return policy.encode(action)

    def _decide(self, backend: Backend, attributes: Mapping[str, str], context: LogContext) -> str:
        entry, cache, report = backend.entry, self._cache, backend.report
        try:
            response = backend.query(attributes)
            if self._log.debug:
                report.log_response(response, context.fields, backend.redact)
            verdict = policy_action(entry, response, backend.redact)
        except BackendError as error:
            action = cache.get(self._key(entry, attributes)) if cache.enabled else None
            report.failed(
                "Backend failed", error, context.fields, action is not None if cache.enabled else None, backend.redact
            )
            return entry.failure_action if action is None else action
        if cache.enabled and not verdict.problem:
            cache.put(self._key(entry, attributes), entry.name, verdict.action if verdict.cacheable else None)
        report.judged("No valid action", response, verdict, context)
        return verdict.action

    @staticmethod
    def _key(entry: Entry, attributes: Mapping[str, str]) -> bytes:
        return cache_key.policy_key(entry.name, attributes, entry.cache_ignore)

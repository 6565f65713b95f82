"""Lookups of socket maps: what does this table contain for this key? (socketmap_table(5))"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pfxhttpd.config.settings import SOCKET_MAP
from pfxhttpd.io.handoff import Connection
from pfxhttpd.io.log import Logger
from pfxhttpd.rules import cache_key
from pfxhttpd.rules.response import BackendError
from pfxhttpd.rules.verdict import failure_reply, map_reply
from pfxhttpd.service.backend import Backend
from pfxhttpd.service.cache_buffer import CacheBuffer
from pfxhttpd.service.listener_metrics import ListenerMetrics
from pfxhttpd.service.log_context import LogContext
from pfxhttpd.service.log_limit import MinuteLimit
from pfxhttpd.wire import socketmap
from pfxhttpd.wire.socketmap import OK, PERM, BadQuery, SocketMapReply

if TYPE_CHECKING:
    from pfxhttpd.io.otlp.tracer import Tracer

_NO_SUCH_MAP = SocketMapReply(PERM, "no such map")


class SocketMapService:
    """Answers the requests of socket-map clients. Each request names its map. `reply_limit` is in bytes."""

    def __init__(
        self,
        backends: Mapping[str, Backend],
        cache: CacheBuffer,
        reply_limit: int,
        metrics: ListenerMetrics,
        logger: Logger,
        tracer: Tracer | None = None,
    ) -> None:
        self._backends, self._cache, self._limit, self._log = backends, cache, reply_limit, logger
        self._metrics, self._tracer = metrics, tracer
        self._unknown = MinuteLimit()

    def handle(self, connection: Connection) -> bytes | None:
        """The reply to the next request in `connection.unread`, which is consumed; None if it is not complete.

        Raises `wire.ProtocolError` if the framing is broken.
        """
        trace = self._tracer.begin() if self._tracer is not None else None
        taken = socketmap.parse(connection.unread)
        if taken is None:
            return None
        query, used = taken
        connection.unread = connection.unread[used:]
        log, context = self._log, LogContext(connection, trace)
        if isinstance(query, BadQuery):
            if log.info:
                log.info("Malformed request", **context.fields, reply=query.reply.status)
            return socketmap.encode(query.reply, self._limit)
        if trace is not None:
            trace.decoded(SOCKET_MAP, query.name if query.name in self._backends else "", connection.listener)
        if log.debug:
            log.debug("Received request", **context.fields, map=query.name, key=query.key)
        backend = self._backends.get(query.name)
        if backend:
            backend.report.listener = connection.listener
            reply = self._look_up(backend, query.key, context)
        else:
            reply = _NO_SUCH_MAP
            self._metrics.unknown_map(connection.endpoint)
            if log.error and self._unknown.passes(query.name):
                log.error("No such map", **context.fields, map=query.name, listener=connection.listener)
        if log.debug:
            log.debug("Response sent", **context.fields, status=reply.status, reply=reply.text)
        return socketmap.encode(reply, self._limit)

    def _look_up(self, backend: Backend, key: str, context: LogContext) -> SocketMapReply:
        entry, cache, report = backend.entry, self._cache, backend.report
        try:
            response = backend.query(key)
            if self._log.debug:
                report.log_response(response, context.fields, backend.redact)
            verdict = map_reply(entry, response, backend.redact)
        except BackendError as error:
            value = cache.get(cache_key.map_key(entry.name, key)) if cache.enabled else None
            report.failed(
                "Backend failed", error, context.fields, value is not None if cache.enabled else None, backend.redact
            )
            return failure_reply(error) if value is None else SocketMapReply(OK, value)
        if cache.enabled and not verdict.problem:
            value = verdict.reply.text if verdict.cacheable else None
            cache.put(cache_key.map_key(entry.name, key), entry.name, value)
        report.judged("Lookup refused", response, verdict, context)
        return verdict.reply

"""Lookups: what does this table say? (socketmap_table(5))"""

from __future__ import annotations

from collections.abc import Mapping

from pfxhttpd.io.handoff import Connection
from pfxhttpd.io.log import Logger
from pfxhttpd.rules import cache_key
from pfxhttpd.rules.response import BackendError
from pfxhttpd.rules.verdict import failure_reply, map_reply
from pfxhttpd.service.backend import Backend
from pfxhttpd.service.cache import CacheBuffer
from pfxhttpd.service.log_context import LogContext
from pfxhttpd.wire import socketmap
from pfxhttpd.wire.socketmap import OK, PERM, BadQuery, SocketMapReply

_NO_SUCH_MAP = SocketMapReply(PERM, "no such map")


class SocketMapService:
    """Answers the requests of socket-map clients, from whichever map each of them names."""

    def __init__(self, backends: Mapping[str, Backend], memory: CacheBuffer, reply_limit: int, logger: Logger) -> None:
        self._backends, self._memory, self._limit, self._log = backends, memory, reply_limit, logger

    def step(self, client: Connection) -> bytes | None:
        """The reply to the next request in `client.unread`, which is consumed; None when it is not whole yet.

        Raises `wire.ProtocolError` when the framing is broken.
        """
        taken = socketmap.parse(client.unread)
        if taken is None:
            return None
        query, used = taken
        client.unread = client.unread[used:]
        log, trace = self._log, LogContext(client)
        if type(query) is BadQuery:
            if log.info:
                log.info("Malformed request", **trace.fields, reply=query.reply.status)
            return socketmap.encode(query.reply, self._limit)
        if log.debug:
            log.debug("Received request", **trace.fields, map=query.name, key=query.key)
        backend = self._backends.get(query.name)
        reply = self._look_up(backend, query.key, trace) if backend else _NO_SUCH_MAP
        if log.debug:
            log.debug("Response sent", **trace.fields, status=reply.status, reply=reply.text)
        return socketmap.encode(reply, self._limit)

    def _look_up(self, backend: Backend, key: str, trace: LogContext) -> SocketMapReply:
        log, entry, memory = self._log, backend.entry, self._memory
        try:
            verdict = backend.consult(key, map_reply)
        except BackendError as failure:
            value = memory.recall(cache_key.map_key(entry.name, key)) if memory.enabled else None
            if log.info:
                cached = "miss" if value is None else "hit"
                log.info("Backend failed", **trace.fields, map=entry.name, reason=failure.reason, cache=cached)
            return failure_reply(failure) if value is None else SocketMapReply(OK, value)
        if memory.enabled and not verdict.problem:
            kept = verdict.reply.text if verdict.cacheable else None
            memory.remember(cache_key.map_key(entry.name, key), entry.name, kept)
        if verdict.problem and log.info:
            log.info("Lookup refused", **trace.fields, map=entry.name, reason=verdict.problem)
        return verdict.reply

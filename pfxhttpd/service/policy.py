"""Policy checks: may this mail pass? (SMTPD_POLICY_README)"""

from __future__ import annotations

from collections.abc import Mapping

from pfxhttpd.config.settings import Entry
from pfxhttpd.io.handoff import Connection
from pfxhttpd.io.log import Logger
from pfxhttpd.rules import cache_key
from pfxhttpd.rules.response import BackendError
from pfxhttpd.rules.verdict import policy_action
from pfxhttpd.service.backend import Backend
from pfxhttpd.service.cache import CacheBuffer
from pfxhttpd.service.log_context import LogContext
from pfxhttpd.wire import policy

_GONE = "DEFER Temporary server problem"


class PolicyService:
    """Answers the requests of policy clients; the client's listener names the policy."""

    def __init__(self, backends: Mapping[str, Backend], memory: CacheBuffer, logger: Logger) -> None:
        self._backends, self._memory, self._log = backends, memory, logger

    def step(self, client: Connection) -> bytes | None:
        """The reply to the next request in `client.unread`, which is consumed; None when it is not whole yet.

        Raises `wire.ProtocolError`; nothing can be answered then.
        """
        taken = policy.parse(client.unread)
        if taken is None:
            return None
        attributes, used = taken
        client.unread = client.unread[used:]
        log, trace = self._log, LogContext(client)
        if log.debug:
            log.debug("Received request", **trace.fields, policy=client.name, attributes=attributes)
        backend = self._backends.get(client.name)
        action = self._decide(backend, attributes, trace) if backend else _GONE
        if log.debug:
            log.debug("Response sent", **trace.fields, action=action)
        return policy.encode(action)

    def _decide(self, backend: Backend, attributes: Mapping[str, str], trace: LogContext) -> str:
        log, entry, memory = self._log, backend.entry, self._memory
        try:
            verdict = backend.consult(attributes, policy_action)
        except BackendError as failure:
            action = memory.recall(self._key(entry, attributes)) if memory.enabled else None
            if log.info:
                cached = "miss" if action is None else "hit"
                log.info("Backend failed", **trace.fields, policy=entry.name, reason=failure.reason, cache=cached)
            return entry.failure_action if action is None else action
        if memory.enabled and not verdict.problem:
            kept = verdict.action if verdict.cacheable else None
            memory.remember(self._key(entry, attributes), entry.name, kept)
        if verdict.problem and log.info:
            log.info("No valid action", **trace.fields, policy=entry.name, reason=verdict.problem)
        return verdict.action

    @staticmethod
    def _key(entry: Entry, attributes: Mapping[str, str]) -> bytes:
        return cache_key.policy_key(entry.name, attributes, entry.cache_ignore)

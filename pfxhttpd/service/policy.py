"""Policy checks: may this mail pass? (SMTPD_POLICY_README)"""

from __future__ import annotations

from typing import Mapping

from pfxhttpd.config.settings import Entry
from pfxhttpd.exchange import cachekey
from pfxhttpd.exchange.answer import BackendFailure
from pfxhttpd.exchange.verdict import policy_action
from pfxhttpd.outside.handoff import Client
from pfxhttpd.outside.journal import Journal
from pfxhttpd.service.backend import Backend
from pfxhttpd.service.memory import Memory
from pfxhttpd.service.trace import Trace
from pfxhttpd.wire import policy

_GONE = "DEFER Temporary server problem"


class Checks:
    """Answers the requests of policy clients; the client's listener names the policy."""

    def __init__(self, backends: Mapping[str, Backend], memory: Memory, journal: Journal) -> None:
        self._backends, self._memory, self._log = backends, memory, journal

    def step(self, client: Client) -> bytes | None:
        """The reply to the next request in `client.unread`, which is consumed; None when it is not whole yet.

        Raises `wire.malformed.Malformed`; nothing can be answered then.
        """
        taken = policy.take(client.unread)
        if taken is None:
            return None
        attributes, used = taken
        client.unread = client.unread[used:]
        log, trace = self._log, Trace(client)
        if log.debug:
            log.debug("Received request", **trace.fields, policy=client.name, attributes=attributes)
        backend = self._backends.get(client.name)
        action = self._decide(backend, attributes, trace) if backend else _GONE
        if log.debug:
            log.debug("Response sent", **trace.fields, action=action)
        return policy.encode(action)

    def _decide(self, backend: Backend, attributes: Mapping[str, str], trace: Trace) -> str:
        log, entry, memory = self._log, backend.entry, self._memory
        try:
            verdict = backend.consult(attributes, policy_action)
        except BackendFailure as failure:
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
        return cachekey.of_policy(entry.name, attributes, entry.cache_ignore)

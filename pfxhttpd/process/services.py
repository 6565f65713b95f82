"""What a worker works with: its session with the backends, and a service per protocol. Made once, after the fork."""

from __future__ import annotations

import ssl

from pfxhttpd.config.settings import DOVECOT_SASL, POLICY_SERVICE, SOCKET_MAP, Entry, HttpClient, Settings
from pfxhttpd.io.log import Logger
from pfxhttpd.io.transport.adapter import Transport
from pfxhttpd.io.transport.session import DirectSession
from pfxhttpd.process.context import WorkerContext, WorkerStatus
from pfxhttpd.rules.breaker import BreakerRule
from pfxhttpd.service.backend import Backend, plain_target
from pfxhttpd.service.breaker import SharedBreaker
from pfxhttpd.service.cache import CacheBuffer
from pfxhttpd.service.policy import PolicyService
from pfxhttpd.service.sasl import SaslService
from pfxhttpd.service.socketmap import SocketMapService

PROBE_GRACE = 10.0
"""Seconds past its timeout after which a probe counts as lost with its worker."""
PATIENCE = 0.5
"""Seconds that a worker waits for the cache before it serves without."""
SETTLE = 0.05
"""Part of its timeout that a worker whose request took all of it lets pass, if need be, before it asks again."""


class Services:
    """`services` answer by the kind of client; `transport` and `memory` want to be tended when there is time."""

    def __init__(
        self, post: WorkerContext, settings: Settings, context: ssl.SSLContext, titles: WorkerStatus, logger: Logger
    ) -> None:
        server = settings.server
        self.transport = Transport(
            context,
            idle=server.http_client.idle_connection_timeout,
            max_idle=_share(server.http_client, post.pool.max_workers),
            limiter=post.connection_limit,
        )
        if server.response_cache.enabled:
            post.store.connect(PATIENCE)
        self.memory = CacheBuffer(post.store, post.board.cache, server.response_cache)
        session = DirectSession(self.transport)

        def backend(entry: Entry) -> Backend:
            return Backend(entry, server, session, titles, _fuse(entry, post, settings, logger))

        maps, policies, logins = (
            {name: backend(entry) for name, entry in settings.entries[kind].items()}
            for kind in (SOCKET_MAP, POLICY_SERVICE, DOVECOT_SASL)
        )
        self.services = {
            SOCKET_MAP: SocketMapService(maps, self.memory, server.socketmap_max_reply_size, logger),
            POLICY_SERVICE: PolicyService(policies, self.memory, logger),
            DOVECOT_SASL: SaslService(logins, logger),
        }


def _share(client: HttpClient, workers: int) -> int:
    """How many unused connections one worker may keep: its part of all, but one at least unless none are wanted."""
    if not (client.max_idle_connections and client.max_idle_connections_per_host):
        return 0
    return max(1, client.max_idle_connections // workers)


def _fuse(entry: Entry, post: WorkerContext, settings: Settings, logger: Logger) -> SharedBreaker:
    breaker = settings.server.circuit_breaker
    rule = BreakerRule(breaker.failures, breaker.cooldown, entry.timeout + PROBE_GRACE, entry.timeout * SETTLE)
    probes = max(1, post.pool.max_workers // 2)
    return SharedBreaker(post.board, post.targets[entry.target], rule, probes, plain_target(entry.target), logger)

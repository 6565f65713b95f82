"""What a worker serves with: the transport to the backends, and a service per protocol. Built once, after the fork."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pfxhttpd.config.settings import (
    DOVECOT_SASL,
    POLICY_SERVICE,
    SOCKET_MAP,
    BackendOidc,
    Entry,
    SaslOidc,
    Server,
    Settings,
)
from pfxhttpd.io.log import Logger
from pfxhttpd.io.oidc.endpoints import Endpoints
from pfxhttpd.io.transport.adapter import Transport
from pfxhttpd.io.transport.session import DirectSession
from pfxhttpd.process.collector_session import collector_session
from pfxhttpd.process.connection_handler import Service
from pfxhttpd.process.context import WorkerContext
from pfxhttpd.rules.breaker import BreakerRule
from pfxhttpd.service.backend import Backend, plain_target, proxies_for
from pfxhttpd.service.breaker import SharedBreaker
from pfxhttpd.service.cache_buffer import CacheBuffer
from pfxhttpd.service.entry_report import EntryReport
from pfxhttpd.service.oidc.backend_token import BackendToken
from pfxhttpd.service.oidc.login import TokenLogin
from pfxhttpd.service.oidc.provider import Provider, breaker_target, login_providers, providers_of
from pfxhttpd.service.oidc.shared_documents import SharedDocuments
from pfxhttpd.service.oidc.validator import TokenValidator
from pfxhttpd.service.policy import PolicyService
from pfxhttpd.service.sasl import SaslService
from pfxhttpd.service.socketmap import SocketMapService
from pfxhttpd.service.worker_status import WorkerStatus

if TYPE_CHECKING:
    from pfxhttpd.io.otlp.tracer import Tracer

PROBE_GRACE = 10.0
"""Seconds past its timeout after which a probe counts as lost with its worker."""
CACHE_TIMEOUT = 0.5
"""Seconds that a worker waits for the cache at its start before it serves without."""
OUTCOME_WAIT = 0.05
"""Part of its timeout that a worker waits, after a request that timed out, for the outcomes of others sent with it."""


@dataclass(frozen=True, slots=True)
class Services:
    """`by_kind` has the service for each kind of connection. `transport`, `cache` and `tracer` have to be maintained;
    without traces there is no tracer."""

    by_kind: Mapping[str, Service]
    transport: Transport
    cache: CacheBuffer
    status: WorkerStatus
    tracer: Tracer | None


def build(context: WorkerContext, settings: Settings, tls: ssl.SSLContext, logger: Logger) -> Services:
    """The services of a worker. `tls` holds for all backends."""
    server = settings.server
    entries = [entry for section in settings.entries.values() for entry in section.values()]
    status = WorkerStatus(context.row, context.title, entries)
    transport = Transport(
        tls,
        idle=server.http_client.idle_connection_timeout,
        max_idle=context.connection_limit.max_idle,
        limiter=context.connection_limit,
        on_wait=status.show_entry,
    )
    if server.response_cache.enabled or any(map(providers_of, entries)):
        context.cache.connect(CACHE_TIMEOUT)
    cache = CacheBuffer(context.cache, context.board.cache, server.response_cache)
    tracer = _make_tracer(server, tls) if server.observability.sends_traces else None
    session, shared = DirectSession(transport), SharedDocuments(context.cache, f"{server.tls} ")

    def provider(oidc: BackendOidc | SaslOidc, timeout: float) -> Provider:
        uri = oidc.configuration_uri
        breaker = _breaker(breaker_target(uri), timeout, context, settings, logger)
        return Provider(oidc, Endpoints(session, proxies_for(uri, server)), shared, breaker)

    def backend(entry: Entry) -> Backend:
        breaker = _breaker(entry.target, entry.timeout, context, settings, logger)
        token = None
        if entry.backend_oidc.enabled:
            token = BackendToken(entry.backend_oidc, provider(entry.backend_oidc, entry.timeout), shared)
        row = context.counters.row(entry.kind, entry.name, entry.timeout)
        meter = context.metrics.requests.meter(entry) if context.metrics.requests else None
        target_row = context.board.target(context.targets[entry.target])
        report = EntryReport(entry, row, target_row, plain_target(entry.target), logger, meter, tracer)
        return Backend(entry, server, session, status, breaker, report, token, meter, tracer)

    def backends(kind: str) -> dict[str, Backend]:
        return {name: backend(entry) for name, entry in settings.entries[kind].items()}

    token_logins = {}
    for name, entry in settings.entries[DOVECOT_SASL].items():
        if entry.sasl_oidc.enabled:
            providers = [(oidc, provider(oidc, entry.timeout)) for oidc in login_providers(entry)]
            token_logins[name] = TokenLogin(entry, TokenValidator(providers), status)
    by_kind: dict[str, Service] = {
        SOCKET_MAP: SocketMapService(
            backends(SOCKET_MAP), cache, server.socketmap_max_reply_size, context.metrics.listeners, logger, tracer
        ),
        POLICY_SERVICE: PolicyService(backends(POLICY_SERVICE), cache, logger, tracer),
        DOVECOT_SASL: SaslService(backends(DOVECOT_SASL), logger, token_logins, tracer),
    }
    return Services(by_kind, transport, cache, status, tracer)


def _make_tracer(server: Server, tls: ssl.SSLContext) -> Tracer:
    from pfxhttpd.io.otlp.tracer import Tracer  # needs packages that are optional

    return Tracer(server.observability, collector_session(server, tls))


def _breaker(target: str, timeout: float, context: WorkerContext, settings: Settings, logger: Logger) -> SharedBreaker:
    """The circuit breaker of a target whose requests take `timeout` seconds at most."""
    breaker = settings.server.circuit_breaker
    rule = BreakerRule(breaker.failures, breaker.cooldown, timeout + PROBE_GRACE, timeout * OUTCOME_WAIT)
    probes = max(1, context.pool.max_workers // 2)
    return SharedBreaker(context.board, context.targets[target], rule, probes, plain_target(target), logger)

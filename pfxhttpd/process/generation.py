"""A configuration made ready to serve: its sockets, pools and TLS settings, complete before the old one changes.

A reload makes a new generation beside the running one and shares the sockets that both have. If anything goes wrong on
the way, only what was made for the new one is undone.
"""

from __future__ import annotations

import importlib
import os
import resource
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pfxhttpd.config.settings import DOVECOT_SASL, Listener, Observability, Pool, Server, Settings
from pfxhttpd.io import SetupError, handoff, listen, otlp, systemd, tls
from pfxhttpd.io.log import Logger
from pfxhttpd.io.scoreboard import TARGETS
from pfxhttpd.process import capacity
from pfxhttpd.process.capacity import GLOBAL
from pfxhttpd.process.parking_config import ParkingConfig, SaslListener
from pfxhttpd.rules.known_secrets import configured_secrets
from pfxhttpd.service.oidc.provider import providers_of
from pfxhttpd.service.sasl import mechanisms

RESERVED_DESCRIPTORS = 64
"""Descriptors that parking needs beside its connections and those of pools and listeners, with some to spare."""
METRICS_BACKLOG = 64
"""Clients of the metrics that may wait for their connection to be accepted."""
SASL_SHARE = 0.75
"""Part of `max_connections` that SASL clients may have while there are listeners of other kinds."""


@dataclass(frozen=True, slots=True)
class PoolRuntime:
    """A pool at work: its index on the scoreboard, both ends of its ready queue, and the listeners that it serves."""

    key: str
    title: str
    index: int
    pool: Pool
    ready: socket.socket
    sender: socket.socket
    listeners: Mapping[str, socket.socket]


@dataclass(frozen=True, slots=True)
class MetricsPort:
    """The socket on which metrics are served, its endpoint, and the TLS settings if there are any."""

    endpoint: str
    sock: socket.socket
    tls: ssl.SSLContext | None


@dataclass(frozen=True, slots=True)
class Generation:
    """`listeners` are the listening sockets by endpoint, `pools` by key; `targets` are rows of the scoreboard. `metrics` is
    where metrics are served, None if nowhere. `certificates` are the keys of certificate files in the configuration with
    the times at which these expire (Unix time)."""

    number: int
    settings: Settings
    logger: Logger
    tls: ssl.SSLContext
    listeners: Mapping[str, socket.socket]
    pools: Mapping[str, PoolRuntime]
    targets: Mapping[str, int]
    max_connections: int
    metrics: MetricsPort | None = None
    certificates: Mapping[str, float] = field(default_factory=dict)

    @property
    def metered(self) -> bool:
        """Whether the processes count for the metrics."""
        watched = self.settings.server.observability
        return watched.prometheus_enabled or watched.sends_metrics

    @property
    def max_sasl_connections(self) -> int:
        """How many of the connections SASL clients may have. They may be silent for ever, so they must not have all of
        them while there are other listeners; other silent connections are closed after a while."""
        only_sasl = len(self._sasl_listeners()) == len(self.listeners)
        return self.max_connections if only_sasl else max(1, int(self.max_connections * SASL_SHARE))

    @property
    def providers(self) -> list[str]:
        """The OpenID providers that are asked, each by the URL of its discovery document."""
        entries = (entry for section in self.settings.entries.values() for entry in section.values())
        return list(dict.fromkeys(oidc.configuration_uri for entry in entries for oidc in providers_of(entry)))

    @property
    def needs_cache(self) -> bool:
        """Whether there is something to be shared by way of the cache process."""
        return self.settings.server.response_cache.enabled or bool(self.providers)

    def parking_config(self, listener_rows: Mapping[str, int]) -> ParkingConfig:
        """What parking has to know. `listener_rows` are the rows of the endpoints in the metrics."""
        server, entries = self.settings.server, self.settings.entries[DOVECOT_SASL]
        default = self.pools.get(GLOBAL) or next(iter(self.pools.values()))
        return ParkingConfig(
            pools={endpoint: pool.index for pool in self.pools.values() for endpoint in pool.listeners},
            default_pool=default.index,
            idle_timeout=server.client_idle_timeout,
            max_connections=self.max_connections,
            max_sasl_connections=self.max_sasl_connections,
            workers=sum(pool.pool.max_workers for pool in self.pools.values()),
            sasl_listeners=tuple(
                SaslListener(
                    listener.endpoint, listener.name, tuple(m.name for m in mechanisms(entries[listener.name]))
                )
                for listener in self._sasl_listeners()
            ),
            logging=server.logging,
            listener_rows=listener_rows,
        )

    def _sasl_listeners(self) -> list[Listener]:
        return [listener for listener in self.settings.server.listen if listener.kind == DOVECOT_SASL]

    def sasl_sockets(self) -> list[socket.socket]:
        """The listening sockets on which parking accepts, in the order of `parking_config`; the workers have the others."""
        return [self.listeners[listener.endpoint] for listener in self._sasl_listeners()]

    def sockets(self) -> list[socket.socket]:
        """Every socket that is open for this generation."""
        queues = [end for pool in self.pools.values() for end in (pool.ready, pool.sender)]
        metrics = [self.metrics.sock] if self.metrics else []
        return [*self.listeners.values(), *metrics, *queues]

    def close(self, keeping: Generation | None = None) -> None:
        """Close the sockets that `keeping` does not share, and remove their files."""
        _close(self.listeners, self.pools, keeping)
        if self.metrics and not (keeping and keeping.metrics and keeping.metrics.sock is self.metrics.sock):
            listen.retire(self.metrics.sock)

    def set_backlogs(self) -> None:
        """Give the listeners, some of which an earlier generation has bound, the backlogs of these settings (listen(2))."""
        for listener in self.settings.server.listen:
            if not listener.systemd_socket_name:
                self.listeners[listener.endpoint].listen(_backlog(listener, self.settings))

    def remove_files(self) -> None:
        """Remove the files of the Unix listeners."""
        for sock in self.listeners.values():
            listen.remove_file(sock)

    def resized(self, workers: int) -> Generation:
        """The same with another number of workers in the global pool."""
        runtime = self.pools[GLOBAL]
        pool = replace(runtime.pool, max_workers=workers)
        return replace(self, pools={**self.pools, GLOBAL: replace(runtime, pool=pool)})


def _close(
    listeners: Mapping[str, socket.socket], pools: Mapping[str, PoolRuntime], keeping: Generation | None
) -> None:
    kept_listeners = keeping.listeners.values() if keeping else ()
    for sock in listeners.values():
        if sock not in kept_listeners:
            listen.retire(sock)
    kept_queues = {pool.ready for pool in keeping.pools.values()} if keeping else set()
    for pool in pools.values():
        if pool.ready not in kept_queues:
            pool.ready.close()
            pool.sender.close()


def prepare(
    settings: Settings, previous: Generation | None, logger: Logger, passed: Mapping[str, list[socket.socket]]
) -> Generation:
    """Bind and load all that `settings` ask for, taking over what `previous` already has.

    `logger` is any whose sinks are open; the generation gets one of its own, at its level, on the same sinks.
    `passed` are systemd's sockets by name. Raises SetupError, with nothing left behind.
    """
    listeners: dict[str, socket.socket] = {}
    pools: dict[str, PoolRuntime] = {}
    metrics: MetricsPort | None = None
    try:
        capacity.check(settings)
        _load_otlp(settings.server, reload=previous is not None)
        context = tls.context(settings.server.tls)
        for listener in settings.server.listen:
            listeners[listener.endpoint] = _listening_socket(listener, settings, previous, passed)
        _add_pools(pools, settings, previous, listeners)
        targets = _target_rows(settings, previous)
        metrics = _metrics_port(settings, previous, listeners)
    except (SetupError, OSError) as error:
        _close(listeners, pools, keeping=previous)
        raise error if isinstance(error, SetupError) else SetupError(str(error)) from error
    number = previous.number + 1 if previous else 1
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    # During a reload parking has the old generation's queues and listeners as well as the new one's.
    reserved = RESERVED_DESCRIPTORS + 2 * (len(pools) + len(listeners))
    max_connections = max(1, min(settings.server.max_connections or limit, limit - reserved))
    own = logger.with_settings(settings.server.logging, configured_secrets(settings))
    certificates = _certificates(settings)
    return Generation(number, settings, own, context, listeners, pools, targets, max_connections, metrics, certificates)


def _load_otlp(server: Server, reload: bool) -> None:
    """Import what is needed to send traces or metrics, if there are to be any. Raises SetupError.

    At a reload the files may be out of reach, in a chroot or for the user that the server has become.
    """
    try:
        otlp.load(server.observability)
    except SetupError as error:
        hint = "; if they are installed, only a restart can load them" if reload else ""
        raise SetupError(f"server.observability.otel_enabled: {error}{hint}", exit_code=os.EX_CONFIG) from error


def _listening_socket(
    listener: Listener,
    settings: Settings,
    previous: Generation | None,
    passed: Mapping[str, list[socket.socket]],
) -> socket.socket:
    if previous and listener.endpoint in previous.listeners:
        return previous.listeners[listener.endpoint]
    if not listener.systemd_socket_name:
        return listen.bind(listener, _backlog(listener, settings), previous.listeners.values() if previous else ())
    if previous:
        raise SetupError(f"{listener.endpoint}: a socket of systemd's cannot be added by a reload; restart")
    sockets = passed.get(listener.systemd_socket_name, [])
    if len(sockets) != 1:
        raise SetupError(f"{listener.endpoint}: systemd passed {len(sockets)} sockets of that name, not one")
    systemd.check_fit(listener, sockets[0])
    if listener.type != "unix":
        listen.set_tcp_options(sockets[0])
    return sockets[0]


def _metrics_port(
    settings: Settings, previous: Generation | None, listeners: Mapping[str, socket.socket]
) -> MetricsPort | None:
    """Where the metrics are served. It is bound last, so nothing has to be undone for it. What the metrics process needs
    is imported here, where an error can still be reported."""
    watched = settings.server.observability
    if watched.prometheus_enabled or watched.sends_metrics:
        import_metrics()
    if not watched.prometheus_enabled:
        return None
    context = tls.server_context(watched.prometheus_tls) if watched.prometheus_tls.enabled else None
    listener = metrics_listener(watched)
    if previous and previous.metrics and previous.metrics.endpoint == listener.endpoint:
        return MetricsPort(listener.endpoint, previous.metrics.sock, context)
    own = [*listeners.values(), *(previous.sockets() if previous else ())]
    return MetricsPort(listener.endpoint, listen.bind(listener, METRICS_BACKLOG, own), context)


def import_metrics() -> None:
    """Import what the metrics process consists of, which takes 40 ms and 1 MB. Raises SetupError."""
    try:
        importlib.import_module("pfxhttpd.process.metrics")
    except ImportError as error:
        reason = f"the package {error.name} is missing or cannot be used: {error}"
        raise SetupError(f"server.observability: {reason}", exit_code=os.EX_CONFIG) from error


def metrics_listener(watched: Observability) -> Listener:
    """The port of the metrics in the form of a listener."""
    return Listener("metrics", "metrics", "tcp", watched.prometheus_address, watched.prometheus_port)


def _certificates(settings: Settings) -> dict[str, float]:
    """When the certificates of the configuration expire, if that is to be shown (Unix time)."""
    server, watched = settings.server, settings.server.observability
    own = watched.prometheus_tls
    files = {
        "server.tls.root_ca": server.tls.root_ca if server.tls.enabled and not server.tls.skip_verify else "",
        "server.tls.cert": server.tls.cert if server.tls.enabled else "",
        "server.observability.prometheus_tls.cert": own.cert if own.enabled and watched.prometheus_enabled else "",
    }
    if not (watched.prometheus_enabled or watched.sends_metrics):
        return {}
    ends = {key: tls.expiry(path) for key, path in files.items() if path}
    return {key: end for key, end in ends.items() if end is not None}


def _backlog(listener: Listener, settings: Settings) -> int:
    """How many clients may wait in the kernel for their connections to be accepted."""
    return (listener.worker_pool or settings.server.worker_pool).max_queue


def _add_pools(
    pools: dict[str, PoolRuntime],
    settings: Settings,
    previous: Generation | None,
    listeners: Mapping[str, socket.socket],
) -> None:
    """Add each pool to `pools`, with the queue and the index that it had in `previous`."""
    taken = {pool.index for pool in previous.pools.values()} if previous else set()
    for key, title, pool in capacity.pools(settings):
        old = previous.pools.get(key) if previous else None
        if old is None:
            index = next(index for index in range(len(taken) + 1) if index not in taken)
            taken.add(index)
            ready, sender = handoff.socket_pair()
        else:
            index, ready, sender = old.index, old.ready, old.sender
        own = {
            listener.endpoint: listeners[listener.endpoint]
            for listener in settings.server.listen
            if capacity.pool_key(listener) == key
        }
        pools[key] = PoolRuntime(key, title, index, pool, ready, sender, own)


def _target_rows(settings: Settings, previous: Generation | None) -> dict[str, int]:
    """The scoreboard's row of each target, OpenID providers among them: the one it had, or the next one behind all that are in use.

    A worker of the previous generation may still report an outcome for a target that was removed, so that target's row
    goes to another one only when no other row is left.
    """
    wanted = capacity.targets(settings)
    before = previous.targets if previous else {}
    kept = {target: row for target, row in before.items() if target in wanted}
    latest = max(before.values(), default=-1)
    free = sorted(
        set(range(TARGETS)) - set(kept.values()), key=lambda row: (row in before.values(), row <= latest, row)
    )
    return kept | dict(zip(sorted(wanted - set(kept)), free, strict=False))

"""What a configuration needs on the scoreboard, which has a fixed number of rows: pools, targets and workers."""

from __future__ import annotations

import os

from pfxhttpd.config.settings import Entry, Listener, Pool, Settings
from pfxhttpd.io import SetupError
from pfxhttpd.io.scoreboard import POOLS, TARGETS, WORKERS
from pfxhttpd.service.oidc.provider import breaker_target, providers_of

GLOBAL = "global"
"""Key and title of the pool that serves the listeners without a pool of their own."""


def pool_key(listener: Listener) -> str:
    """The key of the pool that serves a listener."""
    return listener.endpoint if listener.worker_pool else GLOBAL


def pools(settings: Settings) -> list[tuple[str, str, Pool]]:
    """(key, title, pool) of each pool that has a listener, the global one first."""
    listeners = settings.server.listen
    own = [(listener.endpoint, listener.title, listener.worker_pool) for listener in listeners if listener.worker_pool]
    return own if len(own) == len(listeners) else [(GLOBAL, GLOBAL, settings.server.worker_pool), *own]


def workers(settings: Settings) -> int:
    """The number of workers in all pools."""
    return sum(pool.max_workers for _, _, pool in pools(settings))


def targets(settings: Settings) -> set[str]:
    """Everything that has a circuit breaker: the targets of the entries, and the OpenID providers."""
    return {
        target for section in settings.entries.values() for entry in section.values() for target in targets_of(entry)
    }


def targets_of(entry: Entry) -> set[str]:
    """The target of an entry, and the OpenID providers that it uses."""
    return {entry.target, *(breaker_target(oidc.configuration_uri) for oidc in providers_of(entry))}


def check(settings: Settings) -> None:
    """Raises SetupError if there are more pools, targets or workers than the server can have."""
    for what, number, most in (
        ("pools", len(pools(settings)), POOLS),
        ("targets", len(targets(settings)), TARGETS),
        ("workers", workers(settings), WORKERS),
    ):
        if number > most:
            raise SetupError(f"the configuration has {number} {what}; {most} is the most", exit_code=os.EX_CONFIG)

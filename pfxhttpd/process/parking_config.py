"""What the master tells parking about a configuration. It is sent as one message, with descriptors beside it."""

from __future__ import annotations

import marshal
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field

from pfxhttpd.config.settings import Logging

MAX_DESCRIPTORS = 253
"""Descriptors that one message can carry (unix(7), SCM_MAX_FD)."""


@dataclass(frozen=True, slots=True)
class SaslListener:
    """A SASL listener: its endpoint, its entry's name, and the names of the mechanisms that its clients are offered."""

    endpoint: str
    name: str
    mechanisms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ParkingConfig:
    """What parking knows about a configuration.

    `pools` maps a listener's endpoint to the index of the pool that serves it; `default_pool` serves connections whose
    listener was removed. A silent connection is closed after `idle_timeout` seconds. `max_connections` bounds the
    connections of the whole server, and `max_sasl_connections` those of its SASL clients. `workers` is the number of
    workers in all pools. `listener_rows` has the row of each endpoint in the metrics; it is
    empty if they are off.
    """

    pools: Mapping[str, int]
    default_pool: int
    idle_timeout: float
    max_connections: int
    max_sasl_connections: int
    workers: int
    sasl_listeners: tuple[SaslListener, ...]
    logging: Logging
    listener_rows: Mapping[str, int] = field(default_factory=dict)

    def pack(self, added: list[int]) -> bytes:
        """The message. The queue senders of the pools `added` accompany it as descriptors, then the SASL listeners."""
        listeners = [astuple(listener) for listener in self.sasl_listeners]
        limits = (self.max_connections, self.max_sasl_connections, self.workers)
        fields = (dict(self.pools), self.default_pool, self.idle_timeout, limits, listeners)
        return marshal.dumps((*fields, astuple(self.logging), dict(self.listener_rows), added))

    @classmethod
    def unpack(cls, message: bytes) -> tuple[ParkingConfig, list[int]]:
        """The inverse of `pack`: the configuration, and the indexes of the pools that were added."""
        pools, default_pool, idle_timeout, limits, listeners, logging, rows, added = marshal.loads(message)
        sasl_listeners = tuple(SaslListener(*listener) for listener in listeners)
        max_connections, max_sasl, workers = limits
        fields = (pools, default_pool, idle_timeout, max_connections, max_sasl, workers, sasl_listeners)
        config = cls(*fields, Logging(*logging), rows)
        return config, added

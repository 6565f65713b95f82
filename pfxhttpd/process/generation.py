"""A configuration made ready to serve: its sockets, pools and trust, complete before anything of the old one changes.

A reload makes a new generation beside the running one, sharing the sockets that both have; whatever goes wrong on the
way undoes only what was made for it.
"""

from __future__ import annotations

import resource
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pfxhttpd.config.settings import DOVECOT_SASL, Listener, Pool, Settings
from pfxhttpd.io import SetupError, handoff, listen, systemd, tls
from pfxhttpd.io.log import Logger
from pfxhttpd.io.scoreboard import POOLS, TARGETS
from pfxhttpd.process.parking_config import ParkingConfig, SaslListener
from pfxhttpd.rules.redact import configured_secrets
from pfxhttpd.service.sasl import mechanisms

GLOBAL = "global"
RESERVED_DESCRIPTORS = 64
"""What parking needs beside its clients, with room to spare."""


@dataclass(frozen=True, slots=True)
class PoolRuntime:
    """A pool at work: its index on the scoreboard, its ready queue, and the listeners that it serves."""

    key: str
    title: str
    index: int
    pool: Pool
    ready: socket.socket
    sender: socket.socket
    doors: Mapping[str, socket.socket]


@dataclass(frozen=True, slots=True)
class Generation:
    number: int
    settings: Settings
    logger: Logger
    context: ssl.SSLContext
    doors: Mapping[str, socket.socket]
    places: Mapping[str, PoolRuntime]
    targets: Mapping[str, int]
    max_connections: int

    def plan(self) -> ParkingConfig:
        """What parking has to know."""
        pools = {where: place.index for place in self.places.values() for where in place.doors}
        default = self.places.get(GLOBAL) or next(iter(self.places.values()))
        entries = self.settings.entries[DOVECOT_SASL]
        doors = tuple(
            SaslListener(listener.endpoint, listener.name, tuple(m.name for m in mechanisms(entries[listener.name])))
            for listener in self._greeted()
        )
        server = self.settings.server
        return ParkingConfig(
            pools, default.index, server.client_idle_timeout, self.max_connections, doors, server.logging
        )

    def _greeted(self) -> list[Listener]:
        return [listener for listener in self.settings.server.listen if listener.kind == DOVECOT_SASL]

    def sasl_sockets(self) -> list[socket.socket]:
        """The doors that parking opens, in the plan's order; the workers open all others."""
        return [self.doors[listener.endpoint] for listener in self._greeted()]

    def sockets(self) -> list[socket.socket]:
        """Everything that is open for it."""
        queues = [end for place in self.places.values() for end in (place.ready, place.sender)]
        return [*self.doors.values(), *queues]

    def close(self, keeping: Generation | None = None) -> None:
        """Close the sockets of this generation that `keeping` does not share, and remove their files."""
        doors = keeping.doors.values() if keeping else ()
        for door in self.doors.values():
            if door not in doors:
                listen.retire(door)
        kept = {place.ready for place in keeping.places.values()} if keeping else ()
        for place in self.places.values():
            if place.ready not in kept:
                place.ready.close()
                place.sender.close()

    def resized(self, workers: int) -> Generation:
        """The same with another number of workers in the global pool."""
        place = self.places[GLOBAL]
        pool = replace(place.pool, max_workers=workers)
        return replace(self, places={**self.places, GLOBAL: replace(place, pool=pool)})


def prepare(
    settings: Settings, previous: Generation | None, logger: Logger, activated: Mapping[str, list[socket.socket]]
) -> Generation:
    """Bind, load and lay out all that `settings` ask for, taking over what `previous` already has.

    `logger` is any whose sinks are open; the generation has one of its own, at its level, on the same sinks.
    `activated` are systemd's sockets by name. Raises `Refused`, with nothing left behind.
    """
    doors: dict[str, socket.socket] = {}
    places: dict[str, PoolRuntime] = {}
    try:
        context = tls.context(settings.server.tls)
        for listener in settings.server.listen:
            doors[listener.endpoint] = _door(listener, settings, previous, activated)
        taken = {place.index for place in previous.places.values()} if previous else set()
        for key, title, pool in _pools(settings):
            old = previous.places.get(key) if previous else None
            if old is None:
                index = next(index for index in range(len(taken) + 1) if index not in taken)
                taken.add(index)
                ready, sender = handoff.socket_pair()
            else:
                index, ready, sender = old.index, old.ready, old.sender
            mine = {
                listener.endpoint: doors[listener.endpoint]
                for listener in settings.server.listen
                if _pool_of(listener) == key
            }
            places[key] = PoolRuntime(key, title, index, pool, ready, sender, mine)
        targets = _targets(settings, previous)
    except (SetupError, OSError) as error:
        Generation(0, settings, logger, None, doors, places, {}, 0).close(keeping=previous)
        raise SetupError(str(error), getattr(error, "permission", False)) from error
    number = previous.number + 1 if previous else 1
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = settings.server.max_connections or limit
    most = max(1, min(most, limit - RESERVED_DESCRIPTORS))
    own = logger.with_settings(settings.server.logging, configured_secrets(settings))
    return Generation(number, settings, own, context, doors, places, targets, most)


def _door(
    listener: Listener,
    settings: Settings,
    previous: Generation | None,
    activated: Mapping[str, list[socket.socket]],
) -> socket.socket:
    if previous and listener.endpoint in previous.doors:
        return previous.doors[listener.endpoint]
    if listener.systemd_socket_name:
        if previous:
            raise SetupError(f"{listener.endpoint}: a socket of systemd's cannot be added by a reload; restart")
        passed = activated.get(listener.systemd_socket_name, [])
        if len(passed) != 1:
            raise SetupError(f"{listener.endpoint}: systemd passed {len(passed)} sockets of that name, not one")
        systemd.check_fit(listener, passed[0])
        if listener.type != "unix":
            listen.set_tcp_options(passed[0])
        return passed[0]
    return listen.bind(listener, (listener.worker_pool or settings.server.worker_pool).max_queue)


def _targets(settings: Settings, previous: Generation | None) -> dict[str, int]:
    """The scoreboard's row of each target: the one it had, or the next one behind all that are in use.

    A worker of the previous generation may still have something to say of a target that is gone, so that target's row
    goes to another only when there is no other left.
    """
    wanted = {entry.target for entries in settings.entries.values() for entry in entries.values()}
    if len(wanted) > TARGETS:
        raise SetupError(f"the configuration has {len(wanted)} targets; {TARGETS} is the most")
    before = previous.targets if previous else {}
    kept = {target: row for target, row in before.items() if target in wanted}
    latest = max(before.values(), default=-1)
    free = sorted(
        set(range(TARGETS)) - set(kept.values()), key=lambda row: (row in before.values(), row <= latest, row)
    )
    return kept | dict(zip(sorted(wanted - set(kept)), free))


def _pool_of(listener: Listener) -> str:
    return listener.endpoint if listener.worker_pool else GLOBAL


def _pools(settings: Settings) -> list[tuple[str, str, Pool]]:
    """(key, title, pool) of each pool that has a listener, the global one first."""
    listeners = settings.server.listen
    pools = [(listener.endpoint, listener.name, listener.worker_pool) for listener in listeners if listener.worker_pool]
    if len(pools) < len(listeners):
        pools.insert(0, (GLOBAL, GLOBAL, settings.server.worker_pool))
    if len(pools) > POOLS:
        raise SetupError(f"the configuration has {len(pools)} pools; {POOLS} is the most")
    return pools

"""What the master tells parking of a configuration, and how it travels: as one message, with descriptors beside it."""

from __future__ import annotations

import marshal
from collections.abc import Mapping
from dataclasses import astuple, dataclass

from pfxhttpd.config.settings import Logging

MAX_DESCRIPTORS = 253
"""Descriptors that one message can carry (unix(7), SCM_MAX_FD)."""


@dataclass(frozen=True, slots=True)
class SaslListener:
    """A SASL listener: its address, its entry, and the mechanisms that its clients are offered, by name."""

    endpoint: str
    name: str
    mechanisms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ParkingConfig:
    """What parking knows of a configuration: which pool serves a listener, when the silent are let go, how many
    connections there may be, the doors that it opens itself, and what it is to log."""

    pools: Mapping[str, int]
    default: int
    idle: float
    most: int
    doors: tuple[SaslListener, ...]
    logging: Logging

    def pack(self, added: list[int]) -> bytes:
        """The plan as an order; the senders of the pools `added` go along as descriptors, then the doors."""
        doors = [(door.endpoint, door.name, door.mechanisms) for door in self.doors]
        return marshal.dumps(
            (dict(self.pools), self.default, self.idle, self.most, doors, astuple(self.logging), added)
        )

    @classmethod
    def unpack(cls, message: bytes) -> tuple[ParkingConfig, list[int]]:
        pools, default, idle, most, doors, logging, added = marshal.loads(message)
        return cls(pools, default, idle, most, tuple(SaslListener(*door) for door in doors), Logging(*logging)), added

"""One authentication exchange of Dovecot's auth protocol: its state between two lines, and the attempt it leads to."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class State(enum.IntEnum):
    """Whose move it is in an exchange. FREE: there is none of that id."""

    FREE = 0
    TALKING = 1
    """The client's: its next message, as many as `heard` holds being there."""
    DECIDING = 2
    """The backend's: the attempt is out."""
    REFUSED = 3
    """The client's: it has the error challenge and must acknowledge it to get its FAIL."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One id's dialogue. What a state does not need is empty."""

    id: int
    state: State
    mechanism: str
    parameters: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    heard: tuple[bytes, ...] = field(default=(), repr=False)
    serial: int = 0
    reason: str = ""

    def freeze(self) -> tuple:
        return self.id, int(self.state), self.mechanism, self.parameters, self.heard, self.serial, self.reason

    @classmethod
    def thaw(cls, frozen: tuple) -> Exchange:
        key, state, *rest = frozen
        return cls(key, State(state), *rest)

    def size(self) -> int:
        """About what it costs to keep, in bytes."""
        return (
            128
            + sum(len(key) + len(value.encode()) for key, value in self.parameters)
            + sum(map(len, self.heard))
            + len(self.reason.encode())
        )


@dataclass(frozen=True, slots=True)
class Attempt:
    """Who wants in, by which proof, from where.

    `serial` is the connection's count of attempts: an answer belongs to one attempt, not to an id, because a client may
    use an id again while the first answer is still out. `secret` is a token when `token` is set, else a password.
    `user` is the name the client claims ("" only for OAUTHBEARER). `parameters` are Dovecot's, see `dovecot_auth.KEPT`.
    """

    id: int
    serial: int
    mechanism: str
    user: str
    secret: str = field(repr=False)
    token: bool
    authzid: str
    parameters: Mapping[str, str]

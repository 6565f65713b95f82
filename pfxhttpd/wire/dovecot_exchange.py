"""One authentication exchange of Dovecot's auth protocol: its state, and the attempt in which it results."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

FrozenExchange = tuple[int, int, str, tuple[tuple[str, str], ...], tuple[bytes, ...], int, str, str]
"""What `Exchange.freeze` returns: the fields of an Exchange in their order, all of them types that marshal knows."""

_OVERHEAD = 128
"""Approximate size of an exchange without texts of the client's, in bytes."""


class State(enum.IntEnum):
    """What an exchange waits for."""

    FREE = 0
    """No exchange with this id is open."""
    AWAITING_CLIENT = 1
    """The client's next message. `Exchange.messages` holds those received so far."""
    AWAITING_BACKEND = 2
    """The result of the attempt that was handed out."""
    AWAITING_ACKNOWLEDGEMENT = 3
    """The client's response to the error challenge (RFC 7628 section 3.2.3). FAIL follows it."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """The exchange with one request id. Fields that its state does not need are empty.

    `parameters` are those of the AUTH line, `messages` the decoded messages received so far, `serial` the number of the
    attempt that was handed out, `user` and `reason` what the FAIL that is due will carry.
    """

    id: int
    state: State
    mechanism: str
    parameters: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    messages: tuple[bytes, ...] = field(default=(), repr=False)
    serial: int = 0
    user: str = ""
    reason: str = ""

    def freeze(self) -> FrozenExchange:
        """The exchange as nested tuples of str, bytes and int."""
        state = int(self.state)
        return self.id, state, self.mechanism, self.parameters, self.messages, self.serial, self.user, self.reason

    @classmethod
    def thaw(cls, frozen: FrozenExchange) -> Exchange:
        """The exchange that `freeze` returned `frozen` for."""
        return cls(frozen[0], State(frozen[1]), *frozen[2:])

    def size(self) -> int:
        """The approximate size of the frozen exchange, in bytes."""
        return (
            _OVERHEAD
            + sum(len(name) + len(value.encode()) for name, value in self.parameters)
            + sum(map(len, self.messages))
            + len(self.user.encode())
            + len(self.reason.encode())
        )


@dataclass(frozen=True, slots=True)
class Attempt:
    """The credentials of a finished exchange, to be verified by the backend or the token's issuer.

    `serial` numbers the attempts of a connection: a result belongs to one attempt and not to an id, because a client
    may use an id again while the first result is still due. `secret` is a token if `token` is set, otherwise a
    password. `user` is the name that the client gave; it is empty only with OAUTHBEARER. `parameters` are those of the
    AUTH line, by Dovecot's names (`dovecot_lines.AUTH_PARAMETERS`).
    """

    id: int
    serial: int
    mechanism: str
    user: str
    secret: str = field(repr=False)
    token: bool
    parameters: Mapping[str, str]

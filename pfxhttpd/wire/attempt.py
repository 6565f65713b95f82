"""One login that somebody outside has to decide: what the protocol hands out and the answer is given for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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

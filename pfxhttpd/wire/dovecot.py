"""The server's side of one connection of Dovecot's auth-client protocol 1.x: a line in, what is to be done out.

The connection does no I/O. `receive_line` takes one line and returns a Turn; an Attempt in it is answered, whenever, with
`succeed` or `fail`, which return the bytes to send. Between any two lines `freeze` gives the whole state as primitives
and `thaw` takes it up again, so that any process can serve any line. Nothing secret is in that state but the user name
of a LOGIN dialogue between its two halves; passwords and tokens leave with their Attempt and are not kept.

What each command does to an exchange is the table `_MOVES`. Answers: `OK`, `FAIL` and `CONT` always bear the id of the
line or attempt that they answer, never 0, and only an Attempt answered by `succeed` gets `OK`.

Decisions, where Dovecot's own behaviour differs between versions or is harsher than our contract:
- AUTH and CONT before both VERSION and CPID were heard fail their id; the connection stays.
- AUTH with an id in use, and CONT for one whose attempt is out, cancel the open exchange and fail the id, once.
- CONT for an unknown id fails it. CANCEL is never answered.
- Unknown commands, and lines whose id is missing or no plain decimal of 1 to 2^32-1, are ignored (a Turn with a note).
- At most OPEN_LIMIT exchanges and STATE_LIMIT bytes are kept. Past that the exchange whose client has been silent for
  longest is forgotten, without a word: it is that client's turn, and its CONT would get FAIL. Not the new one, because
  Postfix abandons an id without CANCEL each time its own client types `*`, and lives on for hundreds of clients.

Source: Dovecot's auth-protocol document, version 1.2; xsasl_dovecot_server.c of Postfix; dovecot.c of Exim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from pfxhttpd.wire import dovecot_lines
from pfxhttpd.wire.dovecot_exchange import Attempt, Exchange, State
from pfxhttpd.wire.dovecot_lines import MAJOR, cont, fail, ok, request_id
from pfxhttpd.wire.mechanisms import BadMessage, Mechanism, challenge, decode
from pfxhttpd.wire.text import account_error, one_line

OPEN_LIMIT = 64
"""Exchanges open at once on one connection."""

STATE_LIMIT = 32768
"""What the open exchanges may keep in all, in bytes (one at most about 15 000)."""


@dataclass(frozen=True, slots=True)
class LineResult:
    """What a line calls for: bytes to `send`, an `attempt` to have decided, or the reason to `close`; all empty: nothing.

    `note` is a remark for the log about a line that was ignored or failed; it holds nothing of the line itself.
    """

    send: bytes = b""
    attempt: Attempt | None = None
    close: str = ""
    note: str = ""


class SaslSession:
    """The state of one connection. `mechanisms` are those offered now; `scope` and `discovery` go into error challenges."""

    __slots__ = ("_awaited", "_discovery", "_mechanisms", "_open", "_scope", "_serial")

    def __init__(self, mechanisms: Iterable[Mechanism], scope: str = "", discovery: str = "") -> None:
        self._mechanisms = {mechanism.name: mechanism for mechanism in mechanisms}
        self._scope = scope
        self._discovery = discovery
        self._awaited: tuple[str, ...] = ("CPID", "VERSION")
        self._serial = 0
        self._open: dict[int, Exchange] = {}
        """By id, the one that was touched last at the end."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} open={len(self._open)} awaited={self._awaited}>"

    def freeze(self) -> tuple:
        """The state as nested tuples of str, bytes and int, fit for marshal. At most about STATE_LIMIT bytes.

        It may hold the user name of a LOGIN dialogue, so it goes from process to process and never to a log or a file.
        """
        return self._awaited, self._serial, tuple(exchange.freeze() for exchange in self._open.values())

    @classmethod
    def thaw(cls, frozen: tuple, mechanisms: Iterable[Mechanism], scope: str = "", discovery: str = "") -> SaslSession:
        """The connection that `freeze` described. The other arguments are the configuration's, which may have changed."""
        connection = cls(mechanisms, scope, discovery)
        connection._awaited, connection._serial, exchanges = frozen
        connection._open = {exchange.id: exchange for exchange in map(Exchange.thaw, exchanges)}
        return connection

    def receive_line(self, line: bytes) -> LineResult:
        """What one line of the client, without its line feed, calls for. After a Turn with `close` nothing more may be said."""
        verb, *fields = line.split(b"\t")
        if verb == b"VERSION":
            return self._version(fields)
        if verb == b"CPID":
            self._awaited = tuple(name for name in self._awaited if name != "CPID")
            return LineResult()
        if verb not in _COMMANDS:
            return LineResult(note="unknown command ignored")
        key = request_id(fields[0]) if fields else None
        if key is None:
            return LineResult(note="line without a valid request id ignored")
        exchange = self._open.get(key)
        return _MOVES[verb, exchange.state if exchange else State.FREE](self, key, exchange, fields[1:])

    def succeed(self, attempt: Attempt, account: str) -> bytes:
        """The answer to an attempt that the backend said yes to, and to which `account`.

        An unfit account (see `account.flaw`) makes it a failure. b"" when the client has given the attempt up.
        """
        unfit = account_error(account)
        if unfit:
            return self.fail(attempt, unfit)
        if self._deciding(attempt) is None:
            return b""
        del self._open[attempt.id]
        return ok(attempt.id, account)

    def fail(
        self, attempt: Attempt, reason: str, *, temp: bool = False, code: str = "", status: str = "invalid_token"
    ) -> bytes:
        """The answer to an attempt that is refused or, with `temp`, could not be decided.

        A refused token gets the error challenge with `status` (RFC 7628, 3.2.2), and FAIL after the client's
        acknowledgement. `code` is one of Dovecot's failure codes. b"" when the client has given the attempt up.
        """
        exchange = self._deciding(attempt)
        if exchange is None:
            return b""
        if temp:
            del self._open[attempt.id]
            return fail(attempt.id, reason, temp=True, code=code)
        return self._refuse(exchange, reason, code, status)

    def _deciding(self, attempt: Attempt) -> Exchange | None:
        """The exchange that waits for the answer to this attempt and to no other."""
        exchange = self._open.get(attempt.id)
        return exchange if exchange and exchange.state is State.DECIDING and exchange.serial == attempt.serial else None

    def _version(self, fields: Sequence[bytes]) -> LineResult:
        if not fields or fields[0] != b"%d" % MAJOR:
            return LineResult(close="incompatible protocol version")
        self._awaited = tuple(name for name in self._awaited if name != "VERSION")
        return LineResult()

    # The moves: what a command does to the exchange of its id.

    def _begin(self, key: int, _exchange: Exchange | None, fields: Sequence[bytes]) -> LineResult:
        if self._awaited:
            return _failed(key, "handshake not finished")
        try:
            request = dovecot_lines.read_auth(fields)
        except BadMessage as bad:
            return _failed(key, bad.reason)
        mechanism = self._mechanisms.get(request.mechanism)
        if mechanism is None:
            return _failed(key, "unsupported mechanism", code="auth_mech_invalid")
        exchange = Exchange(key, State.TALKING, mechanism.name, tuple(request.parameters.items()))
        if request.response is None:
            return self._ask(exchange, mechanism)
        return self._read(exchange, mechanism, request.response)

    def _continue(self, key: int, exchange: Exchange, fields: Sequence[bytes]) -> LineResult:
        mechanism = self._mechanisms.get(exchange.mechanism)
        if mechanism is None:
            return self._drop(key, "unsupported mechanism")
        if len(fields) > 1:
            return self._drop(key, "malformed CONT")
        try:
            message = decode(fields[0]) if fields else b""
        except BadMessage as bad:
            return self._drop(key, bad.reason)
        return self._read(exchange, mechanism, message)

    def _acknowledge(self, key: int, exchange: Exchange, _fields: Sequence[bytes]) -> LineResult:
        return self._drop(key, exchange.reason)

    def _clash(self, key: int, _exchange: Exchange, _fields: Sequence[bytes]) -> LineResult:
        return self._drop(key, "request id in use")

    def _stray(self, key: int, _exchange: None, _fields: Sequence[bytes]) -> LineResult:
        return _failed(key, "handshake not finished" if self._awaited else "unknown or expired request")

    def _forget(self, key: int, _exchange: Exchange | None, _fields: Sequence[bytes]) -> LineResult:
        self._open.pop(key, None)
        return LineResult()

    # What the moves are made of.

    def _ask(self, exchange: Exchange, mechanism: Mechanism) -> LineResult:
        """Prompts for the message that comes next."""
        if not self._keep(exchange):
            return _crowded(exchange.id)
        return LineResult(cont(exchange.id, mechanism.steps[len(exchange.heard)].prompt))

    def _read(self, exchange: Exchange, mechanism: Mechanism, message: bytes) -> LineResult:
        """Takes the client's message: prompts for the next, hands out the attempt, or refuses."""
        heard = (*exchange.heard, message)
        try:
            mechanism.steps[len(exchange.heard)].check(message)
            if len(heard) < len(mechanism.steps):
                return self._ask(replace(exchange, heard=heard), mechanism)
            credentials = mechanism.read(*heard)
        except BadMessage as bad:
            return LineResult(self._refuse(exchange, bad.reason, "", "invalid_request"), note=bad.reason)
        self._serial += 1
        if not self._keep(Exchange(exchange.id, State.DECIDING, mechanism.name, serial=self._serial)):
            return _crowded(exchange.id)
        return LineResult(
            attempt=Attempt(
                exchange.id,
                self._serial,
                mechanism.name,
                credentials.user,
                credentials.secret,
                mechanism.token,
                credentials.authzid,
                dict(exchange.parameters),
            )
        )

    def _refuse(self, exchange: Exchange, reason: str, code: str, status: str) -> bytes:
        """Ends a dialogue that cannot succeed: at once, or for a token by way of the error challenge."""
        mechanism = self._mechanisms.get(exchange.mechanism)
        refused = Exchange(exchange.id, State.REFUSED, exchange.mechanism, reason=one_line(reason))
        if mechanism is not None and mechanism.token and self._keep(refused):
            return cont(exchange.id, challenge(status, self._scope, self._discovery))
        self._open.pop(exchange.id, None)
        return fail(exchange.id, reason, code=code)

    def _drop(self, key: int, reason: str) -> LineResult:
        del self._open[key]
        return _failed(key, reason)

    def _keep(self, exchange: Exchange) -> bool:
        """Keeps the exchange as the one touched last, at the cost of those touched longest ago; False: no room for it."""
        self._open.pop(exchange.id, None)
        size = exchange.size() + sum(other.size() for other in self._open.values())
        while len(self._open) >= OPEN_LIMIT or size > STATE_LIMIT:
            oldest = next((other for other in self._open.values() if other.state is not State.DECIDING), None)
            if oldest is None:
                return False
            del self._open[oldest.id]
            size -= oldest.size()
        self._open[exchange.id] = exchange
        return True


_COMMANDS = frozenset({b"AUTH", b"CONT", b"CANCEL"})

_MOVES: dict[tuple[bytes, State], Callable[..., LineResult]] = {
    (b"AUTH", State.FREE): SaslSession._begin,
    (b"AUTH", State.TALKING): SaslSession._clash,
    (b"AUTH", State.DECIDING): SaslSession._clash,
    (b"AUTH", State.REFUSED): SaslSession._clash,
    (b"CONT", State.FREE): SaslSession._stray,
    (b"CONT", State.TALKING): SaslSession._continue,
    (b"CONT", State.DECIDING): SaslSession._clash,
    (b"CONT", State.REFUSED): SaslSession._acknowledge,
    (b"CANCEL", State.FREE): SaslSession._forget,
    (b"CANCEL", State.TALKING): SaslSession._forget,
    (b"CANCEL", State.DECIDING): SaslSession._forget,
    (b"CANCEL", State.REFUSED): SaslSession._forget,
}


def _failed(key: int, reason: str, *, code: str = "") -> LineResult:
    return LineResult(fail(key, reason, code=code), note=reason)


def _crowded(key: int) -> LineResult:
    return LineResult(fail(key, "too many open requests", temp=True), note="too many open requests")

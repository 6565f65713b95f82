"""The server side of one connection of Dovecot's auth-client protocol 1.x, without I/O.

`SaslSession.receive_line` takes one line of the client and returns a LineResult. If that holds an Attempt, the caller
has the credentials verified and passes the outcome to `succeed` or `fail`, at any later time; both return the bytes to
send. Between any two lines `freeze` returns the whole state as primitive values and `thaw` restores it, so that any
process can handle any line. The only confidential parts of that state are user names: that of a LOGIN exchange between
its two messages, and that of a refused token until the client's acknowledgement. Passwords and tokens leave with their
Attempt and are not kept.

The table `_TRANSITIONS` lists what each command does to an exchange in each state. `OK`, `FAIL` and `CONT` always carry
the id of the line or attempt that they answer, never 0, and `OK` is sent only by `succeed`.

Where Dovecot's own behaviour differs between versions or is stricter than needed, this module does the following:
- AUTH and CONT before both VERSION and CPID have been received fail their id. The connection stays open.
- AUTH with an id that is in use, and CONT for an id that awaits the backend, cancel the open exchange and fail the id
  once.
- CONT with an unknown id fails that id. CANCEL is never answered.
- Unknown commands, and lines whose id is missing or not a plain decimal number from 1 to 2^32-1, are ignored.
- At most OPEN_LIMIT exchanges and STATE_LIMIT bytes are kept. Beyond that, the exchange that has waited longest for its
  client is discarded and nothing is sent; a later CONT for it is answered with FAIL. The new exchange is not the one to
  be refused, because Postfix abandons an id without CANCEL each time its own client sends `*`, and keeps the connection
  for hundreds of clients.

Sources: Dovecot's auth-protocol document, version 1.2; xsasl_dovecot_server.c of Postfix; dovecot.c of Exim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from pfxhttpd.wire import dovecot_lines
from pfxhttpd.wire.dovecot_exchange import Attempt, Exchange, FrozenExchange, State
from pfxhttpd.wire.dovecot_lines import MAJOR, cont, decode_base64, fail, ok, parse_request_id
from pfxhttpd.wire.mechanisms import BadMessage, Mechanism
from pfxhttpd.wire.sanitize import account_error, one_line

OPEN_LIMIT = 64
"""Number of exchanges that may be open at once on one connection."""

STATE_LIMIT = 32768
"""Total size of the open exchanges of a connection, in bytes. A single one takes at most about 15 000."""

FrozenSession = tuple[tuple[str, ...], int, tuple[FrozenExchange, ...]]
"""What `SaslSession.freeze` returns: the commands that complete the handshake, the last serial, the open exchanges."""


@dataclass(frozen=True, slots=True)
class LineResult:
    """What to do after a line: send `send`, have `attempt` verified, or close the connection for the reason `close`.

    All of them are empty if there is nothing to do. `note` is a remark for the log about a line that was ignored or
    failed. It quotes nothing of the line.
    """

    send: bytes = b""
    attempt: Attempt | None = None
    close: str = ""
    note: str = ""


class SaslSession:
    """The protocol state of one connection.

    `mechanisms` are those that the server offers now. `scope` and `discovery` (a URL) go into the error challenges of
    the token mechanisms.
    """

    __slots__ = ("_awaited", "_discovery", "_mechanisms", "_open", "_scope", "_serial")

    def __init__(self, mechanisms: Iterable[Mechanism], scope: str = "", discovery: str = "") -> None:
        self._mechanisms = {mechanism.name: mechanism for mechanism in mechanisms}
        self._scope = scope
        self._discovery = discovery
        self._awaited: tuple[str, ...] = ("CPID", "VERSION")
        """The commands of the handshake that have not been received yet."""
        self._serial = 0
        self._open: dict[int, Exchange] = {}
        """The open exchanges by id, the most recently used one last."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} open={len(self._open)} awaited={self._awaited}>"

    def freeze(self) -> FrozenSession:
        """The state as nested tuples of str, bytes and int, which marshal can store in about STATE_LIMIT bytes.

        It may contain user names, so it must never be written to a log or a file.
        """
        return self._awaited, self._serial, tuple(exchange.freeze() for exchange in self._open.values())

    @classmethod
    def thaw(
        cls, frozen: FrozenSession, mechanisms: Iterable[Mechanism], scope: str = "", discovery: str = ""
    ) -> SaslSession:
        """The session that `freeze` returned `frozen` for, with the settings of the current configuration."""
        session = cls(mechanisms, scope, discovery)
        session._awaited, session._serial, exchanges = frozen
        session._open = {exchange.id: exchange for exchange in map(Exchange.thaw, exchanges)}
        return session

    def receive_line(self, line: bytes) -> LineResult:
        """Handles one line of the client, without its line feed. A result with `close` ends the session."""
        command, *fields = line.split(b"\t")
        if command == b"VERSION":
            return self._receive_version(fields)
        if command == b"CPID":
            self._awaited = tuple(name for name in self._awaited if name != "CPID")
            return LineResult()
        if command not in _COMMANDS:
            return LineResult(note="unknown command ignored")
        key = parse_request_id(fields[0]) if fields else None
        if key is None:
            return LineResult(note="line without a valid request id ignored")
        exchange = self._open.get(key)
        return _TRANSITIONS[command, exchange.state if exchange else State.FREE](self, key, exchange, fields[1:])

    def succeed(self, attempt: Attempt, account: str) -> bytes:
        """Ends the exchange of an attempt whose credentials are valid for `account`, and returns the bytes to send.

        An account with an error (`text.account_error`) fails the exchange. Returns b"" if the client has cancelled it.
        """
        error = account_error(account)
        if error:
            return self.fail(attempt, error)
        if self._exchange_of(attempt) is None:
            return b""
        del self._open[attempt.id]
        return ok(attempt.id, account)

    def fail(self, attempt: Attempt, reason: str, *, temp: bool = False, status: str = "invalid_token") -> bytes:
        """Ends the exchange of an attempt that was refused or, with `temp`, undecided. Returns the bytes to send.

        A refused token is answered with the error challenge, which carries `status` (RFC 7628 section 3.2.2), and with
        FAIL after the client's acknowledgement. Returns b"" if the client has cancelled the exchange.
        """
        exchange = self._exchange_of(attempt)
        if exchange is None:
            return b""
        if temp:
            del self._open[attempt.id]
            return fail(attempt.id, reason, user=attempt.user, temp=True)
        return self._reject(exchange, reason, status, attempt.user)

    def _exchange_of(self, attempt: Attempt) -> Exchange | None:
        """The open exchange that awaits the outcome of this very attempt."""
        exchange = self._open.get(attempt.id)
        if exchange and exchange.state is State.AWAITING_BACKEND and exchange.serial == attempt.serial:
            return exchange
        return None

    def _receive_version(self, fields: Sequence[bytes]) -> LineResult:
        if not fields or fields[0] != b"%d" % MAJOR:
            return LineResult(close="incompatible protocol version")
        self._awaited = tuple(name for name in self._awaited if name != "VERSION")
        return LineResult()

    # The transitions: each handles one command for an exchange in one state.

    def _start(self, key: int, _exchange: None, fields: Sequence[bytes]) -> LineResult:
        """AUTH with an id that is free."""
        if self._awaited:
            return _failure(key, "handshake not finished")
        try:
            request = dovecot_lines.parse_auth(fields)
        except BadMessage as error:
            return _failure(key, error.reason)
        mechanism = self._mechanisms.get(request.mechanism)
        if mechanism is None:
            return _failure(key, "unsupported mechanism", code="auth_mech_invalid")
        exchange = Exchange(key, State.AWAITING_CLIENT, mechanism.name, tuple(request.parameters.items()))
        if request.response is None:
            return self._prompt(exchange, mechanism)
        return self._receive_message(exchange, mechanism, request.response)

    def _continue(self, key: int, exchange: Exchange, fields: Sequence[bytes]) -> LineResult:
        """CONT with the message that the exchange awaits."""
        mechanism = self._mechanisms.get(exchange.mechanism)
        if mechanism is None:
            return self._end(key, "unsupported mechanism")
        if len(fields) > 1:
            return self._end(key, "malformed CONT")
        try:
            message = decode_base64(fields[0]) if fields else b""
        except BadMessage as error:
            return self._end(key, error.reason)
        return self._receive_message(exchange, mechanism, message)

    def _acknowledge(self, key: int, exchange: Exchange, _fields: Sequence[bytes]) -> LineResult:
        """CONT after the error challenge. Its content does not matter."""
        return self._end(key, exchange.reason, exchange.user)

    def _fail_id_in_use(self, key: int, _exchange: Exchange, _fields: Sequence[bytes]) -> LineResult:
        """AUTH with an id that is in use, or CONT while the backend is awaited."""
        return self._end(key, "request id in use")

    def _fail_unknown_id(self, key: int, _exchange: None, _fields: Sequence[bytes]) -> LineResult:
        """CONT with an id that is free."""
        return _failure(key, "handshake not finished" if self._awaited else "unknown or expired request")

    def _cancel(self, key: int, _exchange: Exchange | None, _fields: Sequence[bytes]) -> LineResult:
        """CANCEL."""
        self._open.pop(key, None)
        return LineResult()

    # Steps that the transitions share.

    def _prompt(self, exchange: Exchange, mechanism: Mechanism) -> LineResult:
        """Asks the client for its next message."""
        if not self._store(exchange):
            return _too_many_open(exchange.id)
        return LineResult(cont(exchange.id, mechanism.steps[len(exchange.messages)].prompt))

    def _receive_message(self, exchange: Exchange, mechanism: Mechanism, message: bytes) -> LineResult:
        """Handles the client's message: asks for the next one, hands out the attempt, or rejects."""
        messages = (*exchange.messages, message)
        try:
            mechanism.steps[len(exchange.messages)].check(message)
            if len(messages) < len(mechanism.steps):
                return self._prompt(replace(exchange, messages=messages), mechanism)
            credentials = mechanism.parse(*messages)
        except BadMessage as error:
            return LineResult(self._reject(exchange, error.reason, "invalid_request"), note=error.reason)
        self._serial += 1
        if not self._store(Exchange(exchange.id, State.AWAITING_BACKEND, mechanism.name, serial=self._serial)):
            return _too_many_open(exchange.id)
        return LineResult(
            attempt=Attempt(
                exchange.id,
                self._serial,
                mechanism.name,
                credentials.user,
                credentials.secret,
                mechanism.token,
                dict(exchange.parameters),
            )
        )

    def _reject(self, exchange: Exchange, reason: str, status: str, user: str = "") -> bytes:
        """Fails an exchange at once or, with a token mechanism, after the error challenge."""
        mechanism = self._mechanisms.get(exchange.mechanism)
        rejected = Exchange(
            exchange.id, State.AWAITING_ACKNOWLEDGEMENT, exchange.mechanism, user=user, reason=one_line(reason)
        )
        if mechanism is not None and mechanism.challenge and self._store(rejected):
            return cont(exchange.id, mechanism.challenge(status, self._scope, self._discovery))
        self._open.pop(exchange.id, None)
        return fail(exchange.id, reason, user=user)

    def _end(self, key: int, reason: str, user: str = "") -> LineResult:
        """Discards the open exchange and fails its id."""
        del self._open[key]
        return _failure(key, reason, user=user)

    def _store(self, exchange: Exchange) -> bool:
        """Stores the exchange as the most recently used one. The limits are kept by discarding the oldest.

        Exchanges that await the backend are never discarded. Returns False if there is no space because of them.
        """
        self._open.pop(exchange.id, None)
        size = exchange.size() + sum(other.size() for other in self._open.values())
        while len(self._open) >= OPEN_LIMIT or size > STATE_LIMIT:
            oldest = next((other for other in self._open.values() if other.state is not State.AWAITING_BACKEND), None)
            if oldest is None:
                return False
            del self._open[oldest.id]
            size -= oldest.size()
        self._open[exchange.id] = exchange
        return True


_COMMANDS = frozenset({b"AUTH", b"CONT", b"CANCEL"})
"""The commands that carry a request id."""

_TRANSITIONS: dict[tuple[bytes, State], Callable[..., LineResult]] = {
    (b"AUTH", State.FREE): SaslSession._start,
    (b"AUTH", State.AWAITING_CLIENT): SaslSession._fail_id_in_use,
    (b"AUTH", State.AWAITING_BACKEND): SaslSession._fail_id_in_use,
    (b"AUTH", State.AWAITING_ACKNOWLEDGEMENT): SaslSession._fail_id_in_use,
    (b"CONT", State.FREE): SaslSession._fail_unknown_id,
    (b"CONT", State.AWAITING_CLIENT): SaslSession._continue,
    (b"CONT", State.AWAITING_BACKEND): SaslSession._fail_id_in_use,
    (b"CONT", State.AWAITING_ACKNOWLEDGEMENT): SaslSession._acknowledge,
    (b"CANCEL", State.FREE): SaslSession._cancel,
    (b"CANCEL", State.AWAITING_CLIENT): SaslSession._cancel,
    (b"CANCEL", State.AWAITING_BACKEND): SaslSession._cancel,
    (b"CANCEL", State.AWAITING_ACKNOWLEDGEMENT): SaslSession._cancel,
}


def _failure(key: int, reason: str, *, user: str = "", code: str = "") -> LineResult:
    return LineResult(fail(key, reason, user=user, code=code), note=reason)


def _too_many_open(key: int) -> LineResult:
    return LineResult(fail(key, "too many open requests", temp=True), note="too many open requests")

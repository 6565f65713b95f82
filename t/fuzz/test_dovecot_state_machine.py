"""SaslSession as a state machine: no sequence of lines and results yields an OK that the backend has not given.

The model knows which ids are open and which attempt of an id awaits id_sent result. A second session is frozen and thawed
before every step and must behave in the same way.
"""

from __future__ import annotations

import base64
import marshal

from hypothesis import settings
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from kit.examples import examples

from pfxhttpd.wire.dovecot import OPEN_LIMIT, STATE_LIMIT, SaslSession
from pfxhttpd.wire.dovecot_exchange import Attempt
from pfxhttpd.wire.mechanisms import PASSWORD_MECHANISMS, TOKEN_MECHANISMS

ALL = PASSWORD_MECHANISMS + TOKEN_MECHANISMS
OPEN, REFUSED, MAYBE = "open", "refused", "maybe"
# REFUSED: the error challenge was sent. MAYBE: it was open before the session had to discard exchanges.

ids = some.integers(1, 5)
names = some.sampled_from(
    ["alice", "bob", "jürgen@example.org", "a\tb", "a\nOK\t1\tuser=root", "", "x" * 2000, "\x01t"]
)
passwords = some.sampled_from(["p", "", "p\0q", "ß"])
messages = some.one_of(
    some.tuples(names, passwords, some.sampled_from(["", "", "alice"])).map(
        lambda parts: f"{parts[2]}\0{parts[0]}\0{parts[1]}".encode()
    ),
    names.map(str.encode),
    passwords.map(str.encode),
    names.map(lambda name: f"user={name}\x01auth=Bearer t\x01\x01".encode()),
    names.map(lambda name: f"n,a={name},\x01auth=Bearer t\x01\x01".encode()),
    some.binary(max_size=8),
    some.just(b"\x01"),
    some.just(b"user=u\x01auth=Bearer " + b"t" * 12288 + b"\x01\x01"),
)
encoded = some.one_of(
    messages.map(base64.b64encode),
    messages.map(base64.b64encode),
    some.sampled_from([b"", b"=", b"*", b"YQ", b"\x01t", b"YQ==\tx", b"\x00"]),
)
mechanisms = some.sampled_from([b"PLAIN", b"LOGIN", b"login", b"XOAUTH2", b"OAUTHBEARER", b"GSSAPI", b"", b"PLA\x00IN"])
junk = some.lists(
    some.sampled_from(
        [
            b"rip=::1",
            b"secured",
            b"nologin",
            b"rip=a\x01tb",
            b"client_id=" + b"v" * 1000,
            b"x=\x00",
            b"",
            b"service=\xff",
        ]
    ),
    max_size=4,
)


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.session = SaslSession(ALL)
        self.thawed = SaslSession(ALL)
        self.open: dict[int, str] = {}
        self.awaiting: dict[int, Attempt] = {}
        self.attempts: list[Attempt] = []

    @initialize(order=some.permutations([b"VERSION\t1\t2", b"CPID\t1"]))
    def handshake(self, order):
        for line in order:
            assert not self.receive_line(line).send

    # Every step is applied to both sessions.

    def refreeze(self) -> None:
        self.thawed = SaslSession.thaw(marshal.loads(marshal.dumps(self.thawed.freeze())), ALL)

    def receive_line(self, line: bytes):
        self.refreeze()
        result = self.session.receive_line(line)
        assert self.thawed.receive_line(line) == result
        return result

    def answer(self, attempt: Attempt, method: str, *args, **options) -> bytes:
        self.refreeze()
        sent = getattr(self.session, method)(attempt, *args, **options)
        assert getattr(self.thawed, method)(attempt, *args, **options) == sent
        return sent

    def receive(self, key: int, request: bytes, rest: bytes) -> None:
        """Gives the sessions one line and checks the result against the model: its own id, one line at most, never OK."""
        before = self.open.pop(key, None)
        decided = self.awaiting.pop(key, None) is None
        result = self.receive_line(b"\t".join((request, b"%d" % key, rest)))
        assert not result.close and not (result.send and result.attempt)
        command = self.check(result.send, key)
        assert command in (b"", b"CONT", b"FAIL")
        if request == b"CANCEL":
            assert not result.send and not result.attempt
        elif (request == b"AUTH" and before in (OPEN, REFUSED)) or (
            request == b"CONT" and (before in (None, REFUSED) or not decided)
        ):
            assert command == b"FAIL"
        else:
            assert command or result.attempt
        if command == b"CONT" or result.attempt:
            self.open[key] = OPEN
        if result.attempt:
            assert result.attempt.id == key and all(result.attempt.serial != other.serial for other in self.attempts)
            self.awaiting[key] = result.attempt
            self.attempts.append(result.attempt)

    @staticmethod
    def check(sent: bytes, key: int) -> bytes:
        """The command of the one well-formed line with that id, b"" if nothing was sent."""
        if not sent:
            return b""
        assert sent.endswith(b"\n") and sent.count(b"\n") == 1 and not set(sent) & {0, 1, 13}
        command, id_sent, *_ = sent[:-1].split(b"\t")
        assert id_sent == b"%d" % key
        return command

    @rule(key=ids, mechanism=mechanisms, between=junk, resp=some.one_of(some.none(), encoded))
    def auth(self, key, mechanism, between, resp):
        self.receive(key, b"AUTH", b"\t".join([mechanism, *between, *([] if resp is None else [b"resp=" + resp])]))

    @rule(key=ids, name=some.sampled_from(["alice", "bob"]), mechanism=some.sampled_from(["PLAIN", "XOAUTH2"]))
    def auth_that_reaches_the_backend(self, key, name, mechanism):
        message = f"\0{name}\0p" if mechanism == "PLAIN" else f"user={name}\x01auth=Bearer t\x01\x01"
        self.receive(key, b"AUTH", b"%s\tresp=%s" % (mechanism.encode(), base64.b64encode(message.encode())))

    @rule(key=ids, data=encoded)
    def cont(self, key, data):
        self.receive(key, b"CONT", data)

    @precondition(lambda self: REFUSED in self.open.values())
    @rule(
        data=some.sampled_from(
            [b"", b"AQ==", base64.b64encode(b"user=alice\x01auth=Bearer t\x01\x01"), base64.b64encode(b"\0alice\0p")]
        )
    )
    def acknowledge(self, data):
        self.receive(next(key for key, state in self.open.items() if state == REFUSED), b"CONT", data)

    @rule(key=ids)
    def cancel(self, key):
        self.receive(key, b"CANCEL", b"")

    @rule(
        line=some.one_of(
            some.binary(max_size=40).filter(
                lambda line: b"\n" not in line and not line.startswith((b"AUTH", b"CONT", b"CANCEL", b"VERSION"))
            ),
            some.sampled_from(
                [
                    b"AUTH\t0\tPLAIN",
                    b"CONT\t-1\t",
                    b"CANCEL\tx",
                    b"AUTH",
                    b"CPID\t9",
                    b"VERSION\t1\t1",
                    b"OK\t1\tuser=root",
                    b"AUTH\t4294967296\tLOGIN",
                ]
            ),
        )
    )
    def ignored_line(self, line):
        before = self.session.freeze()
        result = self.receive_line(line)
        assert (result.send, result.attempt, result.close) == (b"", None, "")
        assert self.session.freeze() == before

    @rule(count=some.sampled_from([OPEN_LIMIT // 2, OPEN_LIMIT + 3]))
    def many_exchanges(self, count):
        self.refreeze()
        for key in range(1000, 1000 + count):
            for line in (b"CANCEL\t%d" % key, b"AUTH\t%d\tLOGIN" % key):
                result = self.session.receive_line(line)
                assert result == self.thawed.receive_line(line)
                self.check(result.send, key)
        self.open = {key: state if key in self.awaiting else MAYBE for key, state in self.open.items()}

    @precondition(lambda self: self.attempts)
    @rule(choice=some.integers(min_value=0), account=names, outcome=some.sampled_from(["yes", "yes", "no", "temp"]))
    def backend_result(self, choice, account, outcome):
        """A result for any attempt that was ever handed out: one that awaits it, one cancelled, or one answered before."""
        attempt = self.attempts[choice % len(self.attempts)]
        awaited = self.awaiting.get(attempt.id) is attempt
        if outcome == "yes":
            sent = self.answer(attempt, "succeed", account)
        else:
            sent = self.answer(attempt, "fail", "no\tOK\n", temp=outcome == "temp")
        command = self.check(sent, attempt.id)
        assert bool(command) is awaited
        if not awaited:
            return
        del self.awaiting[attempt.id]
        self.open[attempt.id] = REFUSED
        if command != b"CONT":
            del self.open[attempt.id]
        if command == b"OK":
            assert outcome == "yes" and sent == b"OK\t%d\tuser=%s\n" % (attempt.id, account.encode())
        else:
            assert outcome != "yes" or account not in ("alice", "bob", "jürgen@example.org")
            assert command == (b"CONT" if attempt.token and outcome != "temp" else b"FAIL")

    @invariant()
    def bounded(self):
        frozen = self.session.freeze()
        assert len(frozen[2]) <= OPEN_LIMIT and len(marshal.dumps(frozen)) < STATE_LIMIT + 4096
        assert self.thawed.freeze() == frozen


Machine.TestCase.settings = settings(max_examples=examples(100), stateful_step_count=40, deadline=None)
TestMachine = Machine.TestCase

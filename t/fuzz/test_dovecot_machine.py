"""Whatever a client does and in whatever order a backend answers: nobody gets in whom the backend did not let in.

A model beside the connection knows only what it must: which ids have something open, and which attempt of an id still
waits for its answer. A twin of the connection is frozen and thawed before every step and must say the same.
"""

from __future__ import annotations

import base64
import marshal

from hypothesis import settings
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pfxhttpd.wire.dovecot import OPEN_LIMIT, STATE_LIMIT, SaslSession
from pfxhttpd.wire.dovecot_exchange import Attempt
from pfxhttpd.wire.mechanisms import PASSWORD_MECHANISMS, TOKEN_MECHANISMS

ALL = PASSWORD_MECHANISMS + TOKEN_MECHANISMS
OPEN, REFUSED, MAYBE = "open", "refused", "maybe"
# REFUSED: the error challenge was sent. MAYBE: it was open before the connection had to forget some.

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
        self.connection = SaslSession(ALL)
        self.twin = SaslSession(ALL)
        self.open: dict[int, str] = {}
        self.waiting: dict[int, Attempt] = {}
        self.out: list[Attempt] = []

    @initialize(order=some.permutations([b"VERSION\t1\t2", b"CPID\t1"]))
    def handshake(self, order):
        for line in order:
            assert not self.say(line).send

    # Every step goes to both, the twin through its frozen form.

    def revive(self) -> None:
        self.twin = SaslSession.thaw(marshal.loads(marshal.dumps(self.twin.freeze())), ALL)

    def say(self, line: bytes):
        self.revive()
        turn = self.connection.receive_line(line)
        assert self.twin.receive_line(line) == turn
        return turn

    def answer(self, attempt: Attempt, method: str, *args, **options) -> bytes:
        self.revive()
        sent = getattr(self.connection, method)(attempt, *args, **options)
        assert getattr(self.twin, method)(attempt, *args, **options) == sent
        return sent

    def hears(self, key: int, verb: bytes, rest: bytes) -> None:
        """One command, checked against the model: its own id, one line at most, never OK."""
        before = self.open.pop(key, None)
        decided = self.waiting.pop(key, None) is None
        turn = self.say(b"\t".join((verb, b"%d" % key, rest)))
        assert not turn.close and not (turn.send and turn.attempt)
        word = self.check(turn.send, key)
        assert word in (b"", b"CONT", b"FAIL")
        if verb == b"CANCEL":
            assert not turn.send and not turn.attempt
        elif (verb == b"AUTH" and before in (OPEN, REFUSED)) or (
            verb == b"CONT" and (before in (None, REFUSED) or not decided)
        ):
            assert word == b"FAIL"
        else:
            assert word or turn.attempt
        if word == b"CONT" or turn.attempt:
            self.open[key] = OPEN
        if turn.attempt:
            assert turn.attempt.id == key and all(turn.attempt.serial != other.serial for other in self.out)
            self.waiting[key] = turn.attempt
            self.out.append(turn.attempt)

    @staticmethod
    def check(sent: bytes, key: int) -> bytes:
        """The word of the one well-formed line with that id, b"" for none."""
        if not sent:
            return b""
        assert sent.endswith(b"\n") and sent.count(b"\n") == 1 and not set(sent) & {0, 1, 13}
        word, its, *_ = sent[:-1].split(b"\t")
        assert its == b"%d" % key
        return word

    @rule(key=ids, mechanism=mechanisms, between=junk, resp=some.one_of(some.none(), encoded))
    def auth(self, key, mechanism, between, resp):
        self.hears(key, b"AUTH", b"\t".join([mechanism, *between, *([] if resp is None else [b"resp=" + resp])]))

    @rule(key=ids, name=some.sampled_from(["alice", "bob"]), mechanism=some.sampled_from(["PLAIN", "XOAUTH2"]))
    def auth_that_reaches_the_backend(self, key, name, mechanism):
        message = f"\0{name}\0p" if mechanism == "PLAIN" else f"user={name}\x01auth=Bearer t\x01\x01"
        self.hears(key, b"AUTH", b"%s\tresp=%s" % (mechanism.encode(), base64.b64encode(message.encode())))

    @rule(key=ids, data=encoded)
    def cont(self, key, data):
        self.hears(key, b"CONT", data)

    @precondition(lambda self: REFUSED in self.open.values())
    @rule(
        data=some.sampled_from(
            [b"", b"AQ==", base64.b64encode(b"user=alice\x01auth=Bearer t\x01\x01"), base64.b64encode(b"\0alice\0p")]
        )
    )
    def acknowledge(self, data):
        self.hears(next(key for key, state in self.open.items() if state == REFUSED), b"CONT", data)

    @rule(key=ids)
    def cancel(self, key):
        self.hears(key, b"CANCEL", b"")

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
    def nonsense(self, line):
        before = self.connection.freeze()
        turn = self.say(line)
        assert (turn.send, turn.attempt, turn.close) == (b"", None, "")
        assert self.connection.freeze() == before

    @rule(count=some.sampled_from([OPEN_LIMIT // 2, OPEN_LIMIT + 3]))
    def a_crowd(self, count):
        self.revive()
        for key in range(1000, 1000 + count):
            for line in (b"CANCEL\t%d" % key, b"AUTH\t%d\tLOGIN" % key):
                turn = self.connection.receive_line(line)
                assert turn == self.twin.receive_line(line)
                self.check(turn.send, key)
        self.open = {key: state if key in self.waiting else MAYBE for key, state in self.open.items()}

    @precondition(lambda self: self.out)
    @rule(choice=some.integers(min_value=0), account=names, word=some.sampled_from(["yes", "yes", "no", "temp"]))
    def backend_answers(self, choice, account, word):
        """To any attempt that was ever handed out: the one that waits, one given up, or one answered before."""
        attempt = self.out[choice % len(self.out)]
        waits = self.waiting.get(attempt.id) is attempt
        if word == "yes":
            sent = self.answer(attempt, "succeed", account)
        else:
            sent = self.answer(attempt, "fail", "no\tOK\n", temp=word == "temp")
        said = self.check(sent, attempt.id)
        assert bool(said) is waits
        if not waits:
            return
        del self.waiting[attempt.id]
        self.open[attempt.id] = REFUSED
        if said != b"CONT":
            del self.open[attempt.id]
        if said == b"OK":
            assert word == "yes" and sent == b"OK\t%d\tuser=%s\n" % (attempt.id, account.encode())
        else:
            assert word != "yes" or account not in ("alice", "bob", "jürgen@example.org")
            assert said == (b"CONT" if attempt.token and word != "temp" else b"FAIL")

    @invariant()
    def bounded(self):
        frozen = self.connection.freeze()
        assert len(frozen[2]) <= OPEN_LIMIT and len(marshal.dumps(frozen)) < STATE_LIMIT + 4096
        assert self.twin.freeze() == frozen


Machine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestMachine = Machine.TestCase

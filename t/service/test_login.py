"""The login service without a network: an imagined backend, a client that is only a record, a journal that remembers."""

from __future__ import annotations

import base64
import json
import marshal
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from pfxhttpd.config.settings import DOVECOT_SASL, Entry
from pfxhttpd.exchange.answer import Answer, BackendFailure
from pfxhttpd.outside.handoff import Client
from pfxhttpd.service.hangup import HangUp
from pfxhttpd.service.login import TOGETHER, Logins
from pfxhttpd.wire.dovecot_line import LIMIT
from pfxhttpd.wire.malformed import Malformed

SECRET = "s3cr3t-marker"
ENTRY = Entry(DOVECOT_SASL, "login", "http://127.0.0.1/")
HELLO = b"VERSION\t1\t1\nCPID\t1\n"


@dataclass
class Backend:
    """Gives each question the next of its answers, or the last; a failure is raised."""

    answers: list[Answer | BackendFailure]
    entry: Entry = ENTRY
    asked: list[dict[str, str]] = field(default_factory=list)

    def consult(self, question: str, judge: Any, body: bytes) -> Any:
        self.asked.append(json.loads(body))
        assert question == self.asked[-1]["username"]
        answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
        if isinstance(answer, BackendFailure):
            raise answer
        return judge(self.entry, answer)


class Remembered:
    """A journal at debug level; `text` is everything that it was told."""

    def __init__(self) -> None:
        self.text = ""
        self.debug = self.info = self.error = self._note

    def _note(self, message: str, **fields: object) -> None:
        self.text += f"{message} {fields}\n"


YES, NO, DOWN = Answer(200, {}, b""), Answer(403, {"auth-status": "no"}, b""), BackendFailure("it is down")


def client(unread: bytes = b"") -> Client:
    return Client(DOVECOT_SASL, "login", "tcp:127.0.0.1:1", "127.0.0.1:2", 0.0, unread=unread)


def auth(number: int, password: str = SECRET, user: str = "ann") -> bytes:
    return b"AUTH\t%d\tPLAIN\tresp=%b\n" % (number, base64.b64encode(f"\0{user}\0{password}".encode()))


def service(*answers: Answer | BackendFailure, entry: Entry = ENTRY) -> tuple[Logins, Backend, Remembered]:
    backend, journal = Backend(list(answers), entry), Remembered()
    return Logins({"login": backend}, journal), backend, journal  # type: ignore[dict-item, arg-type]


def test_a_greeting_and_a_login_in_one_piece_are_one_step():
    logins, backend, _ = service(YES)
    who = client(HELLO + auth(1))
    assert logins.step(who) == b"OK\t1\tuser=ann\n"
    assert who.unread == b"" and len(backend.asked) == 1
    assert logins.step(who) is None


def test_each_answer_is_a_step_of_its_own():
    logins, backend, _ = service(YES, NO)
    who = client(HELLO + auth(1) + auth(2) + b"AUTH\t3\tLOGIN\n" + auth(4)[:10])
    assert logins.step(who) == b"OK\t1\tuser=ann\n"
    assert len(backend.asked) == 1
    assert logins.step(who) == b"FAIL\t2\treason=no\n"
    assert logins.step(who) == b"CONT\t3\tVXNlcm5hbWU6\n"
    assert logins.step(who) is None and who.unread == auth(4)[:10]


def test_lines_that_call_for_nothing_take_turns_too():
    logins, _, _ = service(YES)
    who = client(b"CANCEL\t1\n" * (TOGETHER + 1) + b"rest")
    assert logins.step(who) == b"" and who.unread == b"CANCEL\t1\nrest"
    assert logins.step(who) == b"" and who.unread == b"rest"
    assert logins.step(who) is None


def test_an_answer_is_not_lost_to_what_follows_it():
    """A prompt, and behind it a login that cannot be decided or a line without end: the prompt goes first."""
    for tail, end in ((auth(2), HangUp), (b"VERSION\t9\n", HangUp), (b"x" * (LIMIT + 1), Malformed)):
        logins, _, _ = service(DOWN)
        who = client(HELLO + b"AUTH\t1\tLOGIN\n" + tail)
        assert logins.step(who) == b"CONT\t1\tVXNlcm5hbWU6\n"
        with pytest.raises(end):
            logins.step(who)


def test_a_doubt_hangs_up_or_says_that_it_is_one():
    logins, _, journal = service(DOWN)
    with pytest.raises(HangUp) as hung:
        logins.step(client(HELLO + auth(1)))
    assert hung.value.reason == "temporary authentication failure" and "it is down" in journal.text
    logins, _, _ = service(DOWN, YES, entry=replace(ENTRY, temporary_failure="fail"))
    who = client(HELLO + auth(1) + auth(1))
    assert logins.step(who) == b"FAIL\t1\ttemp\tcode=temp_fail\treason=temporary authentication failure\n"
    assert logins.step(who) == b"OK\t1\tuser=ann\n"


def test_an_entry_that_is_gone_is_an_outage():
    for entry in (ENTRY, replace(ENTRY, temporary_failure="fail")):
        journal = Remembered()
        with pytest.raises(HangUp):
            Logins({"other": Backend([YES], entry)}, journal).step(client(HELLO + auth(1)))  # type: ignore[dict-item, arg-type]
        assert "no such entry" in journal.text


def test_the_journal_may_be_silent():
    logins, _, journal = service(YES, NO, DOWN)
    journal.debug = journal.info = journal.error = None  # type: ignore[assignment]
    who = client(HELLO + b"\n" + auth(1) + auth(2) + auth(3))
    assert logins.step(who).startswith(b"OK") and logins.step(who).startswith(b"FAIL")
    with pytest.raises(HangUp):
        logins.step(who)


words = some.sampled_from([
    HELLO, auth(1), auth(2), auth(1, "wrong"), auth(3, SECRET, "bob"), b"AUTH\t1\tLOGIN\n", b"AUTH\t2\tLOGIN\tresp=Ym9i\n",
    b"CONT\t1\tYW5u\n", b"CONT\t2\t" + base64.b64encode(SECRET.encode()) + b"\n", b"CONT\t1\t\n", b"CANCEL\t1\n", b"\n", b"CONT\t3\t=\n",
    b"AUTH\t1\tXOAUTH2\tresp=YQ==\n", auth(1)[:-1] + b"\tx\n", b"AUTH\t1\tPLAIN\n",
])  # fmt: skip
outcomes = some.sampled_from([YES, NO, DOWN, Answer(200, {"auth-user": "other"}, b""), Answer(200, {"auth-user": "a\tb"}, b""), Answer(401, {}, b"")])


@given(some.lists(words, max_size=30), some.lists(outcomes, min_size=1, max_size=10), some.booleans())
@settings(max_examples=300, deadline=None)
def test_only_a_yes_of_the_backend_lets_anybody_in(lines: list[bytes], answers: list[Answer | BackendFailure], disconnect: bool):
    """Step by step: an OK is the reply to a question that was just asked and answered yes, as that answer's account. The
    state goes through marshal between any two steps, and neither it nor the journal holds a password."""
    entry = replace(ENTRY, temporary_failure="disconnect" if disconnect else "fail")
    logins, backend, journal = service(*answers, entry=entry)
    who = client(HELLO + b"".join(lines))
    while True:
        asked = len(backend.asked)
        try:
            reply = logins.step(who)
        except HangUp:
            break
        if reply is None:
            break
        new = backend.asked[asked:]
        assert len(new) <= 1 and reply.count(b"\n") == bool(reply)
        if reply.startswith(b"OK"):
            (question,) = new
            answer = answers[min(len(backend.asked), len(answers)) - 1]
            assert isinstance(answer, Answer) and answer.status == 200
            account = answer.headers.get("auth-user", question["username"])
            assert reply.partition(b"\tuser=")[2] == account.encode() + b"\n"
        state = marshal.dumps(who.state)
        assert SECRET.encode() not in state and base64.b64encode(SECRET.encode()) not in state
        who.state = marshal.loads(state)
    assert SECRET not in journal.text

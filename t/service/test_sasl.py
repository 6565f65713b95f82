"""The login service without a network: an imagined backend, a client that is only a record, a logger that remembers."""

from __future__ import annotations

import base64
import json
import marshal
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from kit.examples import examples

from pfxhttpd.config.settings import DOVECOT_SASL, Entry
from pfxhttpd.io.handoff import Connection
from pfxhttpd.rules.known_secrets import secret_forms, without_secrets
from pfxhttpd.rules.response import BackendError, BackendResponse
from pfxhttpd.service import CloseConnection
from pfxhttpd.service.sasl import MAX_LINES, SaslService
from pfxhttpd.wire import ProtocolError
from pfxhttpd.wire.dovecot_lines import LINE_LIMIT

SECRET = "s3cr3t-marker"
ENTRY = Entry(DOVECOT_SASL, "login", "http://127.0.0.1/")
HELLO = b"VERSION\t1\t1\nCPID\t1\n"


class Report:
    """Remembers the outcomes that the service has reported."""

    def __init__(self) -> None:
        self.counted: list[int] = []
        self.failures: list[str] = []

    def begin(self, now: float) -> None:
        pass

    def count(self, outcome: int) -> None:
        self.counted.append(outcome)

    def log_response(self, response: BackendResponse, fields: object, redact: object) -> None:
        pass

    def failed(
        self, message: str, error: BackendError, fields: object, cached: object, redact: Callable[[str], str]
    ) -> None:
        body = error.response.body.decode() if error.response else ""
        self.failures.append(f"{message}: {error.reason} {redact(body)}".rstrip())


@dataclass
class Backend:
    """Gives each question the next of its answers, or the last; a failure is raised."""

    answers: list[BackendResponse | BackendError]
    entry: Entry = ENTRY
    asked: list[dict[str, str]] = field(default_factory=list)
    report: Report = field(default_factory=Report)

    def redact(self, text: str, password: str = "") -> str:
        return without_secrets(text, secret_forms([password]))

    def query(self, question: str, body: bytes) -> BackendResponse:
        self.asked.append(json.loads(body))
        assert question == self.asked[-1]["username"]
        answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
        if isinstance(answer, BackendError):
            raise answer
        return answer


class Remembered:
    """A logger at debug level; `text` is everything that it was told."""

    def __init__(self) -> None:
        self.text = ""
        self.debug = self.info = self.error = self._note

    def _note(self, message: str, **fields: object) -> None:
        self.text += f"{message} {fields}\n"


YES, NO, DOWN = (
    BackendResponse(200, {}, b""),
    BackendResponse(403, {"auth-status": "no"}, b""),
    BackendError("it is down"),
)


def client(unread: bytes = b"") -> Connection:
    return Connection(DOVECOT_SASL, "login", "tcp:127.0.0.1:1", "127.0.0.1:2", 0.0, unread=unread)


def auth(number: int, password: str = SECRET, user: str = "ann") -> bytes:
    return b"AUTH\t%d\tPLAIN\tresp=%b\n" % (number, base64.b64encode(f"\0{user}\0{password}".encode()))


def service(*answers: BackendResponse | BackendError, entry: Entry = ENTRY) -> tuple[SaslService, Backend, Remembered]:
    backend, logger = Backend(list(answers), entry), Remembered()
    return SaslService({"login": backend}, logger), backend, logger  # type: ignore[dict-item, arg-type]


def test_a_greeting_and_a_login_in_one_piece_are_one_step():
    logins, backend, _ = service(YES)
    who = client(HELLO + auth(1))
    assert logins.handle(who) == b"OK\t1\tuser=ann\n"
    assert who.unread == b"" and len(backend.asked) == 1
    assert logins.handle(who) is None


def test_each_answer_is_a_step_of_its_own():
    logins, backend, _ = service(YES, NO)
    who = client(HELLO + auth(1) + auth(2) + b"AUTH\t3\tLOGIN\n" + auth(4)[:10])
    assert logins.handle(who) == b"OK\t1\tuser=ann\n"
    assert len(backend.asked) == 1
    assert logins.handle(who) == b"FAIL\t2\tuser=ann\treason=no\n"
    assert logins.handle(who) == b"CONT\t3\tVXNlcm5hbWU6\n"
    assert logins.handle(who) is None and who.unread == auth(4)[:10]


def test_lines_that_call_for_nothing_take_turns_too():
    logins, _, _ = service(YES)
    who = client(b"CANCEL\t1\n" * (MAX_LINES + 1) + b"rest")
    assert logins.handle(who) == b"" and who.unread == b"CANCEL\t1\nrest"
    assert logins.handle(who) == b"" and who.unread == b"rest"
    assert logins.handle(who) is None


def test_an_answer_is_not_lost_to_what_follows_it():
    """A prompt, and behind it a login that cannot be decided or a line without end: the prompt goes first."""
    for tail, end in (
        (auth(2), CloseConnection),
        (b"VERSION\t9\n", CloseConnection),
        (b"x" * (LINE_LIMIT + 1), ProtocolError),
    ):
        logins, _, _ = service(DOWN)
        who = client(HELLO + b"AUTH\t1\tLOGIN\n" + tail)
        assert logins.handle(who) == b"CONT\t1\tVXNlcm5hbWU6\n"
        with pytest.raises(end):
            logins.handle(who)


def test_a_doubt_hangs_up_or_says_that_it_is_one():
    logins, backend, _ = service(DOWN)
    with pytest.raises(CloseConnection) as hung:
        logins.handle(client(HELLO + auth(1)))
    assert hung.value.reason == "temporary authentication failure"
    assert backend.report.failures == ["Authentication could not be decided: it is down"]
    logins, _, _ = service(DOWN, YES, entry=replace(ENTRY, temporary_failure="fail"))
    who = client(HELLO + auth(1) + auth(1))
    assert logins.handle(who) == b"FAIL\t1\tuser=ann\ttemp\tcode=temp_fail\treason=temporary authentication failure\n"
    assert logins.handle(who) == b"OK\t1\tuser=ann\n"


def test_an_entry_that_is_gone_is_an_outage():
    for entry in (ENTRY, replace(ENTRY, temporary_failure="fail")):
        logger = Remembered()
        with pytest.raises(CloseConnection):
            SaslService({"other": Backend([YES], entry)}, logger).handle(client(HELLO + auth(1)))  # type: ignore[dict-item, arg-type]
        assert "no such entry" in logger.text


def test_the_journal_may_be_silent():
    logins, _, logger = service(YES, NO, DOWN)
    logger.debug = logger.info = logger.error = None  # type: ignore[assignment]
    who = client(HELLO + b"\n" + auth(1) + auth(2) + auth(3))
    assert logins.handle(who).startswith(b"OK") and logins.handle(who).startswith(b"FAIL")
    with pytest.raises(CloseConnection):
        logins.handle(who)


@pytest.mark.parametrize(
    "echo", [SECRET, base64.b64encode(SECRET.encode()).decode(), base64.b64encode(f"\0ann\0{SECRET}".encode()).decode()]
)
@pytest.mark.parametrize("before", ["", "x" * 190])
def test_a_password_that_the_backend_repeats_goes_nowhere(echo: str, before: str):
    """Not even a part of it, where the reason is cut."""
    logins, _, logger = service(BackendResponse(403, {"auth-status": f"{before} {echo} is wrong"}, b""))
    reply = logins.handle(client(HELLO + auth(1)))
    assert reply is not None and reply.startswith(b"FAIL\t1\tuser=ann\treason=")
    assert (b"<redacted> is wrong" in reply) == (not before)
    for text in (reply.decode(), logger.text):
        assert echo[-8:-2] not in text and SECRET[:6] not in text
    broken = BackendError(f"broken: {echo}")
    broken.response = BackendResponse(200, {}, f"<html>{echo}".encode())
    logins, backend, logger = service(broken)
    with pytest.raises(CloseConnection):
        logins.handle(client(HELLO + auth(1)))
    (failure,) = backend.report.failures
    assert echo not in failure + logger.text and "<redacted>" in failure


def test_an_account_is_data():
    logins, _, _ = service(BackendResponse(200, {"auth-user": SECRET}, b""))
    assert logins.handle(client(HELLO + auth(1))) == f"OK\t1\tuser={SECRET}\n".encode()


words = some.sampled_from([
    HELLO, auth(1), auth(2), auth(1, "wrong"), auth(3, SECRET, "bob"), b"AUTH\t1\tLOGIN\n", b"AUTH\t2\tLOGIN\tresp=Ym9i\n",
    b"CONT\t1\tYW5u\n", b"CONT\t2\t" + base64.b64encode(SECRET.encode()) + b"\n", b"CONT\t1\t\n", b"CANCEL\t1\n", b"\n", b"CONT\t3\t=\n",
    b"AUTH\t1\tXOAUTH2\tresp=YQ==\n", auth(1)[:-1] + b"\tx\n", b"AUTH\t1\tPLAIN\n",
])  # fmt: skip
outcomes = some.sampled_from(
    [
        YES,
        NO,
        DOWN,
        BackendResponse(200, {"auth-user": "other"}, b""),
        BackendResponse(200, {"auth-user": "a\tb"}, b""),
        BackendResponse(401, {}, b""),
    ]
)


@given(some.lists(words, max_size=30), some.lists(outcomes, min_size=1, max_size=10), some.booleans())
@settings(max_examples=examples(300), deadline=None)
def test_only_a_yes_of_the_backend_lets_anybody_in(
    lines: list[bytes], answers: list[BackendResponse | BackendError], disconnect: bool
):
    """Step by step: an OK is the reply to a question that was just asked and answered yes, as that answer's account. The
    state goes through marshal between any two steps, and neither it nor the logger holds a password."""
    entry = replace(ENTRY, temporary_failure="disconnect" if disconnect else "fail")
    logins, backend, logger = service(*answers, entry=entry)
    who = client(HELLO + b"".join(lines))
    while True:
        asked = len(backend.asked)
        try:
            reply = logins.handle(who)
        except CloseConnection:
            break
        if reply is None:
            break
        new = backend.asked[asked:]
        assert len(new) <= 1 and reply.count(b"\n") == bool(reply)
        if reply.startswith(b"OK"):
            (question,) = new
            answer = answers[min(len(backend.asked), len(answers)) - 1]
            assert isinstance(answer, BackendResponse) and answer.status == 200
            account = answer.headers.get("auth-user", question["username"])
            assert reply.partition(b"\tuser=")[2] == account.encode() + b"\n"
        state = marshal.dumps(who.state)
        assert SECRET.encode() not in state and base64.b64encode(SECRET.encode()) not in state
        who.state = marshal.loads(state)
    assert SECRET not in logger.text

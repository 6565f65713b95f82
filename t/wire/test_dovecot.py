"""The connection's tables, command by command and state by state, with an imagined backend."""

from __future__ import annotations

import base64
import itertools
import json
import marshal

import pytest

from pfxhttpd.wire import dovecot_lines
from pfxhttpd.wire.dovecot import _MOVES, OPEN_LIMIT, STATE_LIMIT, LineResult, SaslSession
from pfxhttpd.wire.dovecot_exchange import State
from pfxhttpd.wire.dovecot_lines import greeting, take_line
from pfxhttpd.wire.mechanisms import PASSWORD_MECHANISMS, TOKEN_MECHANISMS

ALL = PASSWORD_MECHANISMS + TOKEN_MECHANISMS
SECRET = "s3cr3t-marker"
BEARER = b"user=u\x01auth=Bearer " + SECRET.encode() + b"\x01\x01"
NAMELESS = b"n,,\x01auth=Bearer " + SECRET.encode() + b"\x01\x01"


def b64(message: bytes | str) -> bytes:
    return base64.b64encode(message.encode() if isinstance(message, str) else message)


def ready(**options) -> SaslSession:
    connection = SaslSession(ALL, **options)
    assert connection.receive_line(b"VERSION\t1\t2") == LineResult()
    assert connection.receive_line(b"CPID\t4711") == LineResult()
    return connection


def plain(user="user", secret=SECRET, authzid="") -> bytes:
    return b"resp=" + b64(f"{authzid}\0{user}\0{secret}")


def is_fail(answer: bytes, key: int) -> bool:
    fields = answer.removesuffix(b"\n").split(b"\t")
    return answer.count(b"\n") == 1 and fields[:2] == [b"FAIL", b"%d" % key]


# Greeting and handshake


def test_greeting_in_the_order_that_clients_read_it():
    assert greeting(ALL, 7, 8, "ab" * 16) == (
        b"VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nMECH\tLOGIN\tplaintext\nMECH\tXOAUTH2\tplaintext\nMECH\tOAUTHBEARER\tplaintext\n"
        b"SPID\t7\nCUID\t8\nCOOKIE\t" + b"ab" * 16 + b"\nDONE\n"
    )


@pytest.mark.parametrize("lines", list(itertools.permutations([b"VERSION\t1\t2", b"CPID\t1", b"SERVICE\tSMTP"])))
def test_handshake_in_any_order(lines):
    connection = SaslSession(ALL)
    for line in lines:
        turn = connection.receive_line(line)
        assert not turn.send and not turn.close
    assert connection.receive_line(b"AUTH\t1\tPLAIN\t" + plain()).attempt


@pytest.mark.parametrize("line", [b"VERSION\t1\t1", b"VERSION\t1", b"VERSION\t1\t99\tx", b"VERSION\t1\t"])
def test_any_minor_version_will_do(line):
    connection = SaslSession(ALL)
    assert connection.receive_line(line) == LineResult()
    connection.receive_line(b"CPID\t1")
    assert connection.receive_line(b"AUTH\t1\tPLAIN\t" + plain()).attempt


@pytest.mark.parametrize(
    "line",
    [b"VERSION\t2\t0", b"VERSION\t0\t1", b"VERSION", b"VERSION\t", b"VERSION\t11", b"VERSION\t1 \t2", b"VERSION\t\x00"],
)
@pytest.mark.parametrize("connection", [SaslSession(ALL), ready()], ids=["new", "ready"])
def test_another_major_version_closes(connection, line):
    turn = connection.receive_line(line)
    assert turn.close and not turn.send


@pytest.mark.parametrize(
    "before", [[], [b"VERSION\t1\t2"], [b"CPID\t1"], [b"CPID\t1", b"CPID\t1"], [b"VERSION\t1\t1", b"VERSION\t1\t2"]]
)
def test_before_the_handshake_nothing_is_opened(before):
    connection = SaslSession(ALL)
    for line in before:
        connection.receive_line(line)
    empty = connection.freeze()
    for line in (b"AUTH\t3\tPLAIN\t" + plain(), b"AUTH\t3\tLOGIN", b"CONT\t3\t" + b64("x")):
        turn = connection.receive_line(line)
        assert is_fail(turn.send, 3) and turn.attempt is None
    assert connection.receive_line(b"CANCEL\t3") == LineResult()
    assert connection.freeze() == empty


# One exchange


def test_plain_with_an_initial_response():
    connection = ready()
    turn = connection.receive_line(
        b"AUTH\t1\tPLAIN\tservice=smtp\tnologin\tlip=::1\trip=::2\tsecured\t" + plain("jürgen", "pä ß")
    )
    attempt = turn.attempt
    assert (turn.send, turn.close, turn.note) == (b"", "", "")
    assert (attempt.id, attempt.mechanism, attempt.user, attempt.secret, attempt.token, attempt.authzid) == (
        1,
        "PLAIN",
        "jürgen",
        "pä ß",
        False,
        "",
    )
    assert attempt.parameters == {"service": "smtp", "lip": "::1", "rip": "::2", "secured": ""}
    assert connection.succeed(attempt, "jürgen@example.org") == "OK\t1\tuser=jürgen@example.org\n".encode()
    assert connection.freeze() == ((), 1, ())


@pytest.mark.parametrize("resp", [b"", b"\tresp=", b"\tresp=="])
def test_plain_without_one(resp):
    connection = ready()
    assert connection.receive_line(b"AUTH\t1\tPLAIN\trip=::2" + resp) == LineResult(b"CONT\t1\t\n")
    attempt = connection.receive_line(b"CONT\t1\t" + b64("user\0user\0pass")).attempt
    assert (attempt.user, attempt.secret, attempt.authzid, attempt.parameters) == (
        "user",
        "pass",
        "user",
        {"rip": "::2"},
    )


@pytest.mark.parametrize("resp", [b"", b"\tresp=", b"\tresp=="])
def test_login_without_an_initial_response(resp):
    connection = ready()
    assert connection.receive_line(b"AUTH\t1\tLOGIN\trip=::2" + resp) == LineResult(b"CONT\t1\tVXNlcm5hbWU6\n")
    assert connection.receive_line(b"CONT\t1\t" + b64("user")) == LineResult(b"CONT\t1\tUGFzc3dvcmQ6\n")
    attempt = connection.receive_line(b"CONT\t1\t" + b64("pass")).attempt
    assert (attempt.mechanism, attempt.user, attempt.secret, attempt.parameters) == (
        "LOGIN",
        "user",
        "pass",
        {"rip": "::2"},
    )


def test_login_with_one_and_lower_case():
    connection = ready()
    assert connection.receive_line(b"AUTH\t9\tlogin\tresp=" + b64("user")) == LineResult(b"CONT\t9\tUGFzc3dvcmQ6\n")
    attempt = connection.receive_line(b"CONT\t9\t" + b64("pass")).attempt
    assert (attempt.mechanism, attempt.user, attempt.secret) == ("LOGIN", "user", "pass")


@pytest.mark.parametrize("user", [b"", b"\xff", b"a\0b", b"u" * 1025])
def test_login_asks_no_password_of_a_user_that_cannot_be(user):
    connection = ready()
    connection.receive_line(b"AUTH\t1\tLOGIN")
    assert is_fail(connection.receive_line(b"CONT\t1\t" + b64(user)).send, 1)
    assert connection.freeze() == ready().freeze()


@pytest.mark.parametrize(("mechanism", "message", "user"), [(b"XOAUTH2", BEARER, "u"), (b"OAUTHBEARER", NAMELESS, "")])
@pytest.mark.parametrize("length", [10, 12288, 40000])
def test_long_tokens_by_cont(mechanism, message, user, length):
    connection = ready()
    assert connection.receive_line(b"AUTH\t1\t" + mechanism).send == b"CONT\t1\t\n"
    attempt = connection.receive_line(b"CONT\t1\t" + b64(message.replace(SECRET.encode(), b"t" * length))).attempt
    assert (attempt.user, attempt.secret, attempt.token) == (user, "t" * length, True)
    assert connection.succeed(attempt, "sub") == b"OK\t1\tuser=sub\n"


@pytest.mark.parametrize(("mechanism", "message"), [(b"XOAUTH2", BEARER), (b"OAUTHBEARER", NAMELESS)])
@pytest.mark.parametrize("acknowledgement", [b"", b"\t", b"\tAQ==", b"\t****", b"\tAQ==\tx"])
def test_a_refused_token_gets_the_challenge_then_fails(mechanism, message, acknowledgement):
    connection = ready(scope="mail", discovery="https://op/x")
    attempt = connection.receive_line(b"AUTH\t5\t" + mechanism + b"\tresp=" + b64(message)).attempt
    answer = connection.fail(attempt, "token expired").removesuffix(b"\n").split(b"\t")
    assert answer[:2] == [b"CONT", b"5"] and len(answer) == 3
    assert json.loads(base64.b64decode(answer[2])) == {
        "status": "invalid_token",
        "schemes": "bearer",
        "scope": "mail",
        "openid-configuration": "https://op/x",
    }
    assert connection.receive_line(b"CONT\t5" + acknowledgement).send == b"FAIL\t5\treason=token expired\n"
    assert is_fail(connection.receive_line(b"CONT\t5\tAQ==").send, 5)
    assert connection.freeze()[2] == ()


@pytest.mark.parametrize("mechanism", [b"XOAUTH2", b"OAUTHBEARER"])
def test_so_does_a_token_message_that_cannot_be_read(mechanism):
    connection = ready()
    answer = connection.receive_line(b"AUTH\t5\t" + mechanism + b"\tresp=" + b64("junk")).send
    assert answer.startswith(b"CONT\t5\t")
    assert json.loads(base64.b64decode(answer.split(b"\t")[2]))["status"] == "invalid_request"
    assert is_fail(connection.receive_line(b"CONT\t5\tAQ==").send, 5)


def test_a_token_that_could_not_be_checked_fails_at_once():
    connection = ready()
    attempt = connection.receive_line(b"AUTH\t5\tXOAUTH2\tresp=" + b64(BEARER)).attempt
    assert (
        connection.fail(attempt, "provider unreachable", temp=True)
        == b"FAIL\t5\ttemp\tcode=temp_fail\treason=provider unreachable\n"
    )
    assert connection.freeze()[2] == ()


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        ("wrong password", b"FAIL\t1\treason=wrong password\n"),
        ("", b"FAIL\t1\n"),
        ("a\tb\nOK\t1\tuser=root\r\x00\x01", b"FAIL\t1\treason=a b OK 1 user=root\n"),
        ("x" * 500, b"FAIL\t1\treason=" + b"x" * 197 + b"...\n"),
        ("\ud800ü", "FAIL\t1\treason=ü\n".encode()),
    ],
)
def test_reasons_are_one_clean_line(reason, line):
    connection = ready()
    attempt = connection.receive_line(b"AUTH\t1\tPLAIN\t" + plain()).attempt
    assert connection.fail(attempt, reason) == line


def test_a_code():
    connection = ready()
    attempt = connection.receive_line(b"AUTH\t1\tPLAIN\t" + plain()).attempt
    assert connection.fail(attempt, "gone", code="user_disabled") == b"FAIL\t1\tcode=user_disabled\treason=gone\n"


@pytest.mark.parametrize(
    "account", ["", " ", "a\tb", "a\nOK\t1\tuser=b", "a\x01t", "a\0", "\x85", "\ud800", "x" * 1025]
)
@pytest.mark.parametrize("request_line", [b"AUTH\t1\tPLAIN\t" + plain(), b"AUTH\t1\tXOAUTH2\tresp=" + b64(BEARER)])
def test_an_unfit_account_fails(account, request_line):
    connection = ready()
    answer = connection.succeed(connection.receive_line(request_line).attempt, account)
    assert answer.split(b"\t")[:2] in ([b"FAIL", b"1"], [b"CONT", b"1"]) and answer.count(b"\n") == 1
    if answer.startswith(b"CONT"):
        assert is_fail(connection.receive_line(b"CONT\t1\tAQ==").send, 1)
    assert connection.freeze()[2] == ()


@pytest.mark.parametrize(
    "line",
    [
        b"AUTH\t5",
        b"AUTH\t5\t",
        b"AUTH\t5\tGSSAPI\tresp=",
        b"AUTH\t5\tPLAIN\x00",
        b"AUTH\t5\tPL\xffIN",
        b"AUTH\t5\tPLAIN\tresp=*",
        b"AUTH\t5\tPLAIN\tresp=YQ",
        b"AUTH\t5\tPLAIN\t" + plain() + b"\tsecured",
        b"AUTH\t5\tPLAIN\tresp=" + b64("user\0pass"),
        b"AUTH\t5\tPLAIN\t" + plain(authzid="other"),
        b"AUTH\t5\tPLAIN\t" + plain(user=""),
        b"AUTH\t5\tPLAIN\t" + plain(secret=""),
        b"AUTH\t5\tLOGIN\tresp=" + b64("\xff\0"),
        b"CONT\t5",
        b"CONT\t5\t",
        b"CONT\t5\t" + b64("x"),
        b"CONT\t5\t***",
        b"CONT\t5\tx\ty",
    ],
)
def test_bad_lines_fail_their_id_and_disturb_nobody(line):
    connection = ready()
    connection.receive_line(b"AUTH\t1\tLOGIN")
    before = connection.freeze()
    turn = connection.receive_line(line)
    assert is_fail(turn.send, 5) and turn.attempt is None and not turn.close
    assert connection.freeze() == before
    assert connection.receive_line(b"CONT\t1\t" + b64("user")).send == b"CONT\t1\tUGFzc3dvcmQ6\n"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\t",
        b"\x00",
        b"auth\t5\tPLAIN",
        b"SERVICE\tSMTP",
        b"OK\t1\tuser=root",
        b" AUTH\t5",
        b"AUTH",
        b"AUTH\t",
        b"AUTH\t0\tPLAIN",
        b"AUTH\t-1\tPLAIN",
        b"AUTH\tx\tPLAIN",
        b"AUTH\t01\tPLAIN",
        b"AUTH\t4294967296\tPLAIN",
        b"AUTH\t1\x00\tPLAIN",
        b"AUTH 1 PLAIN",
        b"CONT\t0\t",
        b"CONT",
        b"CANCEL",
        b"CANCEL\t0",
        b"\xff\xfe",
        b"\t" * 60000,
    ],
)
def test_lines_without_an_id_or_a_meaning_are_ignored(line):
    connection = ready()
    connection.receive_line(b"AUTH\t1\tLOGIN")
    before = connection.freeze()
    turn = connection.receive_line(line)
    assert (turn.send, turn.attempt, turn.close) == (b"", None, "") and turn.note
    assert connection.freeze() == before


def test_largest_id():
    connection = ready()
    attempt = connection.receive_line(b"AUTH\t4294967295\tPLAIN\t" + plain()).attempt
    assert connection.succeed(attempt, "u") == b"OK\t4294967295\tuser=u\n"


def test_a_mechanism_that_is_not_offered():
    connection = SaslSession(PASSWORD_MECHANISMS)
    connection.receive_line(b"VERSION\t1\t2"), connection.receive_line(b"CPID\t1")
    assert (
        connection.receive_line(b"AUTH\t1\tXOAUTH2\tresp=" + b64(BEARER)).send
        == b"FAIL\t1\tcode=auth_mech_invalid\treason=unsupported mechanism\n"
    )


# A second command for an id


def in_state(state: State) -> tuple[SaslSession, object]:
    """A connection whose id 5 is in that state, with another id open beside it, and the attempt if one is out."""
    connection = ready()
    connection.receive_line(b"AUTH\t1\tLOGIN")
    attempt = None
    if state is State.TALKING:
        connection.receive_line(b"AUTH\t5\tLOGIN")
    elif state is State.DECIDING:
        attempt = connection.receive_line(b"AUTH\t5\tPLAIN\t" + plain()).attempt
    elif state is State.REFUSED:
        connection.receive_line(b"AUTH\t5\tXOAUTH2\tresp=" + b64("junk"))
    return connection, attempt


def test_every_command_has_a_move_in_every_state():
    assert set(_MOVES) == set(itertools.product([b"AUTH", b"CONT", b"CANCEL"], State))


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize(
    ("line", "outcome"),
    [
        (
            b"AUTH\t5\tPLAIN\t" + plain("other"),
            {State.FREE: "attempt", State.TALKING: "FAIL", State.DECIDING: "FAIL", State.REFUSED: "FAIL"},
        ),
        (
            b"CONT\t5\t" + b64("user"),
            {State.FREE: "FAIL", State.TALKING: "CONT", State.DECIDING: "FAIL", State.REFUSED: "FAIL"},
        ),
        (b"CANCEL\t5", {State.FREE: "", State.TALKING: "", State.DECIDING: "", State.REFUSED: ""}),
        (
            b"CONT\t5\t" + b64("user") + b"\t",
            {State.FREE: "FAIL", State.TALKING: "FAIL", State.DECIDING: "FAIL", State.REFUSED: "FAIL"},
        ),
        (
            b"CONT\t5\t" + b64("\0user\0pass"),
            {State.FREE: "FAIL", State.TALKING: "FAIL", State.DECIDING: "FAIL", State.REFUSED: "FAIL"},
        ),
        (b"CONT\t5\t***", {State.FREE: "FAIL", State.TALKING: "FAIL", State.DECIDING: "FAIL", State.REFUSED: "FAIL"}),
        (b"CONT\t5\t\t", {State.FREE: "FAIL", State.TALKING: "FAIL", State.DECIDING: "FAIL", State.REFUSED: "FAIL"}),
        (b"AUTH\t5", {State.FREE: "FAIL", State.TALKING: "FAIL", State.DECIDING: "FAIL", State.REFUSED: "FAIL"}),
    ],
)
def test_what_a_command_does_in_a_state(state, line, outcome):
    connection, attempt = in_state(state)
    turn = connection.receive_line(line)
    assert ("attempt" if turn.attempt else turn.send.partition(b"\t")[0].decode()) == outcome[state]
    assert turn.send == b"" or turn.send.split(b"\t")[1].strip() == b"5"
    still_open = [frozen[0] for frozen in connection.freeze()[2]]
    assert still_open == ([1, 5] if outcome[state] in ("attempt", "CONT") else [1])
    if attempt:
        assert connection.succeed(attempt, "user") == b""
        assert connection.fail(attempt, "no") == b""
    assert connection.receive_line(b"CONT\t1\t" + b64("user")).send.startswith(b"CONT\t1\t")


def test_an_answer_belongs_to_its_attempt_and_not_to_the_next_of_the_same_id():
    connection = ready()
    first = connection.receive_line(b"AUTH\t5\tPLAIN\t" + plain("good")).attempt
    connection.receive_line(b"CANCEL\t5")
    second = connection.receive_line(b"AUTH\t5\tPLAIN\t" + plain("evil")).attempt
    assert connection.succeed(first, "good") == b""
    assert connection.fail(second, "no") == b"FAIL\t5\treason=no\n"
    assert connection.succeed(second, "evil") == b""


def test_an_answer_given_twice_is_written_once():
    connection = ready()
    attempt = connection.receive_line(b"AUTH\t5\tPLAIN\t" + plain()).attempt
    assert (
        connection.succeed(attempt, "u") and connection.succeed(attempt, "u") == connection.fail(attempt, "no") == b""
    )


def test_answers_in_any_order():
    connection = ready()
    attempts = {
        key: connection.receive_line(b"AUTH\t%d\tPLAIN\t" % key + plain(f"u{key}")).attempt for key in range(1, 6)
    }
    for key in (3, 1, 5, 2, 4):
        assert connection.succeed(attempts[key], f"a{key}") == b"OK\t%d\tuser=a%d\n" % (key, key)


# Everything at once, and state


CONVERSATION = (
    b"CPID\t1\nVERSION\t1\t2\nAUTH\t1\tLOGIN\trip=::1\nAUTH\t2\tPLAIN\t"
    + plain("two")
    + b"\nCONT\t1\t"
    + b64("one")
    + b"\nAUTH\t3\tXOAUTH2\n"
    b"CONT\t1\t" + b64(SECRET) + b"\nCONT\t3\t" + b64(BEARER) + b"\nCONT\t3\tAQ==\nCONT\t7\n\nAUTH\t0\tPLAIN\n"
)


def converse(pieces, park: bool) -> bytes:
    """What the server sends when the client's bytes come in these pieces: passwords are right, tokens are not."""
    connection, buffer, sent = SaslSession(ALL), bytearray(), b""
    for piece in pieces:
        buffer += piece
        while (taken := take_line(buffer)) is not None:
            if park:
                connection = SaslSession.thaw(marshal.loads(marshal.dumps(connection.freeze())), ALL)
            turn = connection.receive_line(taken[0])
            del buffer[: taken[1]]
            sent += turn.send
            if turn.attempt:
                sent += (
                    connection.fail(turn.attempt, "no")
                    if turn.attempt.token
                    else connection.succeed(turn.attempt, turn.attempt.user)
                )
    return sent


@pytest.mark.parametrize("park", [False, True])
def test_fed_whole_byte_by_byte_and_with_trailing_bytes(park):
    whole = converse([CONVERSATION], False)
    assert [line.split(b"\t")[:2] for line in whole.splitlines()] == [
        [b"CONT", b"1"],
        [b"OK", b"2"],
        [b"CONT", b"1"],
        [b"CONT", b"3"],
        [b"OK", b"1"],
        [b"CONT", b"3"],
        [b"FAIL", b"3"],
        [b"FAIL", b"7"],
    ]
    assert b"OK\t1\tuser=one\n" in whole and b"OK\t2\tuser=two\n" in whole
    assert converse([CONVERSATION], park) == whole
    assert converse([bytes((byte,)) for byte in CONVERSATION], park) == whole
    assert converse([CONVERSATION[at : at + 7] for at in range(0, len(CONVERSATION), 7)], park) == whole
    assert converse([CONVERSATION + b"AUTH\t9\tPLAIN\t" + plain()], park) == whole


@pytest.mark.parametrize("state", State)
def test_frozen_state_survives_marshal_and_is_the_whole_of_it(state):
    connection, attempt = in_state(state)
    frozen = connection.freeze()
    again = SaslSession.thaw(marshal.loads(marshal.dumps(frozen)), ALL)
    assert again.freeze() == frozen
    for line in (b"CONT\t5\t" + b64("user"), b"AUTH\t6\tPLAIN\t" + plain(), b"CONT\t5\t" + b64("pass")):
        assert again.receive_line(line) == connection.receive_line(line)
    if attempt:
        connection, attempt = in_state(state)
        assert SaslSession.thaw(connection.freeze(), ALL).succeed(attempt, "u") == b"OK\t5\tuser=u\n"


def test_a_reload_that_drops_a_mechanism_fails_what_is_open_by_it():
    connection = ready()
    connection.receive_line(b"AUTH\t1\tXOAUTH2")
    connection.receive_line(b"AUTH\t2\tLOGIN")
    connection = SaslSession.thaw(connection.freeze(), PASSWORD_MECHANISMS)
    assert is_fail(connection.receive_line(b"CONT\t1\t" + b64(BEARER)).send, 1)
    assert connection.receive_line(b"CONT\t2\t" + b64("user")).send == b"CONT\t2\tUGFzc3dvcmQ6\n"


def test_no_secret_stays_or_shows():
    connection = ready()
    for line in (
        b"AUTH\t1\tPLAIN\t" + plain(),
        b"AUTH\t2\tLOGIN\tresp=" + b64("user"),
        b"CONT\t2\t" + b64(SECRET),
        b"AUTH\t3\tXOAUTH2\tresp=" + b64(BEARER),
        b"AUTH\t4\tXOAUTH2\tresp=" + b64(BEARER[:-1]),
        b"AUTH\t5\tPLAIN\tresp=" + b64(f"{SECRET}\0user"),
        b"CONT\t6\t" + b64(SECRET),
    ):
        turn = connection.receive_line(line)
        for text in (repr(turn), repr(connection), repr(connection.freeze()), turn.note, turn.send.decode()):
            assert SECRET not in text and b64(SECRET).decode() not in text
    connection.receive_line(b"AUTH\t7\tLOGIN\tresp=" + b64("half-way"))
    assert "half-way" in repr(connection.freeze()) and "half-way" not in repr(connection) + repr(
        list(connection._open.values())
    )


# Bounds


def test_ten_thousand_open_ids_are_bounded_and_the_newest_serve():
    connection = ready()
    for key in range(1, 10_001):
        assert connection.receive_line(b"AUTH\t%d\tLOGIN\trip=::1" % key).send == b"CONT\t%d\tVXNlcm5hbWU6\n" % key
    assert len(connection.freeze()[2]) == OPEN_LIMIT
    assert is_fail(connection.receive_line(b"CONT\t1\t" + b64("user")).send, 1)
    assert connection.receive_line(b"CONT\t10000\t" + b64("user")).send == b"CONT\t10000\tUGFzc3dvcmQ6\n"
    assert connection.receive_line(b"AUTH\t10001\tPLAIN\t" + plain()).attempt


def test_one_that_goes_on_talking_is_not_the_one_forgotten():
    connection = ready()
    for key in range(1, OPEN_LIMIT + 1):
        connection.receive_line(b"AUTH\t%d\tLOGIN" % key)
    connection.receive_line(b"CONT\t1\t" + b64("user"))
    connection.receive_line(b"AUTH\t1000\tLOGIN")
    assert connection.receive_line(b"CONT\t1\t" + b64("pass")).attempt.user == "user"
    assert is_fail(connection.receive_line(b"CONT\t2\t" + b64("user")).send, 2)


def test_one_that_goes_on_talking_costs_nobody_else_a_place():
    connection = ready()
    for key in range(1, OPEN_LIMIT + 1):
        connection.receive_line(b"AUTH\t%d\tLOGIN" % key)
    connection.receive_line(b"CONT\t2\t" + b64("user"))
    assert connection.receive_line(b"CONT\t2\t" + b64("pass")).attempt
    assert connection.receive_line(b"CONT\t1\t" + b64("user")).send == b"CONT\t1\tUGFzc3dvcmQ6\n"


def test_user_names_count_too():
    connection = ready()
    for key in range(1, OPEN_LIMIT + 1):
        assert connection.receive_line(b"AUTH\t%d\tLOGIN\tresp=" % key + b64("u" * 1024)).send.startswith(b"CONT")
    assert len(marshal.dumps(connection.freeze())) < STATE_LIMIT
    assert 20 < len(connection.freeze()[2]) < OPEN_LIMIT


def test_attempts_that_are_out_are_never_forgotten():
    connection = ready()
    attempts = [
        connection.receive_line(b"AUTH\t%d\tPLAIN\t" % key + plain()).attempt for key in range(1, OPEN_LIMIT + 1)
    ]
    for line in (b"AUTH\t100\tPLAIN\t" + plain(), b"AUTH\t101\tLOGIN", b"AUTH\t102\tXOAUTH2\tresp=" + b64("junk")):
        turn = connection.receive_line(line)
        assert turn.attempt is None and is_fail(turn.send, int(line.split(b"\t")[1]))
    assert [connection.succeed(attempt, "u") for attempt in attempts] == [
        b"OK\t%d\tuser=u\n" % attempt.id for attempt in attempts
    ]
    assert connection.receive_line(b"AUTH\t103\tPLAIN\t" + plain()).attempt


def test_hostile_parameters_are_bounded():
    connection = ready()
    largest = dovecot_lines.VALUE_LIMIT * b"v"
    hostile = b"".join(b"\t%s=%s" % (key.encode(), largest) for key in sorted(dovecot_lines.KEPT)) + b"".join(
        b"\tk%d=%s" % (n, largest) for n in range(45)
    )
    for key in range(1, 101):
        line = b"AUTH\t%d\tLOGIN" % key + hostile
        assert len(line) <= 65536
        assert connection.receive_line(line).send.startswith(b"CONT\t%d\t" % key)
        connection.receive_line(b"CONT\t%d\t" % key + b64("u" * 1024))
        assert len(marshal.dumps(connection.freeze())) < STATE_LIMIT + 4096
    assert connection.receive_line(b"CONT\t100\t" + b64("p")).attempt.user == "u" * 1024


@pytest.mark.parametrize(
    "line",
    [
        b"AUTH\t1\tPLAIN\trip=%s\tclient_id=%s\t" + plain(),
        b"AUTH\t1\t%s%s",
        b"CONT\t1\t%s%s",
        b"VERSION%s\t1\t%s",
        b"%s\t%s",
    ],
)
@pytest.mark.parametrize("poison", [b"\x00", b"\x01t", b"\x01n", b"\n", b"\xff", b"\t"])
def test_nothing_poisonous_comes_back(line, poison):
    turn = ready().receive_line(line % (poison, poison))
    assert turn.send.count(b"\n") <= 1 and not set(turn.send) & {0, 1, 13}
    assert turn.send == b"" or turn.send.split(b"\t")[1].strip() == b"1"
    assert turn.attempt is None or not any(turn.attempt.parameters.values())

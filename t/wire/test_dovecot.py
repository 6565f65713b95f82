"""SaslSession, command by command and state by state. The tests take the part of the backend."""

from __future__ import annotations

import base64
import itertools
import json
import marshal

import pytest

from pfxhttpd.wire import dovecot_lines
from pfxhttpd.wire.dovecot import _TRANSITIONS, OPEN_LIMIT, STATE_LIMIT, LineResult, SaslSession
from pfxhttpd.wire.dovecot_exchange import State
from pfxhttpd.wire.dovecot_lines import take_line
from pfxhttpd.wire.mechanisms import PASSWORD_MECHANISMS, TOKEN_MECHANISMS

ALL = PASSWORD_MECHANISMS + TOKEN_MECHANISMS
SECRET = "s3cr3t-marker"
BEARER = b"user=u\x01auth=Bearer " + SECRET.encode() + b"\x01\x01"
NAMELESS = b"n,,\x01auth=Bearer " + SECRET.encode() + b"\x01\x01"


def b64(message: bytes | str) -> bytes:
    return base64.b64encode(message.encode() if isinstance(message, str) else message)


def ready(**options) -> SaslSession:
    session = SaslSession(ALL, **options)
    assert session.receive_line(b"VERSION\t1\t2") == LineResult()
    assert session.receive_line(b"CPID\t4711") == LineResult()
    return session


def plain(user="user", secret=SECRET, authzid="") -> bytes:
    return b"resp=" + b64(f"{authzid}\0{user}\0{secret}")


def is_fail(answer: bytes, key: int) -> bool:
    fields = answer.removesuffix(b"\n").split(b"\t")
    return answer.count(b"\n") == 1 and fields[:2] == [b"FAIL", b"%d" % key]


# Handshake


@pytest.mark.parametrize("lines", list(itertools.permutations([b"VERSION\t1\t2", b"CPID\t1", b"SERVICE\tSMTP"])))
def test_handshake_in_any_order(lines) -> None:
    session = SaslSession(ALL)
    for line in lines:
        result = session.receive_line(line)
        assert not result.send and not result.close
    assert session.receive_line(b"AUTH\t1\tPLAIN\t" + plain()).attempt


@pytest.mark.parametrize("line", [b"VERSION\t1\t1", b"VERSION\t1", b"VERSION\t1\t99\tx", b"VERSION\t1\t"])
def test_any_minor_version_is_accepted(line) -> None:
    session = SaslSession(ALL)
    assert session.receive_line(line) == LineResult()
    session.receive_line(b"CPID\t1")
    assert session.receive_line(b"AUTH\t1\tPLAIN\t" + plain()).attempt


@pytest.mark.parametrize(
    "line",
    [b"VERSION\t2\t0", b"VERSION\t0\t1", b"VERSION", b"VERSION\t", b"VERSION\t11", b"VERSION\t1 \t2", b"VERSION\t\x00"],
)
@pytest.mark.parametrize("session", [SaslSession(ALL), ready()], ids=["new", "ready"])
def test_another_major_version_closes_the_connection(session, line) -> None:
    result = session.receive_line(line)
    assert result.close and not result.send


@pytest.mark.parametrize(
    "before", [[], [b"VERSION\t1\t2"], [b"CPID\t1"], [b"CPID\t1", b"CPID\t1"], [b"VERSION\t1\t1", b"VERSION\t1\t2"]]
)
def test_no_exchange_is_opened_before_the_handshake(before) -> None:
    session = SaslSession(ALL)
    for line in before:
        session.receive_line(line)
    empty = session.freeze()
    for line in (b"AUTH\t3\tPLAIN\t" + plain(), b"AUTH\t3\tLOGIN", b"CONT\t3\t" + b64("x")):
        result = session.receive_line(line)
        assert is_fail(result.send, 3) and result.attempt is None
    assert session.receive_line(b"CANCEL\t3") == LineResult()
    assert session.freeze() == empty


# One exchange


def test_plain_with_an_initial_response() -> None:
    session = ready()
    result = session.receive_line(
        b"AUTH\t1\tPLAIN\tservice=smtp\tnologin\tlip=::1\trip=::2\tsecured\t" + plain("jürgen", "pä ß")
    )
    attempt = result.attempt
    assert (result.send, result.close, result.note) == (b"", "", "")
    assert (attempt.id, attempt.mechanism, attempt.user, attempt.secret, attempt.token) == (
        1,
        "PLAIN",
        "jürgen",
        "pä ß",
        False,
    )
    assert attempt.parameters == {"service": "smtp", "lip": "::1", "rip": "::2", "secured": ""}
    assert session.succeed(attempt, "jürgen@example.org") == "OK\t1\tuser=jürgen@example.org\n".encode()
    assert session.freeze() == ((), 1, ())


@pytest.mark.parametrize("resp", [b"", b"\tresp=", b"\tresp=="])
def test_plain_without_an_initial_response(resp) -> None:
    session = ready()
    assert session.receive_line(b"AUTH\t1\tPLAIN\trip=::2" + resp) == LineResult(b"CONT\t1\t\n")
    attempt = session.receive_line(b"CONT\t1\t" + b64("user\0user\0pass")).attempt
    assert (attempt.user, attempt.secret, attempt.parameters) == ("user", "pass", {"rip": "::2"})


@pytest.mark.parametrize("resp", [b"", b"\tresp=", b"\tresp=="])
def test_login_without_an_initial_response(resp) -> None:
    session = ready()
    assert session.receive_line(b"AUTH\t1\tLOGIN\trip=::2" + resp) == LineResult(b"CONT\t1\tVXNlcm5hbWU6\n")
    assert session.receive_line(b"CONT\t1\t" + b64("user")) == LineResult(b"CONT\t1\tUGFzc3dvcmQ6\n")
    attempt = session.receive_line(b"CONT\t1\t" + b64("pass")).attempt
    assert (attempt.mechanism, attempt.user, attempt.secret, attempt.parameters) == (
        "LOGIN",
        "user",
        "pass",
        {"rip": "::2"},
    )


def test_login_with_an_initial_response_and_in_lower_case() -> None:
    session = ready()
    assert session.receive_line(b"AUTH\t9\tlogin\tresp=" + b64("user")) == LineResult(b"CONT\t9\tUGFzc3dvcmQ6\n")
    attempt = session.receive_line(b"CONT\t9\t" + b64("pass")).attempt
    assert (attempt.mechanism, attempt.user, attempt.secret) == ("LOGIN", "user", "pass")


@pytest.mark.parametrize("user", [b"", b"\xff", b"a\0b", b"u" * 1025])
def test_login_does_not_ask_for_the_password_of_an_invalid_user(user) -> None:
    session = ready()
    session.receive_line(b"AUTH\t1\tLOGIN")
    assert is_fail(session.receive_line(b"CONT\t1\t" + b64(user)).send, 1)
    assert session.freeze() == ready().freeze()


@pytest.mark.parametrize(("mechanism", "message", "user"), [(b"XOAUTH2", BEARER, "u"), (b"OAUTHBEARER", NAMELESS, "")])
@pytest.mark.parametrize("length", [10, 12288, 40000])
def test_long_tokens_arrive_by_cont(mechanism, message, user, length) -> None:
    session = ready()
    assert session.receive_line(b"AUTH\t1\t" + mechanism).send == b"CONT\t1\t\n"
    attempt = session.receive_line(b"CONT\t1\t" + b64(message.replace(SECRET.encode(), b"t" * length))).attempt
    assert (attempt.user, attempt.secret, attempt.token) == (user, "t" * length, True)
    assert session.succeed(attempt, "sub") == b"OK\t1\tuser=sub\n"


CHALLENGES = {
    b"XOAUTH2": {"status": "401", "schemes": "bearer", "scope": "mail"},
    b"OAUTHBEARER": {
        "status": "invalid_token",
        "schemes": "bearer",
        "scope": "mail",
        "openid-configuration": "https://op/x",
    },
}


@pytest.mark.parametrize(("mechanism", "message"), [(b"XOAUTH2", BEARER), (b"OAUTHBEARER", NAMELESS)])
@pytest.mark.parametrize("acknowledgement", [b"", b"\t", b"\tAQ==", b"\t****", b"\tAQ==\tx"])
def test_a_refused_token_gets_the_challenge_and_then_fail(mechanism, message, acknowledgement) -> None:
    session = ready(scope="mail", discovery="https://op/x")
    attempt = session.receive_line(b"AUTH\t5\t" + mechanism + b"\tresp=" + b64(message)).attempt
    answer = session.fail(attempt, "token expired").removesuffix(b"\n").split(b"\t")
    assert answer[:2] == [b"CONT", b"5"] and len(answer) == 3
    assert json.loads(base64.b64decode(answer[2])) == CHALLENGES[mechanism]
    user = b"user=u\t" if mechanism == b"XOAUTH2" else b""
    session = SaslSession.thaw(marshal.loads(marshal.dumps(session.freeze())), ALL)
    assert session.receive_line(b"CONT\t5" + acknowledgement).send == b"FAIL\t5\t" + user + b"reason=token expired\n"
    assert is_fail(session.receive_line(b"CONT\t5\tAQ==").send, 5)
    assert session.freeze()[2] == ()


@pytest.mark.parametrize(("mechanism", "status"), [(b"XOAUTH2", "400"), (b"OAUTHBEARER", "invalid_request")])
def test_a_malformed_token_message_gets_the_challenge_and_then_fail(mechanism, status) -> None:
    session = ready()
    answer = session.receive_line(b"AUTH\t5\t" + mechanism + b"\tresp=" + b64("junk")).send
    assert answer.startswith(b"CONT\t5\t")
    assert json.loads(base64.b64decode(answer.split(b"\t")[2]))["status"] == status
    assert is_fail(session.receive_line(b"CONT\t5\tAQ==").send, 5)


def test_a_token_that_could_not_be_verified_fails_without_a_challenge() -> None:
    session = ready()
    attempt = session.receive_line(b"AUTH\t5\tXOAUTH2\tresp=" + b64(BEARER)).attempt
    assert (
        session.fail(attempt, "provider unreachable", temp=True)
        == b"FAIL\t5\tuser=u\ttemp\tcode=temp_fail\treason=provider unreachable\n"
    )
    assert session.freeze()[2] == ()


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        ("wrong password", b"FAIL\t1\tuser=user\treason=wrong password\n"),
        ("", b"FAIL\t1\tuser=user\n"),
        ("a\tb\nOK\t1\tuser=root\r\x00\x01", b"FAIL\t1\tuser=user\treason=a b OK 1 user=root\n"),
        ("x" * 500, b"FAIL\t1\tuser=user\treason=" + b"x" * 197 + b"...\n"),
        ("\ud800ü", "FAIL\t1\tuser=user\treason=ü\n".encode()),
    ],
)
def test_reasons_are_one_clean_line(reason, line) -> None:
    session = ready()
    attempt = session.receive_line(b"AUTH\t1\tPLAIN\t" + plain()).attempt
    assert session.fail(attempt, reason) == line


@pytest.mark.parametrize("temp", [False, True])
def test_fail_names_the_user_as_given_where_that_is_clean(temp: bool) -> None:
    rest = b"temp\tcode=temp_fail\treason=no\n" if temp else b"reason=no\n"
    for user, named in (
        ("Ann Smith ", "user=Ann Smith \t"),
        ("jürgen", "user=jürgen\t"),
        ("a=b", "user=a=b\t"),
        ("a\tuser=root", ""),
        ("a\nOK\t1\tuser=root", ""),
        ("\x01t", ""),
        (" ", ""),
        ("a\x85", ""),
    ):
        session = ready()
        attempt = session.receive_line(b"AUTH\t1\tPLAIN\t" + plain(user)).attempt
        assert session.fail(attempt, "no", temp=temp) == b"FAIL\t1\t" + named.encode() + rest


@pytest.mark.parametrize(
    "account", ["", " ", "a\tb", "a\nOK\t1\tuser=b", "a\x01t", "a\0", "\x85", "\ud800", "x" * 1025]
)
@pytest.mark.parametrize("request_line", [b"AUTH\t1\tPLAIN\t" + plain(), b"AUTH\t1\tXOAUTH2\tresp=" + b64(BEARER)])
def test_an_unfit_account_fails(account, request_line) -> None:
    session = ready()
    answer = session.succeed(session.receive_line(request_line).attempt, account)
    assert answer.split(b"\t")[:2] in ([b"FAIL", b"1"], [b"CONT", b"1"]) and answer.count(b"\n") == 1
    if answer.startswith(b"CONT"):
        assert is_fail(session.receive_line(b"CONT\t1\tAQ==").send, 1)
    assert session.freeze()[2] == ()


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
def test_bad_lines_fail_their_id_and_no_other(line) -> None:
    session = ready()
    session.receive_line(b"AUTH\t1\tLOGIN")
    before = session.freeze()
    result = session.receive_line(line)
    assert is_fail(result.send, 5) and result.attempt is None and not result.close
    assert session.freeze() == before
    assert session.receive_line(b"CONT\t1\t" + b64("user")).send == b"CONT\t1\tUGFzc3dvcmQ6\n"


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
def test_unknown_commands_and_lines_without_an_id_are_ignored(line) -> None:
    session = ready()
    session.receive_line(b"AUTH\t1\tLOGIN")
    before = session.freeze()
    result = session.receive_line(line)
    assert (result.send, result.attempt, result.close) == (b"", None, "") and result.note
    assert session.freeze() == before


def test_largest_id() -> None:
    session = ready()
    attempt = session.receive_line(b"AUTH\t4294967295\tPLAIN\t" + plain()).attempt
    assert session.succeed(attempt, "u") == b"OK\t4294967295\tuser=u\n"


def test_a_mechanism_that_is_not_offered() -> None:
    session = SaslSession(PASSWORD_MECHANISMS)
    session.receive_line(b"VERSION\t1\t2"), session.receive_line(b"CPID\t1")
    assert (
        session.receive_line(b"AUTH\t1\tXOAUTH2\tresp=" + b64(BEARER)).send
        == b"FAIL\t1\tcode=auth_mech_invalid\treason=unsupported mechanism\n"
    )


# A further command for the same id


def in_state(state: State) -> tuple[SaslSession, object]:
    """A session in which id 5 is in that state and id 1 is open as well, and the attempt that was handed out, if any."""
    session = ready()
    session.receive_line(b"AUTH\t1\tLOGIN")
    attempt = None
    if state is State.AWAITING_CLIENT:
        session.receive_line(b"AUTH\t5\tLOGIN")
    elif state is State.AWAITING_BACKEND:
        attempt = session.receive_line(b"AUTH\t5\tPLAIN\t" + plain()).attempt
    elif state is State.AWAITING_ACKNOWLEDGEMENT:
        session.receive_line(b"AUTH\t5\tXOAUTH2\tresp=" + b64("junk"))
    return session, attempt


def test_every_command_has_a_transition_in_every_state() -> None:
    assert set(_TRANSITIONS) == set(itertools.product([b"AUTH", b"CONT", b"CANCEL"], State))


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize(
    ("line", "outcome"),
    [
        (
            b"AUTH\t5\tPLAIN\t" + plain("other"),
            {
                State.FREE: "attempt",
                State.AWAITING_CLIENT: "FAIL",
                State.AWAITING_BACKEND: "FAIL",
                State.AWAITING_ACKNOWLEDGEMENT: "FAIL",
            },
        ),
        (
            b"CONT\t5\t" + b64("user"),
            {
                State.FREE: "FAIL",
                State.AWAITING_CLIENT: "CONT",
                State.AWAITING_BACKEND: "FAIL",
                State.AWAITING_ACKNOWLEDGEMENT: "FAIL",
            },
        ),
        (
            b"CANCEL\t5",
            {State.FREE: "", State.AWAITING_CLIENT: "", State.AWAITING_BACKEND: "", State.AWAITING_ACKNOWLEDGEMENT: ""},
        ),
        (
            b"CONT\t5\t" + b64("user") + b"\t",
            {
                State.FREE: "FAIL",
                State.AWAITING_CLIENT: "FAIL",
                State.AWAITING_BACKEND: "FAIL",
                State.AWAITING_ACKNOWLEDGEMENT: "FAIL",
            },
        ),
        (
            b"CONT\t5\t" + b64("\0user\0pass"),
            {
                State.FREE: "FAIL",
                State.AWAITING_CLIENT: "FAIL",
                State.AWAITING_BACKEND: "FAIL",
                State.AWAITING_ACKNOWLEDGEMENT: "FAIL",
            },
        ),
        (
            b"CONT\t5\t***",
            {
                State.FREE: "FAIL",
                State.AWAITING_CLIENT: "FAIL",
                State.AWAITING_BACKEND: "FAIL",
                State.AWAITING_ACKNOWLEDGEMENT: "FAIL",
            },
        ),
        (
            b"CONT\t5\t\t",
            {
                State.FREE: "FAIL",
                State.AWAITING_CLIENT: "FAIL",
                State.AWAITING_BACKEND: "FAIL",
                State.AWAITING_ACKNOWLEDGEMENT: "FAIL",
            },
        ),
        (
            b"AUTH\t5",
            {
                State.FREE: "FAIL",
                State.AWAITING_CLIENT: "FAIL",
                State.AWAITING_BACKEND: "FAIL",
                State.AWAITING_ACKNOWLEDGEMENT: "FAIL",
            },
        ),
    ],
)
def test_what_a_command_does_in_a_state(state, line, outcome) -> None:
    session, attempt = in_state(state)
    result = session.receive_line(line)
    assert ("attempt" if result.attempt else result.send.partition(b"\t")[0].decode()) == outcome[state]
    assert result.send == b"" or result.send.split(b"\t")[1].strip() == b"5"
    still_open = [frozen[0] for frozen in session.freeze()[2]]
    assert still_open == ([1, 5] if outcome[state] in ("attempt", "CONT") else [1])
    if attempt:
        assert session.succeed(attempt, "user") == b""
        assert session.fail(attempt, "no") == b""
    assert session.receive_line(b"CONT\t1\t" + b64("user")).send.startswith(b"CONT\t1\t")


def test_a_result_belongs_to_its_attempt_and_not_to_the_next_one_with_the_same_id() -> None:
    session = ready()
    first = session.receive_line(b"AUTH\t5\tPLAIN\t" + plain("good")).attempt
    session.receive_line(b"CANCEL\t5")
    second = session.receive_line(b"AUTH\t5\tPLAIN\t" + plain("evil")).attempt
    assert session.succeed(first, "good") == b""
    assert session.fail(second, "no") == b"FAIL\t5\tuser=evil\treason=no\n"
    assert session.succeed(second, "evil") == b""


def test_a_result_given_twice_is_sent_once() -> None:
    session = ready()
    attempt = session.receive_line(b"AUTH\t5\tPLAIN\t" + plain()).attempt
    assert session.succeed(attempt, "u") and session.succeed(attempt, "u") == session.fail(attempt, "no") == b""


def test_results_in_any_order() -> None:
    session = ready()
    attempts = {key: session.receive_line(b"AUTH\t%d\tPLAIN\t" % key + plain(f"u{key}")).attempt for key in range(1, 6)}
    for key in (3, 1, 5, 2, 4):
        assert session.succeed(attempts[key], f"a{key}") == b"OK\t%d\tuser=a%d\n" % (key, key)


# Several exchanges at once, and the frozen state


CONVERSATION = (
    b"CPID\t1\nVERSION\t1\t2\nAUTH\t1\tLOGIN\trip=::1\nAUTH\t2\tPLAIN\t"
    + plain("two")
    + b"\nCONT\t1\t"
    + b64("one")
    + b"\nAUTH\t3\tXOAUTH2\n"
    b"CONT\t1\t" + b64(SECRET) + b"\nCONT\t3\t" + b64(BEARER) + b"\nCONT\t3\tAQ==\nCONT\t7\n\nAUTH\t0\tPLAIN\n"
)


def converse(pieces, park: bool) -> bytes:
    """What the server sends when the client's bytes arrive in these pieces. Passwords are valid, tokens are not."""
    session, buffer, sent = SaslSession(ALL), bytearray(), b""
    for piece in pieces:
        buffer += piece
        while (taken := take_line(buffer)) is not None:
            if park:
                session = SaslSession.thaw(marshal.loads(marshal.dumps(session.freeze())), ALL)
            result = session.receive_line(taken[0])
            del buffer[: taken[1]]
            sent += result.send
            if result.attempt:
                sent += (
                    session.fail(result.attempt, "no")
                    if result.attempt.token
                    else session.succeed(result.attempt, result.attempt.user)
                )
    return sent


@pytest.mark.parametrize("park", [False, True])
def test_the_split_of_the_input_does_not_matter(park) -> None:
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
def test_the_frozen_state_survives_marshal_and_is_complete(state) -> None:
    session, attempt = in_state(state)
    frozen = session.freeze()
    again = SaslSession.thaw(marshal.loads(marshal.dumps(frozen)), ALL)
    assert again.freeze() == frozen
    for line in (b"CONT\t5\t" + b64("user"), b"AUTH\t6\tPLAIN\t" + plain(), b"CONT\t5\t" + b64("pass")):
        assert again.receive_line(line) == session.receive_line(line)
    if attempt:
        session, attempt = in_state(state)
        assert SaslSession.thaw(session.freeze(), ALL).succeed(attempt, "u") == b"OK\t5\tuser=u\n"


def test_a_reload_that_removes_a_mechanism_fails_its_open_exchanges() -> None:
    session = ready()
    session.receive_line(b"AUTH\t1\tXOAUTH2")
    session.receive_line(b"AUTH\t2\tLOGIN")
    session = SaslSession.thaw(session.freeze(), PASSWORD_MECHANISMS)
    assert is_fail(session.receive_line(b"CONT\t1\t" + b64(BEARER)).send, 1)
    assert session.receive_line(b"CONT\t2\t" + b64("user")).send == b"CONT\t2\tUGFzc3dvcmQ6\n"


def test_no_secret_is_kept_or_shown() -> None:
    session = ready()
    for line in (
        b"AUTH\t1\tPLAIN\t" + plain(),
        b"AUTH\t2\tLOGIN\tresp=" + b64("user"),
        b"CONT\t2\t" + b64(SECRET),
        b"AUTH\t3\tXOAUTH2\tresp=" + b64(BEARER),
        b"AUTH\t4\tXOAUTH2\tresp=" + b64(BEARER[:-1]),
        b"AUTH\t5\tPLAIN\tresp=" + b64(f"{SECRET}\0user"),
        b"CONT\t6\t" + b64(SECRET),
    ):
        result = session.receive_line(line)
        for text in (repr(result), repr(session), repr(session.freeze()), result.note, result.send.decode()):
            assert SECRET not in text and b64(SECRET).decode() not in text
    session.receive_line(b"AUTH\t7\tLOGIN\tresp=" + b64("half-way"))
    assert "half-way" in repr(session.freeze()) and "half-way" not in repr(session) + repr(list(session._open.values()))


# Limits


def test_ten_thousand_open_ids_are_bounded_and_the_newest_are_kept() -> None:
    session = ready()
    for key in range(1, 10_001):
        assert session.receive_line(b"AUTH\t%d\tLOGIN\trip=::1" % key).send == b"CONT\t%d\tVXNlcm5hbWU6\n" % key
    assert len(session.freeze()[2]) == OPEN_LIMIT
    assert is_fail(session.receive_line(b"CONT\t1\t" + b64("user")).send, 1)
    assert session.receive_line(b"CONT\t10000\t" + b64("user")).send == b"CONT\t10000\tUGFzc3dvcmQ6\n"
    assert session.receive_line(b"AUTH\t10001\tPLAIN\t" + plain()).attempt


def test_the_least_recently_used_exchange_is_discarded() -> None:
    session = ready()
    for key in range(1, OPEN_LIMIT + 1):
        session.receive_line(b"AUTH\t%d\tLOGIN" % key)
    session.receive_line(b"CONT\t1\t" + b64("user"))
    session.receive_line(b"AUTH\t1000\tLOGIN")
    assert session.receive_line(b"CONT\t1\t" + b64("pass")).attempt.user == "user"
    assert is_fail(session.receive_line(b"CONT\t2\t" + b64("user")).send, 2)


def test_continuing_an_exchange_discards_no_other() -> None:
    session = ready()
    for key in range(1, OPEN_LIMIT + 1):
        session.receive_line(b"AUTH\t%d\tLOGIN" % key)
    session.receive_line(b"CONT\t2\t" + b64("user"))
    assert session.receive_line(b"CONT\t2\t" + b64("pass")).attempt
    assert session.receive_line(b"CONT\t1\t" + b64("user")).send == b"CONT\t1\tUGFzc3dvcmQ6\n"


def test_user_names_count_towards_the_size() -> None:
    session = ready()
    for key in range(1, OPEN_LIMIT + 1):
        assert session.receive_line(b"AUTH\t%d\tLOGIN\tresp=" % key + b64("u" * 1024)).send.startswith(b"CONT")
    assert len(marshal.dumps(session.freeze())) < STATE_LIMIT
    assert 20 < len(session.freeze()[2]) < OPEN_LIMIT


def test_exchanges_that_await_the_backend_are_never_discarded() -> None:
    session = ready()
    attempts = [session.receive_line(b"AUTH\t%d\tPLAIN\t" % key + plain()).attempt for key in range(1, OPEN_LIMIT + 1)]
    for line in (b"AUTH\t100\tPLAIN\t" + plain(), b"AUTH\t101\tLOGIN", b"AUTH\t102\tXOAUTH2\tresp=" + b64("junk")):
        result = session.receive_line(line)
        assert result.attempt is None and is_fail(result.send, int(line.split(b"\t")[1]))
    assert [session.succeed(attempt, "u") for attempt in attempts] == [
        b"OK\t%d\tuser=u\n" % attempt.id for attempt in attempts
    ]
    assert session.receive_line(b"AUTH\t103\tPLAIN\t" + plain()).attempt


def test_hostile_parameters_are_bounded() -> None:
    session = ready()
    largest = dovecot_lines.VALUE_LIMIT * b"v"
    hostile = b"".join(
        b"\t%s=%s" % (key.encode(), largest) for key in sorted(dovecot_lines.AUTH_PARAMETERS)
    ) + b"".join(b"\tk%d=%s" % (n, largest) for n in range(45))
    for key in range(1, 101):
        line = b"AUTH\t%d\tLOGIN" % key + hostile
        assert len(line) <= 65536
        assert session.receive_line(line).send.startswith(b"CONT\t%d\t" % key)
        session.receive_line(b"CONT\t%d\t" % key + b64("u" * 1024))
        assert len(marshal.dumps(session.freeze())) < STATE_LIMIT + 4096
    assert session.receive_line(b"CONT\t100\t" + b64("p")).attempt.user == "u" * 1024


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
@pytest.mark.parametrize("control_bytes", [b"\x00", b"\x01t", b"\x01n", b"\n", b"\xff", b"\t"])
def test_no_control_byte_of_the_client_is_sent_back(line, control_bytes) -> None:
    result = ready().receive_line(line % (control_bytes, control_bytes))
    assert result.send.count(b"\n") <= 1 and not set(result.send) & {0, 1, 13}
    assert result.send == b"" or result.send.split(b"\t")[1].strip() == b"1"
    assert result.attempt is None or not any(result.attempt.parameters.values())

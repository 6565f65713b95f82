"""What no honest client sends, at the real daemon: its own id fails or its connection closes, and nobody else notices."""

from __future__ import annotations

import base64
import contextlib
import random
import re
import select
import socket
import string
from collections.abc import Iterator

import pytest
from kit.answer import Answer, Request
from kit.backend import Backend, ThreadBackend
from kit.clients import Sasl
from kit.logins import ACCOUNT, ANSWERS, RIGHT, WRONG, Logins, login
from kit.needs import needs
from kit.proc import private_memory

LIMIT = 65536
"""Bytes of a line, its line feed not counted."""
OPEN_LIMIT = 64
"""Exchanges that are kept open on one connection."""
MEGABYTE = 1 << 20
OK = f"user={ACCOUNT}"


@pytest.fixture(scope="module")
def site(backend: Backend) -> Iterator[Logins]:
    backend.answer("/login", ANSWERS)
    with Logins({"login": login(backend.url("/login"))}, level="info") as started:
        yield started


@pytest.fixture(autouse=True)
def undisturbed(site: Logins, same_workers: None) -> Iterator[None]:
    """Somebody else is logging in all the while: half before, half after."""
    other = site.client("login")
    assert other.auth("LOGIN", "bystander").startswith("CONT")
    yield
    assert other.cont(RIGHT) == f"OK\t1\t{OK}"
    other.close()


@pytest.fixture(params=[False, True], ids=["tcp", "unix"])
def client(site: Logins, request: pytest.FixtureRequest) -> Iterator[Sasl]:
    with site.client("login", unix=request.param) as connected:
        yield connected


def coded(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def plain(password: str = RIGHT, user: str = "ann") -> str:
    return coded(f"\0{user}\0{password}")


def alive(client: Sasl, number: int = 999) -> bool:
    """Whether the connection still serves, by a login whose answer is the next line."""
    client.send_line(f"AUTH\t{number}\tPLAIN\tresp={plain()}")
    return client.line() == f"OK\t{number}\t{OK}"


def size(site: Logins) -> int:
    """The memory of all its processes, which root alone may look at."""
    needs("root")
    return private_memory(site.daemon.pid, *site.daemon.children())


# Long lines


@pytest.mark.parametrize("begin", [b"", b"x", b"AUTH\t1\tPLAIN\tresp=", b"AUTH\t1\tPLAIN\tservice=", b"\0", b"\t"])
def test_a_line_over_64_kib_closes(client: Sasl, begin: bytes):
    client.send_raw(begin.ljust(LIMIT, b"x"))
    assert client.quiet(0.05), "it may still end"
    client.send_raw(b"x")
    assert client.closed()


@pytest.mark.parametrize("rest", [1, 100, LIMIT, 10 * LIMIT])
def test_a_long_line_in_one_piece_closes(client: Sasl, rest: int):
    try:
        client.send_raw(b"AUTH\t1\tPLAIN\tresp=".ljust(LIMIT + rest, b"A") + b"\n")
    except (BrokenPipeError, ConnectionResetError):
        pass
    assert client.closed()


def test_the_longest_line_is_a_login_like_any_other(client: Sasl):
    """Filled up with a parameter that nobody knows, byte by byte to the limit."""
    line = f"AUTH\t1\tPLAIN\tforward_views=\tresp={plain()}"
    filled = line.replace("views=", "views=" + "x" * (LIMIT - len(line)))
    assert len(filled) == LIMIT
    client.send_line(filled)
    assert client.line() == f"OK\t1\t{OK}"


def test_a_long_response_by_cont(client: Sasl, backend: Backend):
    """A password of 12288 bytes and one that fills the line."""
    for length in (12288, 3 * (LIMIT - 100) // 4):
        backend.forget()
        assert client.auth("PLAIN").startswith("CONT")
        assert client.cont(f"\0ann\0{'x' * length}").startswith(f"FAIL\t{client.last_id}\t")
        assert backend.requests()[0].json()["password"] == "x" * length
    assert alive(client)


def test_many_long_lines_cost_no_memory(site: Logins):
    """Twenty clients with a line of nearly 64 KiB each, unfinished: what they sent, and no more than a few times that."""
    before = size(site)
    clients = [site.client("login") for _ in range(20)]
    for client in clients:
        client.send_raw(b"AUTH\t1\tPLAIN\tresp=".ljust(LIMIT - 100, b"A"))
    with site.client("login") as client:
        assert alive(client)
    during = size(site)
    for client in clients:
        client.close()
    assert during - before < 20 * 4 * LIMIT + 8 * MEGABYTE


# Ids


def test_ten_thousand_open_ids(site: Logins):
    client = site.client("login")
    before = size(site)
    for start in range(1, 10_001, 100):
        client.send_raw(
            b"".join(b"AUTH\t%d\tLOGIN\tservice=smtp\trip=192.0.2.1\n" % number for number in range(start, start + 100))
        )
        for number in range(start, start + 100):
            assert client.line() == f"CONT\t{number}\tVXNlcm5hbWU6"
    assert size(site) - before < 8 * MEGABYTE
    # The one that was touched last is there, the first are forgotten, and the count between them is bounded.
    assert client.cont("ann", 10_000) == "CONT\t10000\tUGFzc3dvcmQ6"
    assert client.cont(RIGHT, 10_000) == f"OK\t10000\t{OK}"
    assert client.cont("ann", 1).startswith("FAIL\t1\t")
    kept = sum(client.cont("ann", number).startswith("CONT") for number in range(9_800, 10_000))
    assert kept == OPEN_LIMIT - 1
    assert alive(client)
    client.close()


def test_ids_that_are_none(client: Sasl):
    for number in (
        "0",
        "-1",
        "+1",
        "01",
        " 1",
        "1 ",
        "",
        "x",
        "4294967296",
        "99999999999999999999",
        "1.0",
        "\u0661",
        "\0",
        "1\0",
    ):
        client.send_line(f"AUTH\t{number}\tPLAIN\tresp={plain()}")
        client.send_line(f"CONT\t{number}\t{coded('x')}")
    client.send_raw(b"AUTH\nCONT\nCANCEL\n\n\t\n\t\t\t\nAUTH\t\xff\n")
    assert alive(client, 4294967295)


def test_ids_that_are_not_open(client: Sasl):
    assert client.cont("x", 5) == "FAIL\t5\treason=unknown or expired request"
    client.send_line("CANCEL\t5")
    assert client.plain("ann", RIGHT) == f"OK\t1\t{OK}"
    assert client.cont("x", 1).startswith("FAIL\t1\t"), "it is over"
    assert client.auth("LOGIN").startswith("CONT\t2")
    client.send_line("CANCEL\t2")
    assert client.cont("ann", 2).startswith("FAIL\t2\t")
    assert alive(client)


def test_an_id_in_use(client: Sasl):
    """Neither of the two goes on: whose answer would it be?"""
    assert client.auth("LOGIN", "ann").startswith("CONT\t1")
    client.send_line(f"AUTH\t1\tPLAIN\tresp={plain()}")
    assert client.line() == "FAIL\t1\treason=request id in use"
    assert client.cont(RIGHT, 1).startswith("FAIL\t1\t")
    assert alive(client)


def test_one_id_fails_and_the_others_go_on(client: Sasl):
    for number in (1, 2, 3):
        client.send_line(f"AUTH\t{number}\tLOGIN\tresp={coded('ann')}")
        assert client.line().startswith(f"CONT\t{number}\t")
    client.send_line("CONT\t2\t****")
    assert client.line() == "FAIL\t2\treason=bad base64"
    assert client.cont(WRONG, 3).startswith("FAIL\t3\t")
    assert client.cont(RIGHT, 1) == f"OK\t1\t{OK}"


# Fields


FIELDS = ["AUTH", "7", "PLAIN", "service=smtp", "rip=192.0.2.1", "lip=192.0.2.2", "rport=1", "lport=25", "secured",
          "client_id=x", "local_name=y", "session=z", f"resp={plain()}"]  # fmt: skip


@pytest.mark.parametrize("what", ["\0", "\t", "\0\0", "\t\t", "\x01", "\x010", "\x01t", "\r", "\x01n", "\x80", "="])
def test_odd_bytes_in_every_field(client: Sasl, backend: Backend, what: str):
    """At the start, in the middle and at the end of each. Where it still is a login it is Ann's and nobody else's."""
    backend.forget()
    for index, field in enumerate(FIELDS):
        for place in (0, len(field) // 2, len(field)):
            fields = [*FIELDS]
            fields[index] = field[:place] + what + field[place:]
            client.send_raw("\t".join(fields).encode("latin-1") + b"\nCANCEL\t7\n")
            assert alive_after(client) in ("", f"OK\t7\t{OK}", "FAIL\t7", "CONT\t7")
    for request in backend.requests():
        seen = request.json()
        assert (seen["username"], seen["password"]) == ("ann", RIGHT)
        assert all(value.isprintable() for value in seen.values())


def alive_after(client: Sasl) -> str:
    """What came for the line before, cut to its first two or, for an OK, three fields; the connection serves."""
    client.send_line(f"AUTH\t999\tPLAIN\tresp={plain()}")
    lines = [client.line()]
    if lines[0].split("\t")[1] != "999":
        lines.append(client.line())
    assert lines[-1] == f"OK\t999\t{OK}"
    if len(lines) == 1:
        return ""
    return "\t".join(lines[0].split("\t")[: 3 if lines[0].startswith("OK") else 2])


@pytest.mark.parametrize(
    "word", ["=", "A", "AA", "AAA", "A===", "AAAA=", "AA==AA==", "AA\0=", "A A=", "äöüß", "-_-_", "AAAA\r"]
)
def test_base64_that_is_none(client: Sasl, backend: Backend, word: str):
    backend.forget()
    assert client.auth("PLAIN").startswith("CONT")
    client.send_line(f"CONT\t1\t{word}")
    assert client.line() == "FAIL\t1\treason=bad base64"
    if word != "=":  # an empty response
        client.send_line(f"AUTH\t2\tPLAIN\tresp={word}")
        assert client.line() == "FAIL\t2\treason=bad base64"
    assert backend.count() == 0
    assert alive(client)


def test_nothing_is_read_behind_the_response(client: Sasl, backend: Backend):
    backend.forget()
    for tail in ("\tsecured", "\trip=192.0.2.9", f"\tresp={plain(user='bob')}", "\t", "\tx=y"):
        client.send_line(f"AUTH\t1\tPLAIN\trip=192.0.2.1\tresp={plain()}{tail}")
        assert client.line() == "FAIL\t1\treason=parameters after resp"
    assert backend.count() == 0


def test_a_mechanism_that_is_not_offered(client: Sasl, backend: Backend):
    backend.forget()
    token = coded("n,a=ann,\x01auth=Bearer token\x01\x01")
    for mechanism in (
        "XOAUTH2",
        "OAUTHBEARER",
        "CRAM-MD5",
        "EXTERNAL",
        "ANONYMOUS",
        "plain\0",
        "PLAINLOGIN",
        "\u017fcram",
    ):
        client.send_line(f"AUTH\t1\t{mechanism}\tresp={token}")
        assert client.line() == "FAIL\t1\tcode=auth_mech_invalid\treason=unsupported mechanism"
    client.send_line("AUTH\t1\t\tresp=" + token)
    assert client.line() == "FAIL\t1\treason=no mechanism"
    assert backend.count() == 0
    assert alive(client)


@pytest.mark.parametrize("line", ["VERSION\t2\t0", "VERSION\t0\t9", "VERSION", "VERSION\tx\ty", "VERSION\t-1\t1"])
def test_another_version_of_the_protocol(client: Sasl, line: str):
    client.send_line(line)
    assert client.closed()


# Clients out of step


def test_everything_is_sent_before_anything_is_read(site: Logins):
    """Handshake and a thousand logins before the greeting is read: every answer comes, in order, and then the end."""
    with site.client("login", handshake=False) as client:
        passwords = [(RIGHT, WRONG)[number % 3 == 0] for number in range(1, 1001)]
        lines = ["VERSION\t1\t1", "CPID\t1"]
        lines += [f"AUTH\t{number}\tPLAIN\tresp={plain(password)}" for number, password in enumerate(passwords, 1)]
        client.send_line("\n".join(lines))
        client.greet()
        for number, password in enumerate(passwords, 1):
            assert client.line().split("\t")[:2] == ["OK" if password == RIGHT else "FAIL", str(number)]
        client.finish()
        assert client.closed()


def test_a_handshake_that_never_ends(site: Logins, backend: Backend):
    """Whatever is missing of it: no login without it, and no client is in another's way."""
    backend.forget()
    beginnings = [b"", b"V", b"VERSION\t1\t1", b"VERSION\t1\t1\n", b"CPID\t1\n", b"CPID\t1\nVERSION\t1\t1", b"\n"]
    clients = [site.client("login", handshake=False) for _ in range(10 * len(beginnings))]
    for number, client in enumerate(clients):
        client.send_raw(beginnings[number % len(beginnings)])
    for number, client in enumerate(clients):
        client.greet()
        if beginnings[number % len(beginnings)].endswith(b"\n"):
            client.send_line(f"AUTH\t1\tPLAIN\tresp={plain()}\nCONT\t2\t{plain()}")
            assert client.line() == "FAIL\t1\treason=handshake not finished"
            assert client.line() == "FAIL\t2\treason=handshake not finished"
    assert backend.count() == 0
    with site.client("login") as other:
        assert alive(other)
    clients[0].send_line("CPID\t1\nVERSION\t1\t1")
    assert alive(clients[0])
    for client in clients:
        client.close()


def fill(client: Sasl, line: bytes, most: int) -> int:
    """Sends the line again and again until the connection takes no more for a while, and returns how many bytes went."""
    client.socket.setblocking(False)
    sent = 0
    while sent < most:
        _, writable, _ = select.select([], [client.socket], [], 0.5)
        if not writable:
            break
        sent += client.socket.send(line * (LIMIT // len(line)))
    client.socket.settimeout(10)
    return sent


def test_a_client_that_never_reads(site: Logins):
    """The server stops hearing whoever does not take its answers, and keeps next to nothing for him."""
    before = size(site)
    clients = []
    for unix in (False, True):
        client = site.client("login", unix=unix)
        clients.append(client)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sent = fill(client, b"AUTH\t1\tNONE\n", 64 * MEGABYTE)
        assert sent < 64 * MEGABYTE, "it was heard for ever"
    assert size(site) - before < 8 * MEGABYTE
    with site.client("login") as other:
        assert alive(other)
    for client in clients:
        assert client.line() == "FAIL\t1\tcode=auth_mech_invalid\treason=unsupported mechanism"
        client.close()


def test_two_hundred_clients_at_once(site: Logins):
    """Each gets the answers to its own ids."""
    clients = [site.client("login", unix=bool(number % 2)) for number in range(200)]
    for number, client in enumerate(clients):
        client.send_line(f"AUTH\t{number + 1}\tLOGIN\tresp={coded(f'user{number}')}")
    for number, client in enumerate(clients):
        assert client.line() == f"CONT\t{number + 1}\tUGFzc3dvcmQ6"
    passwords = [("as given", WRONG, RIGHT)[number % 3] for number in range(200)]
    for number, client in enumerate(clients):
        client.send_line(f"CONT\t{number + 1}\t{coded(passwords[number])}")
    for number, client in enumerate(clients):
        expected = {
            "as given": f"OK\t{number + 1}\tuser=user{number}",
            RIGHT: f"OK\t{number + 1}\t{OK}",
            WRONG: f"FAIL\t{number + 1}\tuser=user{number}\treason=Invalid username or password",
        }
        assert client.line() == expected[passwords[number]]
        client.close()


# Anything at all


class Judge:
    """A backend that lets in who shows `right-` and his name, as an account that it makes up for that one request."""

    def __init__(self) -> None:
        self.granted: dict[str, str] = {}

    def __call__(self, request: Request) -> Answer:
        asked = request.json()
        user, number = asked["username"], len(self.granted)
        if asked["password"] != f"right-{user}":
            return Answer(503 if user.endswith("7") else 403, {"Auth-Status": "no"})
        account = f"account{number}@example.test"
        self.granted[account] = user
        return Answer(200, {"Auth-User": account})


WORDS = [
    "AUTH",
    "CONT",
    "CANCEL",
    "VERSION",
    "CPID",
    "OK",
    "FAIL",
    "PLAIN",
    "LOGIN",
    "login",
    "XOAUTH2",
    "OAUTHBEARER",
    "service=smtp",
    "secured",
    "nologin",
    "resp",
    "resp=",
    "resp==",
    "rip=192.0.2.1",
    "user=admin",
    "authz=admin",
    "\x01t",
    "",
]


def random_line(dice: random.Random, name: str) -> bytes:
    """A login, right or wrong, a half of one, or words; now and then with some bytes changed. The user's name tells the
    connection, and the id if nothing was changed."""
    number = dice.choice(("1", "2", "3", "0", "70000", str(dice.randrange(2**33))))
    changes = dice.randrange(1, 4) if dice.random() < 0.2 else 0
    user = f"{name}{'any' if changes else number}-{dice.randrange(100)}"
    password = dice.choice((f"right-{user}", f"right-{user}", f"right-{name}0", "wrong", ""))
    message = coded(f"\0{user}\0{password}")
    line = dice.choice((
        f"AUTH\t{number}\tPLAIN\tservice=smtp\tresp={message}",
        f"AUTH\t{number}\tPLAIN\trip=192.0.2.1\tresp={message}",
        f"AUTH\t{number}\tPLAIN",
        f"AUTH\t{number}\tLOGIN",
        f"AUTH\t{number}\tLOGIN\tresp={coded(user)}",
        f"CONT\t{number}\t{message}",
        f"CONT\t{number}\t{coded(user)}",
        f"CONT\t{number}\t{coded(password)}",
        f"CANCEL\t{number}",
        "\t".join(dice.choices([*WORDS, number, message], k=dice.randrange(7))),
    )).encode()  # fmt: skip
    changed = bytearray(line or b"\t")
    for _ in range(changes):
        changed[dice.randrange(len(changed))] = dice.choice((0, 1, 9, 10, 13, 255, dice.randrange(256)))
    line = bytes(changed)
    return line.replace(b"VERSION", b"version" if dice.random() < 0.95 else b"VERSION") + b"\n"


REPLY = re.compile(r"(?:OK\t(?P<ok>[1-9]\d*)\tuser=(?P<account>[ -~]+)|FAIL\t(?P<fail>[1-9]\d*)(?:\t[ -~]+)*"
                   rf"|CONT\t(?P<cont>[1-9]\d*)\t[{string.ascii_letters}{string.digits}+/=]*)")  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("temporary_failure", ["disconnect", "fail"])
def test_only_the_backend_lets_anybody_in(seed: int, temporary_failure: str):
    """Random lines on three connections at a time. Every OK names an account that was granted to this connection and
    this id and was not told before; every reply is well formed and for an id that was in one of the connection's lines."""
    dice = random.Random(seed)
    judge = Judge()
    told: list[str] = []
    with ThreadBackend() as backend:
        backend.answer("/login", judge)
        entry = login(backend.url("/login"), timeout="10s", temporary_failure=temporary_failure)
        with Logins({"login": entry}, level="info") as logins:
            for turn in range(8):
                names = [f"t{turn}c{number}-" for number in range(3)]
                clients = {name: logins.client("login") for name in names}
                sent = {name: [random_line(dice, name) for _ in range(80)] for name in names}
                for start in range(0, 80, 8):
                    for name, client in clients.items():
                        # An outage, or a line of another version, has closed it.
                        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                            client.send_raw(b"".join(sent[name][start : start + 8]))
                for name, client in clients.items():
                    ids = {
                        fields[1] for line in b"".join(sent[name]).split(b"\n") if len(fields := line.split(b"\t")) > 1
                    }
                    for line in filter(None, client.replies().decode().split("\n")):
                        reply = REPLY.fullmatch(line)
                        assert reply, line
                        assert (reply["ok"] or reply["fail"] or reply["cont"]).encode() in ids
                        if reply["ok"]:
                            assert judge.granted[reply["account"]].startswith((f"{name}{reply['ok']}-", f"{name}any-"))
                            told.append(reply["account"])
                    client.close()
            logins.daemon.check_log()
    assert len(told) == len(set(told)) and len(told) > 20

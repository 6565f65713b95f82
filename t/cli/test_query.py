"""`query` against servers made of plain sockets: what it sends, what it prints, and its exit code for every reply."""

from __future__ import annotations

import base64
import io
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kit import ports

from pfxhttpd.__main__ import parser, run

GREETING = b"VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nMECH\tLOGIN\tplaintext\nSPID\t7\nCUID\t1\nCOOKIE\t00\nDONE\n"


class Scripted:
    """Accepts one connection, greets, waits for a whole request, answers in pieces and closes. `received` is what was sent to it."""

    def __init__(
        self,
        listener: socket.socket,
        request_ends: bytes,
        *answer: bytes,
        greeting: bytes = b"",
        stays: bool = False,
        resets: bool = False,
    ) -> None:
        self.received = b""
        self._listener, self._ends, self._answer = listener, request_ends, answer
        self._greeting, self._stays, self._resets = greeting, stays, resets
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.settimeout(10)
            connection.sendall(self._greeting)
            while self._ends and not self.received.endswith(self._ends):
                data = connection.recv(65536)
                if not data:
                    return
                self.received += data
            for piece in self._answer:
                connection.sendall(piece)
            if self._stays:
                connection.recv(1)
            if self._resets:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def join(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()


@contextmanager
def scripted(*arguments: bytes, path: str = "", **more: object) -> Iterator[tuple[Scripted, str]]:
    """A server and its address as --address takes it."""
    with socket.socket(socket.AF_UNIX if path else socket.AF_INET) as listener:
        listener.bind(path or ("127.0.0.1", 0))
        listener.listen()
        server = Scripted(listener, *arguments, **more)  # type: ignore[arg-type]
        yield server, f"unix:{path}" if path else f"inet:127.0.0.1:{listener.getsockname()[1]}"
        server.join()


def ask(*arguments: str, config: str = "", environ: dict[str, str] | None = None) -> int:
    """The exit code of `pfxhttpd --config CONFIG query ARGUMENTS...`."""
    options = parser().parse_args([*(["--config", config] if config else []), "query", *arguments])
    return run(options, environ or {})


def netstring(payload: bytes) -> bytes:
    return b"%d:%b," % (len(payload), payload)


@pytest.mark.parametrize(
    "reply, shown, code",
    [
        (b"OK some value, with: everything", "OK some value, with: everything", 0),
        ("OK Grüße".encode(), "OK Grüße", 0),
        (b"OK \xff", "OK \ufffd", 0),
        (b"NOTFOUND ", "NOTFOUND", 1),
        (b"NOTFOUND", "NOTFOUND", 1),
        (b"TEMP backend answers 503", "TEMP backend answers 503", 75),
        (b"TIMEOUT no answer in time", "TIMEOUT no answer in time", 75),
        (b"PERM no such map", "PERM no such map", 69),
        (b"OK \x1b[31mred", "OK  [31mred", 0),
    ],
)
def test_socketmap_replies(capsys: pytest.CaptureFixture[str], reply: bytes, shown: str, code: int) -> None:
    with scripted(b",", netstring(reply)) as (server, where):
        assert ask("--address", where, "demo_map", "some one@example.com") == code
    assert capsys.readouterr() == (shown + "\n", "")
    assert server.received == netstring(b"demo_map some one@example.com")


def test_a_reply_may_come_byte_by_byte_and_be_long(capsys: pytest.CaptureFixture[str]) -> None:
    reply = netstring(b"OK " + b"x" * 300_000)
    with scripted(b",", *(reply[i : i + 1] for i in range(20)), reply[20:]) as (_, where):
        assert ask("--address", where, "demo_map", "key") == 0
    assert len(capsys.readouterr().out) == 300_004


@pytest.mark.parametrize(
    "key, sent",
    [
        ("", b"m "),
        ('"quoted" \\ {{ .Key }}', b'm "quoted" \\ {{ .Key }}'),
        ("Grüße", "m Grüße".encode()),
        ("\udcff\udcfe", b"m \xff\xfe"),
        ("<>", b"m <>"),
    ],
)
def test_a_key_is_sent_as_it_is(key: str, sent: bytes) -> None:
    with scripted(b",", netstring(b"NOTFOUND ")) as (server, where):
        assert ask("--address", where, "--", "m", key) == 1
    assert server.received == netstring(sent)


def test_a_unix_socket_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with scripted(b",", netstring(b"OK here"), path=str(tmp_path / "s")) as (_, where):
        assert ask("--address", where, "demo_map", "key") == 0
    assert capsys.readouterr().out == "OK here\n"


@pytest.mark.parametrize("answer", [b"", b"5:OK", netstring(b"YES of course"), b"HTTP/1.1 400 Bad Request\r\n", b"-1:"])
def test_a_reply_that_is_none_is_temporary(capsys: pytest.CaptureFixture[str], answer: bytes) -> None:
    with scripted(b",", answer) as (_, where):
        assert ask("--address", where, "demo_map", "key") == 75
    out, error = capsys.readouterr()
    assert out == "" and re.fullmatch(rf"pfxhttpd: {re.escape(where)} [^\n]+\n", error)


def test_the_timeout_ends_the_query(capsys: pytest.CaptureFixture[str]) -> None:
    with scripted(b",", b"10:OK", stays=True) as (_, where):
        assert ask("--address", where, "--timeout", "100ms", "demo_map", "key") == 75
    assert capsys.readouterr().err == f"pfxhttpd: no reply from {where} in time\n"


def test_a_server_that_does_not_listen(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        where = f"inet:127.0.0.1:{bound.getsockname()[1]}"
        assert ask("--address", where, "demo_map", "key") == 75
    assert capsys.readouterr().err == f"pfxhttpd: cannot connect to {where}: Connection refused\n"
    assert ask("--address", f"unix:{tmp_path}/none", "demo_map", "key") == 75
    assert ask("--address", "unix:/" + "x" * 200, "demo_map", "key") == 75
    assert "cannot connect to unix:/xxx" in capsys.readouterr().err


@pytest.mark.parametrize(
    "action, code",
    [
        ("OK", 0),
        ("PREPEND X-Checked: yes", 0),
        ("HOLD for review", 0),
        ("250 fine", 0),
        ("FILTER smtp:[127.0.0.1]:25", 0),
        ("DUNNO", 1),
        ("dunno", 1),
        ("REJECT not wanted", 69),
        ("reject", 69),
        ("550 5.7.1 no", 69),
        ("554 no", 69),
        ("DEFER", 75),
        ("DEFER_IF_PERMIT greylisted", 75),
        ("defer_if_reject x", 75),
        ("451 4.3.0 later", 75),
    ],
)
def test_policy_replies(capsys: pytest.CaptureFixture[str], action: str, code: int) -> None:
    with scripted(b"\n\n", f"action={action}\n\n".encode()) as (server, where):
        assert ask("--address", where, "--policy", "p", "sender=a@b", "recipient=c=d", "helo_name=") == code
    assert capsys.readouterr() == (f"action={action}\n", "")
    assert server.received == b"request=smtpd_access_policy\nsender=a@b\nrecipient=c=d\nhelo_name=\n\n"


def test_a_given_request_attribute_is_kept() -> None:
    with scripted(b"\n\n", b"action=OK\n\n") as (server, where):
        assert ask("--address", where, "--policy", "p", "sender=a", "request=other") == 0
    assert server.received == b"sender=a\nrequest=other\n\n"


@pytest.mark.parametrize(
    "answer", [b"", b"action=OK\n", b"\n\n", b"OK\n\n", b"a=b\naction=OK\n\n", b"action=OK\na=b\n\n"]
)
def test_a_policy_reply_that_is_none_is_temporary(answer: bytes) -> None:
    with scripted(b"\n\n", answer) as (_, where):
        assert ask("--address", where, "--policy", "p", "sender=a") == 75


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("wonder land\nmore\n"))


@pytest.mark.parametrize(
    "answer, shown, code",
    [
        (b"OK\t1\tuser=alice@example.com\n", "OK user=alice@example.com", 0),
        (b"FAIL\t1\tuser=alice\treason=Account is locked\n", "FAIL user=alice reason=Account is locked", 1),
        (b"FAIL\t1\tuser=alice\ttemp\n", "FAIL user=alice temp", 75),
        (b"CONT\t1\t\n", "CONT ", 69),
        (b"FAIL\t2\nOK\t1\tuser=alice\n", "OK user=alice", 0),
    ],
)
@pytest.mark.usefixtures("typed")
def test_logins(capsys: pytest.CaptureFixture[str], answer: bytes, shown: str, code: int) -> None:
    with scripted(b"\n", answer[:3], answer[3:], greeting=GREETING) as (server, where):
        assert ask("--address", where, "--sasl", "login", "alice") == code
    assert capsys.readouterr() == (shown + "\n", "")
    version, process, exchange = server.received.decode().splitlines()
    assert version.startswith("VERSION\t1\t") and re.fullmatch(r"CPID\t\d+", process)
    start, response = exchange.rsplit("\tresp=", 1)
    assert start.split("\t")[:4] == ["AUTH", "1", "PLAIN", "service=smtp"]
    assert base64.b64decode(response) == b"\0alice\0wonder land"


TOKENS = GREETING.replace(b"MECH\tPLAIN", b"MECH\tXOAUTH2\tplaintext\nMECH\tOAUTHBEARER\tplaintext\nMECH\tPLAIN")


@pytest.mark.parametrize(
    ("mechanism", "user", "message"),
    [
        ("xoauth2", "alice", b"user=alice\1auth=Bearer to.k.en\1\1"),
        ("OAuthBearer", "a=l,ice", b"n,a=a=3Dl=2Cice,\1auth=Bearer to.k.en\1\1"),
    ],
)
def test_a_token(
    mechanism: str, user: str, message: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("to.k.en\n"))
    with scripted(b"\n", b"OK\t1\tuser=alice\n", greeting=TOKENS) as (server, where):
        assert ask("--address", where, "--sasl", "login", "--mechanism", mechanism, user) == 0
    assert capsys.readouterr() == ("OK user=alice\n", "")
    start, response = server.received.decode().splitlines()[2].rsplit("\tresp=", 1)
    assert start.split("\t")[:4] == ["AUTH", "1", mechanism.upper(), "service=smtp"]
    assert base64.b64decode(response) == message


@pytest.mark.usefixtures("typed")
def test_a_token_mechanism_that_is_not_offered(capsys: pytest.CaptureFixture[str]) -> None:
    with scripted(b"", greeting=GREETING) as (server, where):
        assert ask("--address", where, "--sasl", "login", "--mechanism", "xoauth2", "alice") == 69
    assert server.received == b"" and "XOAUTH2 is not offered" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["map", "key"], ["--policy", "p", "a=b"]])
def test_a_mechanism_is_for_logins(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert ask("--address", "inet:127.0.0.1:9", "--mechanism", "xoauth2", *arguments) == 64
    assert "--mechanism needs --sasl" in capsys.readouterr().err


@pytest.mark.usefixtures("typed")
def test_a_dropped_login_is_temporary(capsys: pytest.CaptureFixture[str]) -> None:
    with scripted(b"\n", greeting=GREETING) as (_, where):
        assert ask("--address", where, "--sasl", "login", "alice") == 75
    assert "closed the connection without a reply" in capsys.readouterr().err


@pytest.mark.usefixtures("typed")
def test_a_reset_is_a_closed_connection(capsys: pytest.CaptureFixture[str]) -> None:
    with scripted(b"\n", greeting=GREETING, resets=True) as (_, where):
        assert ask("--address", where, "--sasl", "login", "alice") == 75
    assert (
        capsys.readouterr().err
        == f"pfxhttpd: {where} closed the connection without a reply; the log of the server has the reason\n"
    )


@pytest.mark.usefixtures("typed")
def test_a_server_without_plain_is_sent_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with scripted(b"", greeting=GREETING.replace(b"MECH\tPLAIN\tplaintext\n", b"")) as (server, where):
        assert ask("--address", where, "--sasl", "login", "alice") == 69
    assert server.received == b"" and "PLAIN is not offered" in capsys.readouterr().out


@pytest.mark.usefixtures("typed")
@pytest.mark.parametrize("greeting", [b"* OK IMAP ready\r\n", b"VERSION\t2\t0\nMECH\tPLAIN\nDONE\n"])
def test_another_protocol_gets_no_password(greeting: bytes) -> None:
    with scripted(b"", greeting=greeting) as (server, where):
        assert ask("--address", where, "--sasl", "login", "alice") == 75
    assert server.received == b""


def test_no_password_at_all(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert ask("--address", "inet:127.0.0.1:9", "--sasl", "login", "alice") == 64
    assert capsys.readouterr().err == "pfxhttpd: no password on standard input\n"


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["demo_map"], "MAP and KEY"),
        (["demo_map", "some", "one"], "MAP and KEY"),
        (["demo map", "key"], "no spaces"),
        ([], "MAP and KEY"),
        (["--policy", "p", "sender"], "name=value"),
        (["--policy", "p", "=x"], "name=value"),
        (["--policy", "p", "a=b\nc=d"], "name=value"),
        (["--sasl", "s"], "the user"),
        (["--sasl", "s", "alice", "secret"], "the user"),
        (["--address", "127.0.0.1:80", "m", "k"], "no address"),
        (["--address", "inet:127.0.0.1", "m", "k"], "no address"),
        (["--address", "inet:127.0.0.1:0", "m", "k"], "no address"),
        (["--address", "inet:127.0.0.1:123456", "m", "k"], "no address"),
        (["--address", "unix:", "m", "k"], "no address"),
    ],
)
def test_a_wrong_command_line(capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str) -> None:
    assert ask(*arguments) == 64
    assert complaint in capsys.readouterr().err


CONFIGURATION = """
server:
  listen:
    - {{kind: socket_map, name: first, type: tcp, address: 127.0.0.1, port: {dead}}}
    - {{kind: socket_map, name: second, type: tcp, address: "[::]", port: {port}}}
    - {{kind: policy_service, name: checks, type: tcp, address: "0.0.0.0", port: {other}}}
    - {{kind: policy_service, name: other, type: unix, address: {path}}}
    - {{kind: dovecot_sasl, name: given, systemd_socket_name: sasl}}
socket_maps:
  first: {{target: "http://127.0.0.1/", value_field: a}}
  second: {{target: "http://127.0.0.1/", value_field: a}}
  third: {{target: "http://127.0.0.1/", value_field: a}}
policy_services:
  checks: {{target: "http://127.0.0.1/", value_field: a}}
  other: {{target: "http://127.0.0.1/", value_field: a}}
dovecot_sasl:
  given: {{target: "http://127.0.0.1/"}}
"""


@pytest.fixture
def dead() -> Iterator[int]:
    with ports.refusing() as port:
        yield port


def written(directory: Path, dead: int, port: str = "9", other: str = "10") -> str:
    """The name of a file with the configuration; `port` and `other` are those on every address."""
    file = directory / "pfxhttp.yml"
    file.write_text(CONFIGURATION.format(dead=dead, port=port, other=other, path=directory / "s"))
    return str(file)


def test_the_address_is_taken_from_the_configuration(tmp_path: Path, dead: int) -> None:
    with scripted(b",", netstring(b"OK")) as (_, where):
        assert ask("second", "key", config=written(tmp_path, dead, port=where.rpartition(":")[2])) == 0
    with scripted(b"\n\n", b"action=OK\n\n") as (_, where):
        assert (
            ask("--policy", "checks", "sender=a", config=written(tmp_path, dead, other=where.rpartition(":")[2])) == 0
        )
    with scripted(b"\n\n", b"action=OK\n\n", path=str(tmp_path / "s")):
        assert ask("--policy", "other", "sender=a", config=written(tmp_path, dead)) == 0


@pytest.mark.parametrize("name", ["first", "third"])
def test_without_a_listener_of_its_name_a_map_is_asked_at_the_first(
    tmp_path: Path, dead: int, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert ask(name, "key", config=written(tmp_path, dead)) == 75
    assert f"cannot connect to inet:127.0.0.1:{dead}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["--policy", "first", "sender=a"], "has no policy_service listener named first"),
        (["--sasl", "given", "alice"], "systemd knows the address"),
    ],
)
@pytest.mark.usefixtures("typed")
def test_a_listener_that_cannot_be_found(
    tmp_path: Path, dead: int, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    assert ask(*arguments, config=written(tmp_path, dead)) == 78
    error = capsys.readouterr().err
    assert complaint in error and "--address" in error


def test_a_configuration_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask("m", "k", config=str(tmp_path / "none.yml")) == 78
    assert f"{tmp_path}/none.yml: cannot be read" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert ask("m", "k", environ={"HOME": str(tmp_path)}) == 78
    assert "--address" in capsys.readouterr().err


def test_a_mistake_elsewhere_in_the_file_does_not_matter(tmp_path: Path) -> None:
    with scripted(b",", netstring(b"OK")) as (_, where):
        file = Path(written(tmp_path, 9, port=where.rpartition(":")[2]))
        file.write_text(file.read_text().replace("value_field", "value_feild"))
        assert ask("second", "key", config=str(file)) == 0


def test_a_mistake_in_the_listener_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = Path(written(tmp_path, 9))
    file.write_text(file.read_text().replace("name: checks", "nmae: checks"))
    assert ask("--policy", "checks", "sender=a", config=str(file)) == 78
    error = capsys.readouterr().err
    assert "nmae: unknown key (did you mean name?)" in error and "--address" in error

"""The examples of contrib/config and contrib/postfix together: a real Postfix, the daemon and a backend for each of them."""

from __future__ import annotations

import base64
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest
from kit import daemon, ports, proc
from kit.backend import Answer, Backend, Keyed
from kit.clients import Policy, SocketMap
from kit.daemon import Daemon
from kit.needs import needs
from kit.postfix import Postfix

from pfxhttpd.cli import demo_backend

CONTRIB = daemon.TREE / "contrib"
SENDER, MESSAGE = "sender@example.net", "Subject: hello\r\n\r\nhello\r\n"
NO_VALUE = Answer(404, json={"error": "no such domain"})


def moved(path: Path, changes: dict[str, str]) -> str:
    """The file's text with fixed ports and places replaced, each of which it has to mention."""
    text = path.read_text()
    for old, new in changes.items():
        assert old in text, f"{path.name} has no {old}"
        text = text.replace(old, new)
    return text


@contextmanager
def serving(name: str, changes: dict[str, str], directory: Path) -> Iterator[Daemon]:
    """The daemon with that example, on few workers, and what it keeps below the directory."""
    (directory / "run").mkdir()
    environment = {
        "PFXHTTP_SERVER_WORKER_POOL_MAX_WORKERS": "2",
        "PFXHTTP_SERVER_RUNTIME_DIRECTORY": str(directory / "run"),
    }
    with Daemon(moved(CONTRIB / f"config/{name}.yml", changes), environment=environment) as started:
        yield started


@contextmanager
def postfix_with(name: str, changes: dict[str, str], *more: str) -> Iterator[Postfix]:
    """A Postfix with the lines of that example and others, which win."""
    needs("root", "postfix")
    with Postfix([moved(CONTRIB / f"postfix/{name}.cf", changes), *more]) as started:
        yield started


def recipient(postfix: Postfix, address: str, sender: str = SENDER) -> tuple[int, str]:
    with postfix.smtp() as client:
        assert client.mail(sender)[0] == 250
        code, text = client.rcpt(address)
        return code, text.decode()


def plain(user: str, password: str) -> str:
    """The initial response of PLAIN (RFC 4616)."""
    return base64.b64encode(f"\0{user}\0{password}".encode()).decode()


def credentials(directory: Path, name: str) -> str:
    """Writes a file of credentials; the header that pfxhttpd makes of it."""
    (directory / name).write_text("mx:of the host\n")
    return f"Basic {base64.b64encode(b'mx:of the host').decode()}"


ENTRIES = {
    ("domains", "example.com"): "example.com",
    ("mailboxes", "alice@example.com"): "example.com/alice/",
    ("aliases", "alice@example.com"): "alice@example.com",
    ("aliases", "team@example.com"): "alice@example.com, bob@example.net",
    ("transports", "alice@example.com"): "discard:for alice",
    ("sender_logins", "alice@example.com"): "alice",
}


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The example backend in Python on a free port."""
    connection = sqlite3.connect(tmp_path / "maps.db")
    with connection:
        connection.execute("CREATE TABLE entry (map, lookup_key, value)")
        connection.executemany("INSERT INTO entry VALUES (?, ?, ?)", [(*key, value) for key, value in ENTRIES.items()])
    connection.close()
    monkeypatch.setenv("MAPS_DB", str(tmp_path / "maps.db"))
    monkeypatch.setattr(sys, "path", [*sys.path, str(CONTRIB / "backend")])
    from sqlite_wsgi import application

    class Silent(WSGIRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with make_server("127.0.0.1", 0, application, WSGIServer, Silent) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_the_configuration_to_start_from(database: int, tmp_path: Path) -> None:
    first = ports.free(2)
    places = {"23450": str(first), "23451": str(first + 1), "127.0.0.1:8080": f"127.0.0.1:{database}"}
    with serving("pfxhttp", places, tmp_path), SocketMap(("127.0.0.1", first)) as client:
        assert client.ask("mailboxes", "alice@example.com") == "OK example.com/alice/"
        assert client.ask("domains", "alice@example.com") == "NOTFOUND "
        os.rename(tmp_path / "maps.db", tmp_path / "gone.db")
        assert client.ask("mailboxes", "alice@example.com").startswith("TEMP ")


def test_a_virtual_mail_host(database: int, tmp_path: Path) -> None:
    with postfix_with("virtual-mail", {}) as postfix:
        sockets = postfix.directory / "queue/pfxhttp"
        sockets.mkdir()
        place = {"/var/spool/postfix/pfxhttp": str(sockets), "127.0.0.1:8080": f"127.0.0.1:{database}"}
        with serving("virtual-mail", place, tmp_path):
            assert recipient(postfix, "alice@example.com")[0] == 250, postfix.log
            assert recipient(postfix, "team@example.com")[0] == 250
            assert recipient(postfix, "nobody@example.com")[0] == 550
            assert recipient(postfix, "alice@elsewhere.example")[0] == 554
            with postfix.smtp() as client:
                client.sendmail(SENDER, "Team@Example.COM", MESSAGE)  # it is looked up in this spelling
            postfix.wait_log("to=<alice@example.com>, orig_to=<Team@Example.COM>, relay=none")
            assert "(for alice)" in postfix.log  # the transport of the map
            for name, key in ENTRIES:
                done = postfix.postmap(f"socketmap:unix:{sockets}/maps:{name}", key)
                assert done.stdout.decode() == f"{ENTRIES[name, key]}\n", done.stderr
            os.rename(tmp_path / "maps.db", tmp_path / "gone.db")
            assert recipient(postfix, "alice@example.com")[0] == 250  # from the cache
            assert recipient(postfix, "carol@example.com")[0] == 451


def test_two_policy_services(tmp_path: Path) -> None:
    port, api = ports.free(2), ports.free()
    places = {"23451": str(port), "23452": str(port + 1)}
    command = [sys.executable, demo_backend.__file__, str(api)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=proc.die_with_parent) as backend,
        serving("policy", {**places, "127.0.0.1:8080": f"127.0.0.1:{api}"}, tmp_path),
        postfix_with(
            "policy", places, "virtual_mailbox_domains = example.com", "virtual_mailbox_maps = static:x"
        ) as postfix,
    ):
        with postfix.smtp() as client:
            client.sendmail(SENDER, "alice@example.com", MESSAGE)
        code, text = recipient(postfix, "alice@example.com", "spammer@example.net")
        assert code == 554 and "is not wanted" in text
        code, text = recipient(postfix, "alice@example.com", "stranger@example.net")
        assert code == 450 and "Greylisted" in text
        with Policy(("127.0.0.1", port + 1)) as quota:
            assert quota.ask(sender="spammer@example.net").startswith("REJECT")
        backend.kill()
        backend.wait()
        with postfix.smtp() as client:  # the first service lets mail pass, the second one defers it
            client.mail("stranger@example.net")
            assert client.rcpt("alice@example.com")[0] == 250
            code, reply = client.data(MESSAGE)
            assert code == 450 and b"Temporary server problem" in reply


def test_nauthilus(backend: Backend, tmp_path: Path) -> None:
    api = "/api/v1/custom/postfix"
    backend.answer(f"{api}/socket_map", Keyed({"alice@example.com": Answer(json={"demo_value": "alice/"})}))
    backend.answer(f"{api}/policy_service", json={"result": "DUNNO"})
    right = Answer(200, {"Auth-Status": "OK", "Auth-User": "alice@example.com"})
    wrong = Answer(403, {"Auth-Status": "Invalid login or password"})
    backend.answer(
        "/api/v1/auth/json", Keyed({"right": right, "bad name": Answer(400), "ours": Answer(401)}, wrong, "password")
    )
    header = credentials(tmp_path, "nauthilus.password")
    first = ports.free(4)
    places = {str(23450 + number): str(first + number) for number in (0, 1, 3)}
    changes = {**places, "https://nauthilus.example.com:9443": backend.url().rstrip("/"), "/etc/pfxhttp": str(tmp_path)}
    more = ["smtpd_sasl_auth_enable = yes", "smtpd_tls_auth_only = no", "virtual_mailbox_domains = example.com"]
    with serving("nauthilus", changes, tmp_path), postfix_with("nauthilus", places, *more) as postfix:
        assert recipient(postfix, "alice@example.com")[0] == 250
        assert recipient(postfix, "nobody@example.com")[0] == 550
        for password, expected in {"right": 235, "wrong": 535, "bad name": 535, "ours": 454}.items():
            with postfix.smtp() as client:
                assert client.docmd("AUTH", f"PLAIN {plain('alice', password)}")[0] == expected
        assert {request.header("Authorization") for request in backend.requests()} == {header}
        assert {request.path for request in backend.requests()} >= {f"{api}/policy_service"}


def test_several_backends(backend: Backend, tmp_path: Path) -> None:
    found = {
        "example.com": Answer(json={"data": {"result": "yes"}}),
        "alice@example.com": Answer(json={"data": {"result": "a"}}),
    }
    backend.answer("/postfix/lookup", Keyed(found))
    for key in (
        "example.com",
        "com",
        "alice%40example.com",
        "nobody%40example.com",
        "example",
        "bob%40branch.example",
        "%2A",
    ):
        backend.answer(f"/v2/domains/{key}", NO_VALUE)
    backend.answer("/v2/domains/branch.example", json={"transport": "smtp:[192.0.2.25]"})
    backend.answer("/check", Keyed({"192.0.2.7": Answer(json={"verdict": {"action": "REJECT listed"}})}, name="ip"))
    header = credentials(tmp_path, "users.password")
    first = ports.free(2)
    places = {"23450": str(first), "23451": str(first + 1)}
    changes = {
        f"https://{name}": backend.url().rstrip("/")
        for name in ("users.example.com", "network.example.com", "reputation.example.net")
    }
    with (
        serving("several-backends", {**places, **changes, "/etc/pfxhttp": str(tmp_path)}, tmp_path),
        postfix_with("several-backends", places) as postfix,
    ):
        assert recipient(postfix, "alice@example.com")[0] == 250, postfix.log
        assert recipient(postfix, "nobody@example.com")[0] == 550
        assert recipient(postfix, "bob@branch.example")[0] == 250
        assert (
            postfix.postmap(f"socketmap:inet:127.0.0.1:{first}:relays", "branch.example").stdout
            == b"smtp:[192.0.2.25]\n"
        )
        done = postfix.postmap(f"socketmap:inet:127.0.0.1:{first}:relays", "wrong/path")
        assert done.returncode and b"error" in done.stderr  # a 404 that the API did not mean
        with Policy(("127.0.0.1", first + 1)) as reputation:
            assert reputation.ask(client_address="192.0.2.7") == "REJECT listed"
        assert {request.header("Authorization") for request in backend.requests("/postfix/lookup")} == {header}
        assert {request.header("X-Api-Key") for request in backend.requests("/v2/domains/branch.example")} == {
            "change-me"
        }

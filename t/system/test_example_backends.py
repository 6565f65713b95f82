"""The example backends in contrib/backend answer the same API: each in its own language, started as its comment says.

Go is large, so its backend is tested only by `contrib/backend/test`, which sets PFXHTTPD_TEST_GO.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from kit import daemon, ports, proc, waiting
from kit.needs import needs, program

BACKENDS = daemon.TREE / "contrib/backend"
LANGUAGES = ["python", "php", *(["go"] if "PFXHTTPD_TEST_GO" in os.environ else [])]
MAPS = {"mailboxes": {"some one@example.com": "example.com/some.one/", "jörg@example.com": "jörg/"}, "domains": {}}


def database(path: Path) -> None:
    """An SQLite database of the maps, made by the statement in the comment of the backends."""
    statement = (BACKENDS / "pdo.php").read_text().partition("CREATE")[2].partition(";")[0]
    assert statement in (BACKENDS / "sqlite_wsgi.py").read_text()
    rows = [(name, key, value) for name, entries in MAPS.items() for key, value in entries.items()]
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(f"CREATE{statement}")
        connection.executemany("INSERT INTO entry VALUES (?, ?, ?)", rows)
    connection.close()


WSGI = """\
import sys
from wsgiref.simple_server import make_server
from sqlite_wsgi import application
make_server("127.0.0.1", int(sys.argv[1]), application).serve_forever()
"""


def command(language: str, port: int, data: Path) -> tuple[list[str], dict[str, str]]:
    """The command that starts the backend of that language, and its environment; `data` is the file of its maps."""
    if language == "python":
        database(data)
        return [sys.executable, "-c", WSGI, str(port)], {"MAPS_DB": str(data), "PYTHONPATH": str(BACKENDS)}
    if language == "php":
        needs("php")
        database(data)
        php = program("php") or "php"
        return [php, "-S", f"127.0.0.1:{port}", str(BACKENDS / "pdo.php")], {"MAPS_DSN": f"sqlite:{data}"}
    data.write_text(json.dumps(MAPS))
    binary = data.with_suffix(".program")
    subprocess.run(["go", "vet", BACKENDS / "maps.go"], check=True)
    subprocess.run(["go", "build", "-o", binary, BACKENDS / "maps.go"], check=True)
    assert subprocess.run(["gofmt", "-l", BACKENDS], capture_output=True, text=True, check=True).stdout == ""
    return [str(binary), f"127.0.0.1:{port}", str(data)], {}


class Api:
    def __init__(self, url: str, data: Path) -> None:
        self.url, self.data = url, data

    def lookup(self, name: str, key: str) -> tuple[int, object]:
        response = requests.post(self.url, json={"map": name, "key": key}, timeout=10)
        return response.status_code, response.json()


@pytest.fixture(scope="module", params=LANGUAGES)
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    data, port = tmp_path_factory.mktemp("backend") / "maps", ports.free()
    arguments, environment = command(request.param, port, data)
    process = subprocess.Popen(
        arguments,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=proc.die_with_parent,
    )
    try:
        waiting.until(lambda: process.poll() is not None or listens(port), "the backend")
        assert process.poll() is None
        yield Api(f"http://127.0.0.1:{port}/lookup", data)
    finally:
        process.kill()
        process.wait()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_value(api: Api) -> None:
    assert api.lookup("mailboxes", "some one@example.com") == (200, {"data": {"result": "example.com/some.one/"}})
    assert api.lookup("mailboxes", "Some One@Example.COM") == (200, {"data": {"result": "example.com/some.one/"}})
    assert api.lookup("mailboxes", "jörg@example.com") == (200, {"data": {"result": "jörg/"}})


@pytest.mark.parametrize("name, key", [("mailboxes", "x' OR 'x'='x"), ("domains", "some one@example.com"), ("x", "")])
def test_no_value(api: Api, name: str, key: str) -> None:
    assert api.lookup(name, key) == (200, {"data": {"result": None}})


@pytest.mark.parametrize("body", ["", "{", "[]", '"key"', '{"map": "mailboxes"}', '{"map": null, "key": null}'])
def test_another_body_is_an_error(api: Api, body: str) -> None:
    response = requests.post(api.url, data=body, timeout=10)
    assert response.status_code == 400 and "expected" in response.json()["error"]


def test_another_request_is_not_found(api: Api) -> None:
    assert requests.get(api.url, timeout=10).status_code == 404
    assert requests.post(f"{api.url}s", json={"map": "mailboxes", "key": "a"}, timeout=10).status_code == 404


def test_data_that_cannot_be_read_is_a_temporary_error(api: Api) -> None:
    elsewhere = api.data.with_name("elsewhere")
    api.data.rename(elsewhere)
    try:
        status, answer = api.lookup("mailboxes", "some one@example.com")
        assert status == 503 and isinstance(answer, dict) and "error" in answer
    finally:
        shutil.move(elsewhere, api.data)

"""The examples in contrib/ do what they say: each with the real daemon, its backend, and Postfix's own reading of main.cf."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest
from kit import daemon, ports, proc
from kit.clients import SocketMap
from kit.daemon import Daemon
from kit.needs import needs

CONTRIB = daemon.TREE / "contrib"
CONFIGURATIONS = sorted(CONTRIB.glob("config/*"))


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.name)
def test_every_configuration_is_valid(path: Path, tmp_path: Path) -> None:
    (tmp_path / "nauthilus.password").write_text("user:password\n")
    copy = tmp_path / path.name
    copy.write_text(path.read_text().replace("/etc/pfxhttp/", f"{tmp_path}/"))
    done = daemon.run("--config", str(copy), "check")
    assert (done.returncode, done.stderr) == (0, "")


def moved(path: Path, changes: dict[str, str]) -> str:
    """The file's text with fixed ports and places replaced, each of which it has to mention."""
    text = path.read_text()
    for old, new in changes.items():
        assert old in text, f"{path.name} has no {old}"
        text = text.replace(old, new)
    return text


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The WSGI example on a free port, with a database of one mailbox."""
    database = sqlite3.connect(tmp_path / "maps.db")
    with database:
        database.execute("CREATE TABLE entry (map TEXT, key TEXT, value TEXT, PRIMARY KEY (map, key))")
        database.execute("INSERT INTO entry VALUES ('mailboxes', 'some one@example.com', 'example.com/some.one/')")
    database.close()
    monkeypatch.setenv("MAPS_DB", str(tmp_path / "maps.db"))
    spec = importlib.util.spec_from_file_location("sqlite_wsgi", CONTRIB / "backend/sqlite_wsgi.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    class Silent(WSGIRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with make_server("127.0.0.1", 0, module.application, WSGIServer, Silent) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_the_example_configuration_with_the_database(api: int, tmp_path: Path) -> None:
    first = ports.free(2)
    changes = {
        "23450": str(first),
        "23451": str(first + 1),
        "127.0.0.1:8080": f"127.0.0.1:{api}",
        "server:\n": f"server:\n  runtime_directory: {tmp_path}/run\n",
    }
    (tmp_path / "run").mkdir()
    with Daemon(moved(CONTRIB / "config/pfxhttp.yml", changes)), SocketMap(("127.0.0.1", first)) as client:
        assert client.ask("mailboxes", "some one@example.com") == "OK example.com/some.one/"
        assert client.ask("mailboxes", "x' OR 'x'='x") == "NOTFOUND "
        assert client.ask("domains", "some one@example.com") == "NOTFOUND "
        os.rename(tmp_path / "maps.db", tmp_path / "gone.db")
        assert client.ask("mailboxes", "some one@example.com").startswith("TEMP ")


@pytest.fixture
def files(tmp_path: Path) -> Iterator[int]:
    """nginx with the example's server block on a free port; its root is tmp_path/maps."""
    needs("nginx")
    port = ports.free()
    tmp_path.chmod(0o755)
    block = moved(
        CONTRIB / "backend/nginx-files.conf",
        {"127.0.0.1:8080": f"127.0.0.1:{port}", "/srv/postfix-maps": str(tmp_path / "maps")},
    )
    paths = "".join(
        f"{name}_temp_path {tmp_path}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; pid {tmp_path}/pid; error_log stderr; worker_processes 1; user root;\n"
        f"events {{}}\nhttp {{\n{paths}{block}\n}}\n"
    )
    process = subprocess.Popen(
        [
            shutil.which("nginx", path="/usr/sbin:/usr/bin") or "nginx",
            "-c",
            tmp_path / "nginx.conf",
            "-e",
            "stderr",
            "-p",
            tmp_path,
        ],
        stderr=subprocess.PIPE,
        preexec_fn=proc.die_with_parent,
    )
    try:
        end = time.monotonic() + 10
        while not (tmp_path / "pid").exists():
            assert process.poll() is None and time.monotonic() < end, process.communicate()[1]
            time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.communicate(timeout=10)


def test_keys_as_files(files: int, tmp_path: Path) -> None:
    for name, value in {
        "mailboxes/some one@example.com": "example.com/some.one/",
        "domains/example.com": "example.com",
        "mailboxes/tag+50%@example.com": "odd",
    }.items():
        path = tmp_path / "maps" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"result": value}))
    (tmp_path / "secret.json").write_text(json.dumps({"result": "outside of the maps"}))
    port = ports.free()
    changes = {
        "23450": str(port),
        "127.0.0.1:8080": f"127.0.0.1:{files}",
        "server:\n": f"server:\n  runtime_directory: {tmp_path}/run\n",
    }
    (tmp_path / "run").mkdir()
    with Daemon(moved(CONTRIB / "config/static-files.yml", changes)), SocketMap(("127.0.0.1", port)) as client:
        assert client.ask("mailboxes", "some one@example.com") == "OK example.com/some.one/"
        assert client.ask("mailboxes", "tag+50%@example.com") == "OK odd"
        assert client.ask("domains", "example.com") == "OK example.com"
        assert client.ask("mailboxes", "nobody@example.com") == "NOTFOUND "
        assert client.ask("mailboxes", "a?b#c") == "NOTFOUND "
        assert client.ask("mailboxes", "../domains/example.com") != "OK example.com/some.one/"
        assert "outside" not in client.ask("mailboxes", "../../secret")


def test_postfix_knows_every_parameter_of_the_example(tmp_path: Path) -> None:
    """Those in comments too: a parameter that does not exist makes postconf warn."""
    needs("postconf")
    text = (CONTRIB / "postfix/main.cf.example").read_text()
    settings = re.sub(r"^# (?=\w+ = )", "", text, flags=re.MULTILINE)
    assert len(re.findall(r"^\w+ = ", settings, re.MULTILINE)) > 6
    (tmp_path / "main.cf").write_text(settings)
    (tmp_path / "master.cf").write_text("")
    done = subprocess.run(["postconf", "-c", str(tmp_path), "-n"], capture_output=True, text=True)
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if "overriding earlier entry" not in line] == []


def test_the_example_for_postfix_fits_the_example_configuration() -> None:
    text = (CONTRIB / "postfix/main.cf.example").read_text()
    configuration = (CONTRIB / "config/pfxhttp.yml").read_text()
    for port, name in re.findall(r"socketmap:inet:127\.0\.0\.1:(\d+):(\w+)", text):
        assert f"port: {port}\n" in configuration and f"\n  {name}: {{}}\n" in configuration
    assert "port: " + re.findall(r"check_policy_service inet:127\.0\.0\.1:(\d+)", text)[0] in configuration

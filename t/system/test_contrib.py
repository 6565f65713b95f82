"""The examples in contrib/config are valid, as are their lines for Postfix, and the one of static files works with nginx."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit import daemon, ports, proc
from kit.clients import SocketMap
from kit.daemon import Daemon
from kit.needs import needs

CONTRIB = daemon.TREE / "contrib"
CONFIGURATIONS, LINES = sorted(CONTRIB.glob("config/*")), sorted(CONTRIB.glob("postfix/*"))


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.name)
def test_every_configuration_is_valid(path: Path, tmp_path: Path) -> None:
    for name in ("nauthilus.password", "users.password"):
        (tmp_path / name).write_text("user:password\n")
    copy = tmp_path / path.name
    text = path.read_text().replace("group: postfix", "")  # this machine may have no such group
    copy.write_text(
        text.replace("/etc/pfxhttp/", f"{tmp_path}/").replace("/var/spool/postfix/pfxhttp/", f"{tmp_path}/")
    )
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


@pytest.mark.parametrize("path", LINES, ids=lambda path: path.name)
def test_postfix_knows_every_parameter_of_the_examples(path: Path, tmp_path: Path) -> None:
    """Those in comments too: a parameter that does not exist makes postconf warn."""
    needs("postconf")
    settings = re.sub(r"^# (?=\w+ = )", "", path.read_text(), flags=re.MULTILINE)
    assert re.search(r"^\w+ = ", settings, re.MULTILINE)
    (tmp_path / "main.cf").write_text(settings)
    os.utime(tmp_path / "main.cf", (0, 0))  # Postfix waits for a file to settle that changed a moment ago
    (tmp_path / "master.cf").write_text("")
    done = subprocess.run(["postconf", "-c", str(tmp_path), "-n"], capture_output=True, text=True)
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if "overriding earlier entry" not in line] == []


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.name)
def test_each_configuration_has_its_lines_for_postfix(path: Path) -> None:
    """The maps and services that main.cf names, in comments too, are those of the configuration, in comments too."""
    configuration = path.read_text()
    assert f"contrib/postfix/{path.stem}.cf" in configuration
    lines = (CONTRIB / f"postfix/{path.stem}.cf").read_text()
    assert f"contrib/config/{path.name}" in lines
    for port in re.findall(r"inet:127\.0\.0\.1:(\d+)", lines):
        assert f"port: {port}\n" in configuration
    for name in re.findall(r"(?:127\.0\.0\.1:\d+|\$\{maps\}):(\w+)", lines):
        assert re.search(rf"^  {name}:", configuration, re.MULTILINE)
    assert {line.stem for line in LINES} == {configuration.stem for configuration in CONFIGURATIONS}

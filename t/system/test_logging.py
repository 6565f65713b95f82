"""The log as operators and their tools read it: sessions can be followed, nobody can forge a line, secrets stay out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from kit import ports
from kit.backend import Backend
from kit.clients import SocketMap
from kit.configuration import configuration, listener, policy, socket_map
from kit.daemon import Daemon
from kit.site import Site

pytestmark = pytest.mark.usefixtures("same_workers")

FORGED = 'x\r\nlevel=ERROR msg="forged"\n{"level": "ERROR"}\x1b[31m\0\u2028\x85end'


@pytest.fixture(scope="module")
def site(backend: Backend) -> Iterator[Site]:
    backend.answer("/map", json={"result": "x"})
    backend.answer("/check", json={"action": "DUNNO"})
    backend.answer("/html", body=b"<html>maintenance of s3cret-bearer", status=200)
    backend.answer("/bad", json={"error": FORGED})
    secret = {"custom_headers": ["Authorization: Bearer s3cret-bearer"]}
    maps = {
        "map": socket_map(backend.url("/map"), **secret),
        "bad": socket_map(backend.url("/bad")),
        "html": socket_map(backend.url("/html"), **secret),
        "down": socket_map("http://127.0.0.1:9/path?token=s3cret-query", http_auth_basic="a:s3cret-basic"),
    }
    with Site(maps, {"check": policy(backend.url("/check"))}) as started:
        yield started


def field(line: str, name: str) -> str:
    found = re.search(rf'\b{name}=("(?:[^"\\]|\\.)*"|\S*)', line)
    assert found, f"no {name} in {line}"
    return found[1].strip('"')


def test_a_session_can_be_followed(site: Site):
    mark = site.log.position
    with site.client() as client:
        client.ask("map", "k")
        client.ask("map", "k")
        here = f"127.0.0.1:{client.socket.getsockname()[1]}"
    site.log.wait_for(f'msg="Connection closed".*client={here}', start=mark)
    lines = [line for line in site.log.lines(mark) if f"client={here}" in line]
    assert [field(line, "msg") for line in lines] == [
        "New connection established",
        "Received request", "Backend responded", "Response sent",
        "Received request", "Backend responded", "Response sent",
        "Connection closed",
    ]  # fmt: skip
    sessions = {field(line, "session") for line in lines}
    assert len(sessions) == 1 and re.fullmatch("[0-9a-f]{16}", sessions.pop())
    requests = [field(line, "sub_session") for line in lines[1:7]]
    assert len(set(requests[:3])) == len(set(requests[3:])) == 1 and requests[0] != requests[3]
    assert all("level=DEBUG" in line for line in lines[1:7])
    assert "level=INFO" in lines[0] and "level=INFO" in lines[7]


def test_no_line_is_forged(site: Site):
    mark = site.log.position
    site.ask("map", FORGED)
    site.ask("bad", "k")
    site.ask("no such map" + FORGED, "k")
    with site.policy_client("check") as client:
        client.send_raw(b"helo_name=" + FORGED.replace("\n", " ").encode() + b"\n\n")
        client.reply()
    with site.policy_client("check") as client:
        client.send_raw(FORGED.encode() + b"\n\n")
        client.closed()
    with site.client() as client:
        client.send_raw(FORGED.encode())
        client.closed()
    site.log.wait_for("(?i)malformed|netstring|framing", start=mark)
    for line in site.log.lines(mark):
        assert re.match("time=\\S+ level=[A-Z]+ msg=", line), line
        assert line.isprintable(), ascii(line)


def test_secrets_stay_out(site: Site):
    site.ask("map", "k")
    assert site.ask("down", "k").startswith("TEMP ")
    site.log.wait_for("Backend failed")
    assert "s3cret" not in site.log.text


def test_the_response_that_is_no_answer_is_in_the_log(site: Site):
    mark = site.log.position
    assert site.ask("html", "k") == "TEMP backend's answer is no JSON"
    line = site.log.wait_for('msg="Backend responded"', start=mark)
    assert (field(line, "method"), field(line, "status")) == ("POST", "200")
    assert field(line, "body") == "<html>maintenance of <redacted>"
    line = site.log.wait_for('msg="Backend failed"', start=mark)
    assert "cache=" not in line


def test_a_listener_without_a_name_is_called_by_its_address(backend: Backend):
    port = ports.free()
    unnamed = {**listener("socket_map", "", port), "worker_pool": {"max_workers": 1}}
    del unnamed["name"]
    with Daemon(configuration(unnamed, socket_maps={"map": socket_map(backend.url("/map"))})) as started:
        with SocketMap(("127.0.0.1", port)) as client:
            assert client.ask("map", "k") == "OK x"
        line = started.log.wait_for("New connection established")
        assert field(line, "listener") == f"tcp:127.0.0.1:{port}"
        done = started.run("query", "map", "k")
        assert (done.stdout, done.returncode) == ("OK x\n", 0)
        assert f"\npool tcp:127.0.0.1:{port}: 1 worker," in started.run("status").stdout


def daemon(backend: Backend, port: int, **logging: object) -> Daemon:
    config = configuration(listener("socket_map", "maps", port), socket_maps={"map": socket_map(backend.url("/map"))})
    config["server"]["logging"] = logging
    return Daemon(config)


def test_json_lines(backend: Backend, site: Site):
    port = ports.free()
    with daemon(backend, port, json=True, level="debug") as started:
        with SocketMap(("127.0.0.1", port)) as client:
            client.ask("map", FORGED)
        started.log.wait_for("Connection closed")
        records = [json.loads(line) for line in started.log.lines()]
    assert {"INFO", "DEBUG"} <= {record["level"].upper() for record in records}
    assert all("time" in record and "msg" in record for record in records)


def test_levels_and_systemd(backend: Backend, site: Site):
    port = ports.free()
    with daemon(backend, port, level="info", use_systemd=True) as started:
        with SocketMap(("127.0.0.1", port)) as client:
            client.ask("map", "k")
        started.log.wait_for("Connection closed")
        assert started.log.find("New connection established")
        assert not started.log.find("time=") and not started.log.find("level=DEBUG")

"""The commands as an administrator types them: what they print, and with which code they exit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from kit import ports
from kit.backend import Answer, Backend, Keyed
from kit.clients import SocketMap
from kit.configuration import configuration, listener, policy, socket_map
from kit.daemon import Daemon, run
from kit.site import Site

from pfxhttpd import __version__

USAGE, CONFIGURATION = 64, 78
FOUND, NOT_FOUND, TEMPORARY, PERMANENT = 0, 1, 75, 69

FIVE_MISTAKES = """\
server:
  listen:
    - kind: socket_map
      name: demo_map
      type: tcp
      adress: 127.0.0.1
      port: 70000
  logging:
    level: loud
socket_maps:
  demo_map:
    target: http://127.0.0.1:9/
    payload: '{"key": "{{ .Kee }}"}'
    value_field: result
    timeout: soon
"""

WHERE_AND_WHAT = [
    (6, "server.listen[0].adress", "address"),
    (7, "server.listen[0].port", "70000|65535"),
    (9, "server.logging.level", "loud|debug"),
    (13, "socket_maps.demo_map.payload", "Kee"),
    (15, "socket_maps.demo_map.timeout", "soon|duration"),
]


def check(tmp_path: Path, text: str, name: str = "pfxhttp.yml"):
    path = tmp_path / name
    path.write_text(text)
    return run("--config", str(path), "check")


def test_check_lists_five_mistakes_with_their_lines(tmp_path: Path):
    result = check(tmp_path, FIVE_MISTAKES)
    assert result.returncode == CONFIGURATION
    lines = (result.stdout + result.stderr).splitlines()
    assert len(lines) == 5, lines
    for line, (number, key, what) in zip(lines, WHERE_AND_WHAT):
        assert re.match(rf"{tmp_path}/pfxhttp\.yml:{number}:\d+: {re.escape(key)}: .*({what})", line), line


def test_run_refuses_the_same_with_the_same_words(tmp_path: Path):
    checked = check(tmp_path, FIVE_MISTAKES)
    for command in (["run"], []):
        started = run("--config", str(tmp_path / "pfxhttp.yml"), *command)
        assert started.returncode == CONFIGURATION
        assert started.stdout + started.stderr == checked.stdout + checked.stderr


def good(backend_url: str = "http://127.0.0.1:9/") -> dict:
    return configuration(
        listener("socket_map", "maps", ports.free()), socket_maps={"demo_map": socket_map(backend_url)}
    )


def test_check_of_a_good_one(tmp_path: Path):
    for name, text in (
        ("pfxhttp.yml", yaml.safe_dump(good())),
        ("pfxhttp.json", json.dumps(good())),
    ):
        result = check(tmp_path, text, name)
        assert (result.returncode, result.stderr) == (0, ""), result.stderr


@pytest.mark.parametrize(
    "text, line",
    [
        ("server:\n  listen: [\n", 0),
        ("server:\n\tlisten: []\n", 2),
        ("server: &a\n  listen: *nowhere\n", 2),
        ("server:\n  listen: []\nserver: {}\n", 3),
        ("- just\n- a list\n", 1),
        ("hello\n", 1),
        ("server: !!python/object/apply:os.system ['true']\n", 1),
    ],
)
def test_check_of_what_is_no_configuration(tmp_path: Path, text: str, line: int):
    result = check(tmp_path, text)
    assert result.returncode == CONFIGURATION
    output = result.stdout + result.stderr
    assert "Traceback" not in output
    assert re.search(rf"pfxhttp\.yml:{line or '[0-9]+'}:\d+: ", output), output


def test_check_of_nothing_at_all(tmp_path: Path):
    for path in (tmp_path / "missing.yml", tmp_path):
        result = run("--config", str(path), "check")
        assert result.returncode == CONFIGURATION
        assert str(path) in result.stderr and len(result.stderr.splitlines()) == 1
    assert check(tmp_path, "").returncode == CONFIGURATION
    (tmp_path / "binary.yml").write_bytes(bytes(range(256)))
    result = run("--config", str(tmp_path / "binary.yml"), "check")
    assert result.returncode == CONFIGURATION and "Traceback" not in result.stderr


def test_no_configuration_anywhere(tmp_path: Path):
    result = run("check", environment={"HOME": str(tmp_path)}, cwd=tmp_path)
    if not any(Path(place).exists() for place in ("/usr/local/etc/pfxhttp", "/etc/pfxhttp")):
        assert result.returncode == CONFIGURATION
    (tmp_path / "pfxhttp.json").write_text(json.dumps(good()))
    assert run("check", environment={"HOME": "/nonexistent"}, cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    "arguments", [["--no-such-option"], ["no-such-command"], ["query"], ["--format", "ini", "check"]]
)
def test_usage(arguments: list[str]):
    result = run(*arguments)
    assert result.returncode == USAGE
    assert result.stdout == "" and "Traceback" not in result.stderr


def test_version_and_help():
    result = run("--version")
    assert result.returncode == 0 and __version__ in result.stdout
    result = run("--help")
    assert result.returncode == 0
    for command in ("run", "check", "config", "query", "status", "reload", "stop", "demo"):
        assert command in result.stdout


SECRETS = ("s3cret-client", "user:s3cret-basic", "s3cret-bearer")


def test_config_shows_what_holds_without_secrets(tmp_path: Path):
    config = good()
    config["socket_maps"]["defaults"] = {"timeout": "7s", "custom_headers": [f"Authorization: Bearer {SECRETS[2]}"]}
    config["socket_maps"]["demo_map"]["http_auth_basic"] = SECRETS[1]
    path = tmp_path / "pfxhttp.yml"
    path.write_text(yaml.safe_dump(config))
    result = run("--config", str(path), "config", environment={"PFXHTTP_SERVER_LOGGING_LEVEL": "error"})
    assert result.returncode == 0, result.stderr
    for secret in SECRETS:
        assert secret not in result.stdout
    assert "dXNlcjpzM2" not in result.stdout, "encoded is not hidden"
    assert "<redacted>" in result.stdout
    shown = yaml.safe_load(result.stdout)
    assert shown["server"]["logging"]["level"] == "error"
    assert shown["server"]["http_client"]["idle_connection_timeout"] in ("90s", "1m30s", 90)
    assert shown["socket_maps"]["demo_map"]["timeout"] in ("7s", 7)


@pytest.fixture(scope="module")
def site(backend: Backend) -> Iterator[Site]:
    table = {
        "some one@example.test": Answer(json={"result": "found"}),
        "ü": Answer(json={"result": "größer"}),
        "down": Answer(status=503),
        "refused": Answer(json={"error": "no"}),
        "late": Answer(silent=True),
    }
    backend.answer("/map", Keyed(table))
    backend.answer("/check", json={"action": "REJECT {sender}"}, fill=True)
    with Site(
        {"demo_map": socket_map(backend.url("/map"), timeout="500ms")}, {"check": policy(backend.url("/check"))}
    ) as started:
        yield started


@pytest.mark.parametrize(
    "key, code, shown",
    [
        ("some one@example.test", FOUND, "found"),
        ("ü", FOUND, "größer"),
        ("nobody", NOT_FOUND, "NOTFOUND"),
        ("down", TEMPORARY, "TEMP"),
        ("late", TEMPORARY, "TIMEOUT"),
        ("refused", PERMANENT, "PERM"),
    ],
)
def test_query_a_map(site: Site, key: str, code: int, shown: str):
    result = site.daemon.run("query", "demo_map", key)
    assert result.returncode == code, result
    assert shown in result.stdout and result.stderr == ""


def test_query_a_policy(site: Site):
    result = site.daemon.run("query", "--policy", "check", "sender=a=b@example.test", "recipient=")
    assert "REJECT a=b@example.test" in result.stdout and result.stderr == ""


def test_query_of_nobody(tmp_path: Path):
    path = tmp_path / "pfxhttp.yml"
    path.write_text(yaml.safe_dump(good()))
    result = run("--config", str(path), "query", "demo_map", "k")
    assert result.returncode == TEMPORARY
    assert len(result.stderr.splitlines()) == 1


def test_the_environment_overrides(backend: Backend):
    port = ports.free()
    config = configuration(
        listener("socket_map", "maps", port), socket_maps={"demo_map": socket_map(backend.url("/map"))}, level="info"
    )
    with Daemon(config, environment={"PFXHTTP_SERVER_LOGGING_LEVEL": "debug"}) as daemon:
        with SocketMap(("127.0.0.1", port)) as client:
            client.ask("demo_map", "k")
        daemon.log.wait_for("level=DEBUG")


TOML = """\
[server]
runtime_directory = "{directory}"
[[server.listen]]
kind = "socket_map"
name = "demo_map"
type = "tcp"
address = "127.0.0.1"
port = {port}
[socket_maps.demo_map]
target = "{target}"
value_field = "result"
"""


def test_other_formats_run_too(backend: Backend, tmp_path: Path):
    backend.answer("/fixed", json={"result": "x"})
    port = ports.free()
    text = TOML.format(directory=tmp_path, port=port, target=backend.url("/fixed"))
    with Daemon(text, arguments=("--format", "toml", "run")), SocketMap(("127.0.0.1", port)) as client:
        assert client.ask("demo_map", "k") == "OK x"

"""`check` refuses what a start would refuse, with the line, and warns of what is legal but unwise."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kit import daemon, ports
from kit.backend import ThreadBackend
from kit.certificates import Authority
from kit.configuration import configuration, listener, policy, socket_map
from kit.needs import needs
from kit.server import ServerTls

from pfxhttpd.__main__ import parser, run
from pfxhttpd.cli import check_machine

Change = Callable[[dict[str, Any], Path], None]


def base() -> dict[str, Any]:
    return configuration(
        listener("socket_map", "users", 23450),
        listener("policy_service", "checks", 23451),
        socket_maps={"users": socket_map("http://127.0.0.1/")},
        policy_services={"checks": policy("https://api.example.com/")},
    )


def checked(path: Path, *arguments: str) -> int:
    return run(parser().parse_args(["check", "--config", str(path), *arguments]), {})


def written(tmp_path: Path, change: Change) -> Path:
    config = base()
    change(config, tmp_path)
    path = tmp_path / "pfxhttp.yml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    path.chmod(0o600)
    return path


def server(**settings: Any) -> Change:
    return lambda config, directory: config["server"].update(settings)


def observability(**settings: Any) -> Change:
    return server(observability={"prometheus_enabled": True, **settings})


def tls(**settings: Any) -> Change:
    def change(config: dict[str, Any], directory: Path) -> None:
        (directory / "text").write_text("no PEM")
        config["server"]["tls"] = {"enabled": True, **{key: str(directory / name) for key, name in settings.items()}}

    return change


def unix(**settings: Any) -> Change:
    def change(config: dict[str, Any], directory: Path) -> None:
        address = {"address": str(directory / "socket"), **settings}
        config["server"]["listen"][0] = listener("socket_map", "users", **address)

    return change


def entry(**settings: Any) -> Change:
    return lambda config, directory: config["socket_maps"]["users"].update(settings)


REFUSED = {
    "no CA file": (tls(root_ca="missing.pem"), "server.tls.root_ca: .*missing.pem: No such file"),
    "CA file is no PEM": (tls(root_ca="text"), "server.tls.root_ca: .*text: no PEM file that can be used"),
    "no certificate": (tls(cert="missing.pem", key="text"), "server.tls.cert: .*missing.pem: No such file"),
    "no user": (server(run_as_user="no-such-user"), "server.run_as_user: there is no such user"),
    "no group": (server(run_as_group="no-such-group"), "server.run_as_group: there is no such group"),
    "no jail": (server(chroot="/no/such/jail"), "server.chroot: there is no such directory"),
    "no runtime directory": (server(runtime_directory="/etc/passwd/x/y"), "server.runtime_directory: Not a directory"),
    "no socket directory": (unix(address="/no/such/directory/s"), "listen\\[0\\].address: .*there is no directory"),
    "no socket user": (unix(user="no-such-user"), "listen\\[0\\].address: .*there is no user no-such-user"),
    "a foreign address for the metrics": (
        observability(prometheus_address="192.0.2.1"),
        "server.observability.prometheus_address: .*192.0.2.1",
    ),
    "no certificate for the metrics": (
        observability(prometheus_tls={"enabled": True, "cert": "/missing.pem", "key": "/missing.pem"}),
        "server.observability.prometheus_tls.cert: /missing.pem: No such file",
    ),
    "a foreign address": (
        lambda config, _: config["server"]["listen"][1].update(address="192.0.2.1"),
        "listen\\[1\\].address: .*192.0.2.1",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_start_would_refuse_is_refused_with_its_line(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, expected = REFUSED[case]
    path = written(tmp_path, change)
    assert checked(path) == 78
    out, err = capsys.readouterr()
    assert out == ""
    assert re.match(rf"{path}:[1-9][0-9]*:[1-9][0-9]*: .*{expected}", err), err


def too_many(what: str) -> Change:
    """One more of it than the server can have."""

    def change(config: dict[str, Any], directory: Path) -> None:
        if what == "targets":
            for number in range(1023):
                config["socket_maps"][f"m{number}"] = socket_map(f"http://127.0.0.1/{number}")
            return
        pools, workers = (257, 1) if what == "pools" else (5, 820)
        config["server"]["listen"] = [
            {**listener("socket_map", f"p{number}", 20000 + number), "worker_pool": {"max_workers": workers}}
            for number in range(pools)
        ]

    return change


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("pools", "the configuration has 257 pools; 256 is the most"),
        ("targets", "the configuration has 1025 targets; 1024 is the most"),
        ("workers", "the configuration has 4100 workers; 4096 is the most"),
    ],
)
def test_more_than_the_server_can_have_is_refused(
    what: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, too_many(what))
    assert checked(path) == 78
    assert message in capsys.readouterr().err
    started = daemon.run("--config", str(path), "run")
    assert (started.returncode, started.stderr) == (78, f"pfxhttpd: {message}\n")


def test_a_jail_without_its_files_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, server(chroot=str(tmp_path)))
    assert checked(path) == 78
    assert "server.chroot: it must contain etc/resolv.conf, etc/hosts, etc/nsswitch.conf" in capsys.readouterr().err


def test_a_key_that_does_not_fit_its_certificate_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = Authority(tmp_path / "ca")
    one, other = ours.server(), ours.server()
    path = written(tmp_path, server(tls={"enabled": True, "cert": one.certificate, "key": other.key}))
    assert checked(path) == 78
    assert "server.tls.cert: " in (said := capsys.readouterr().err)
    assert said.endswith(f"{one.certificate}: the private key of server.tls.key does not belong to this certificate\n")


def test_a_runtime_directory_of_another_user_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs("root")
    path = written(tmp_path, server(run_as_user="nobody", runtime_directory=str(tmp_path / "run")))
    assert checked(path) == 0
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    os.chown(tmp_path / "run", 1, 1)
    assert checked(path) == 78
    assert "server.runtime_directory: it belongs to user 1; remove it, or give it to user " in capsys.readouterr().err


def world_writable(config: dict[str, Any], directory: Path) -> None:
    unix(mode="0666")(config, directory)


def sasl(config: dict[str, Any], directory: Path) -> None:
    config["server"]["listen"].append(listener("dovecot_sasl", "login", 23452))
    config["dovecot_sasl"] = {"login": {"target": "http://api.example.com/", "timeout": "10s"}}


WARNED = {
    "skip_verify": (server(tls={"enabled": True, "skip_verify": True}), "server.tls.skip_verify: warning: "),
    "TLS files without enabled": (server(tls={"root_ca": "/etc/ca.pem"}), "server.tls.root_ca: warning: has no effect"),
    "world-writable socket": (world_writable, "listen\\[0\\].mode: warning: every user of this machine"),
    "a SASL timeout": (sasl, "dovecot_sasl.login.timeout: warning: Postfix gives up after 10 s"),
    "passwords over http": (sasl, "dovecot_sasl.login.target: warning: passwords are sent to another machine"),
    "a timeout": (entry(timeout="101s"), "users.timeout: warning: Postfix gives up after 100 s"),
    "404 is expected": (entry(status_code=[200, 404], error_field=""), "users.status_code: warning: with 404"),
    "the same request for every key": (
        entry(payload='{"map": "{{ .Name }}", "key": "$key"}'),
        "users.payload: warning: neither payload nor target has a placeholder",
    ),
    "the same URL for every key": (entry(method="GET"), "users.target: warning: neither payload nor target"),
    "a JSONPath": (entry(value_field="$.result"), "users.value_field: warning: this looks like a JSONPath"),
    "a JSON pointer": (entry(value_field="/result"), "users.value_field: warning: this looks like a JSONPath"),
    "an index in brackets": (entry(value_field="items[0]"), "users.value_field: warning: this looks like a JSONPath"),
    "an unreachable entry": (
        lambda config, _: config["policy_services"].update(lost=policy("http://127.0.0.1/")),
        "policy_services.lost: warning: no listener of kind policy_service has this name",
    ),
    "credentials over http": (
        entry(target="http://api.example.com/", http_auth_basic="a:b"),
        "users.target: warning: credentials are sent to another machine",
    ),
    "more workers than memory": (
        server(
            listen=[
                listener("socket_map", "users", 20000 + number, worker_pool={"max_workers": 1000})
                for number in range(4)
            ]
        ),
        "warning: 4000 workers take",
    ),
}


@pytest.mark.parametrize("case", WARNED)
def test_what_is_unwise_is_a_warning(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A thousand workers are what this machine has memory for, whatever machine it is.
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    monkeypatch.setattr(check_machine, "WORKER_MEMORY", memory // 1000)
    change, expected = WARNED[case]
    path = written(tmp_path, change)
    assert checked(path) == 0, capsys.readouterr().err
    assert re.search(expected, capsys.readouterr().out)
    assert checked(path, "--strict") == 78


def test_a_secret_that_everybody_can_read_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, entry(http_auth_basic="api:secret"))
    assert checked(path) == 0
    assert "every user" not in capsys.readouterr().out
    path.chmod(0o644)
    assert checked(path) == 0
    shown = capsys.readouterr().out
    assert "http_auth_basic: warning: this secret is in a file that every user of this machine can read" in shown
    assert "api:secret" not in shown
    (tmp_path / "secret").write_text("api:secret\n")
    (tmp_path / "secret").chmod(0o644)
    path = written(tmp_path, entry(http_auth_basic_file="secret"))
    assert checked(path) == 0
    assert "http_auth_basic_file: warning: every user of this machine can read that file" in capsys.readouterr().out


def test_nothing_to_warn_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, server(run_as_user="nobody"))
    assert checked(path, "--strict") == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == f"{path}: ok" and all("not checked" in line for line in shown[1:])


def test_migrate_lists_what_differs_key_by_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, entry(payload='{"k": "{{ .Key }}"}'))
    assert checked(path, "--migrate") == 0
    shown = capsys.readouterr().out
    assert "socket_maps.users.payload: placeholders in a JSON string are escaped" in shown
    assert "socket_maps.users.value_field: is a path" in shown
    assert "server.worker_pool.max_workers: workers are processes" in shown
    assert "http_client" not in shown


def test_connect_says_for_each_backend_whether_it_can_be_reached(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    ours = Authority(tmp_path / "ca")
    pair = ours.server()
    with ThreadBackend(ServerTls(pair.certificate, pair.key)) as secure, ThreadBackend() as plain:
        closed = ports.free()

        def change(config: dict[str, Any], directory: Path) -> None:
            config["server"]["tls"] = {"enabled": True, "root_ca": ours.certificate}
            config["socket_maps"] = {
                "users": socket_map(f"https://127.0.0.1:{secure.port}/x?key={{{{ .Key }}}}"),
                "more": socket_map(f"https://127.0.0.1:{secure.port}/y"),
                "plain": socket_map(f"http://127.0.0.1:{plain.port}/"),
            }
            config["policy_services"]["checks"]["target"] = f"http://127.0.0.1:{plain.port}/"

        path = written(tmp_path, change)
        assert checked(path, "--connect") == 0
        lines = capsys.readouterr().out.splitlines()
        [line] = [line for line in lines if line.startswith("https://")]
        assert line.startswith(f"https://127.0.0.1:{secure.port}: connected, certificate verified, valid for ")
        assert f"http://127.0.0.1:{plain.port}: connected" in lines

        def broken(config: dict[str, Any], directory: Path) -> None:
            change(config, directory)
            del config["server"]["tls"]
            config["socket_maps"]["plain"]["target"] = f"http://127.0.0.1:{closed}/"

        assert checked(written(tmp_path, broken), "--connect") == 69
        shown = capsys.readouterr().out
        assert f"http://127.0.0.1:{closed}: cannot connect to 127.0.0.1" in shown
        assert "trusted is the system's store" in next(
            line for line in shown.splitlines() if line.startswith("https://")
        )


def test_connect_names_what_a_set_up_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = Authority(tmp_path / "ca")
    pair = ours.server()
    with (
        ThreadBackend(ServerTls(pair.certificate, pair.key)) as secure,
        ThreadBackend(ServerTls(pair.certificate, pair.key, client_ca=ours.certificate)) as demanding,
        ThreadBackend() as plain,
    ):

        def change(config: dict[str, Any], directory: Path) -> None:
            config["server"]["tls"] = {"enabled": True, "root_ca": ours.certificate}
            config["socket_maps"] = {
                "users": socket_map(f"http://127.0.0.1:{secure.port}/"),
                "more": socket_map(f"https://127.0.0.1:{demanding.port}/"),
                "plain": socket_map(f"https://127.0.0.1:{plain.port}/"),
            }
            config["policy_services"]["checks"]["target"] = f"http://127.0.0.1:{plain.port}/"

        assert checked(written(tmp_path, change), "--connect") == 69
        found = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines() if line.startswith("http"))
        assert found[f"http://127.0.0.1:{secure.port}"] == "the port speaks TLS (the target has to begin with https:)"
        assert "demands a client certificate" in found[f"https://127.0.0.1:{demanding.port}"]
        assert found[f"https://127.0.0.1:{plain.port}"].startswith("the port does not speak TLS")
        assert found[f"http://127.0.0.1:{plain.port}"] == "connected"

"""From root to nobody, and into a jail with nothing but the three files of name resolution, on the real daemon."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kit import ports
from kit.backend import Backend, ServerTls
from kit.certificates import Authority
from kit.clients import Policy, SocketMap
from kit.collector import decode
from kit.configuration import configuration, listener, policy, socket_map, traces
from kit.daemon import Daemon, clean_environment
from kit.needs import needs
from kit.places import reachable
from kit.scrape import Samples, get

pytestmark = pytest.mark.executed

USER = "nobody"
THREE = ("resolv.conf", "hosts", "nsswitch.conf")
NAME = "api.jail.test"


class Jailed(Daemon):
    """Behind a jail's walls nobody can remove the socket files outside: the next start replaces them."""

    def socket_files(self) -> list[Path]:
        return []


@pytest.fixture(autouse=True)
def _root() -> None:
    needs("root")


@pytest.fixture
def jail(tmp_path: Path) -> Path:
    root = Path("/tmp", f"pfxhttpd-jail-{os.getpid()}-{tmp_path.name}")
    (root / "etc").mkdir(parents=True)
    root.chmod(0o755)
    (root / "etc/resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    (root / "etc/hosts").write_text(f"127.0.0.1 localhost {NAME}\n")
    (root / "etc/nsswitch.conf").write_text("hosts: files\n")
    yield root
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def api(authority: Authority) -> Iterator[Backend]:
    pair = authority.server(NAME)
    client = authority.client("pfxhttpd")
    with Backend(ServerTls(pair.certificate, pair.key)) as backend:
        backend.answer("/map", json={"result": "over TLS"})
        backend.answer("/policy", json={"action": "DUNNO"})
        backend.client_pair = client
        yield backend


def jailed(api: Backend, authority: Authority, jail: Path, *listeners: Any, **server: Any) -> dict[str, Any]:
    tls = {
        "enabled": True,
        "root_ca": authority.certificate,
        "cert": api.client_pair.certificate,
        "key": api.client_pair.key,
    }
    server = {"tls": tls, **server}
    return configuration(
        *listeners,
        socket_maps={"m": socket_map(api.url("/map", host=NAME))},
        policy_services={"p": policy(api.url("/policy", host=NAME))},
        run_as_user=USER,
        run_as_group="nogroup",
        chroot=str(jail),
        response_cache={"enabled": True},
        **server,
    )


def status_of(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}


def assert_powerless(pid: int) -> None:
    """The process is nobody, in no other group, with no capability and no way to any."""
    account = pwd.getpwnam(USER)
    status = status_of(pid)
    assert status["Uid"] == [str(account.pw_uid)] * 4
    assert status["Gid"] == [str(account.pw_gid)] * 4
    assert set(status["Groups"]) <= {str(account.pw_gid)}
    for held in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[held][0], 16) == 0, held
    assert status["NoNewPrivs"] == ["1"]
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert next(line for line in limits.splitlines() if line.startswith("Max core")).split()[4:6] == ["0", "0"]


def test_a_jail_with_nothing_but_three_files(api: Backend, authority: Authority, jail: Path) -> None:
    low, high, metrics = 987, ports.free(), 988
    listeners = listener("socket_map", "m", low), listener("policy_service", "p", high)
    watched = {"prometheus_enabled": True, "prometheus_port": metrics, "prometheus_runtime_metrics": True}
    config = jailed(api, authority, jail, *listeners, observability=watched)
    with Jailed(config) as daemon:
        with SocketMap(("127.0.0.1", low)) as client:
            assert client.ask("m", "someone@example.com") == "OK over TLS"
        with Policy(("127.0.0.1", high)) as client:
            assert client.ask({"sender": "a@example.com"}) == "DUNNO"
        processes = daemon.processes()
        assert len(processes) == 6  # master, cache, parking, metrics, two workers
        for pid in processes:
            assert_powerless(pid)
            assert os.readlink(f"/proc/{pid}/root") == str(jail)
            assert os.readlink(f"/proc/{pid}/cwd") == str(jail)
            assert not directories_open(pid)
        assert daemon.run("status").returncode == 0
        shown = Samples(get(f"http://127.0.0.1:{metrics}/metrics").text)
        assert shown.sum("pfxhttp_application_requests_total", outcome="found") == 2
        assert shown.sum("pfxhttp_certificate_expiry_timestamp_seconds", certificate="server.tls.cert") > 1e9
        assert not shown.label_values("role")  # there is no /proc in the jail


def test_traces_out_of_the_jail(api: Backend, authority: Authority, jail: Path) -> None:
    """By TLS, with the certificates of `server.tls`, to a name that only the jail knows; not enabled by a reload."""
    api.answer("/v1/traces")
    config = jailed(api, authority, jail, listener("socket_map", "m", port := ports.free()))
    with_traces = jailed(
        api,
        authority,
        jail,
        listener("socket_map", "m", port),
        observability=traces(api.url("", host=NAME), otel_sample_ratio=1),
    )
    with Jailed(with_traces) as daemon:
        api.forget()
        with SocketMap(("127.0.0.1", port)) as client:
            assert client.ask("m", "someone@example.com") == "OK over TLS"
        (sent,) = api.wait_requests(1, "/v1/traces")
        assert {span.name for span in decode(sent.content)} == {"socket_map m", "decode", "POST /map", "encode"}
        assert sent.server_name == NAME
    with Jailed(config) as daemon:
        daemon.write(with_traces)
        inside = jail / daemon.config_path.relative_to("/")
        inside.parent.mkdir(parents=True)
        inside.write_text(daemon.config_path.read_text())
        said = daemon.reload()
        assert "server.observability.otel_enabled" in said and "only a restart can load them" in said


def directories_open(pid: int) -> list[str]:
    """What a process could climb out of its jail with."""
    return [name for name in os.listdir(f"/proc/{pid}/fd") if os.path.isdir(f"/proc/{pid}/fd/{name}")]


def test_children_hold_nothing_of_each_other(api: Backend, authority: Authority, jail: Path) -> None:
    """A worker has its doors, its two queues, its channel, and what every process needs; no more."""
    port = ports.free()
    with Jailed(jailed(api, authority, jail, listener("socket_map", "m", port), workers=8)) as daemon:
        counts = {pid: len(os.listdir(f"/proc/{pid}/fd")) for pid in daemon.workers()}
        assert len(counts) == 8
        assert max(counts.values()) <= 14, counts
        assert len(set(counts.values())) == 1, counts


def test_replaced_processes_are_powerless_too(api: Backend, authority: Authority, jail: Path) -> None:
    watched = {"prometheus_enabled": True, "prometheus_port": ports.free()}
    config = jailed(api, authority, jail, listener("socket_map", "m", ports.free()), observability=watched)
    with Jailed(config) as daemon:
        before = set(daemon.processes())
        for role in ("cache", "parking", "metrics"):
            os.kill(daemon.process_named(role), signal.SIGKILL)
        os.kill(daemon.workers()[0], signal.SIGKILL)
        for role in ("cache", "parking", "metrics", "worker"):
            daemon.log.wait_for(f'Process died" process="?{role}')
        while len(born := set(daemon.processes()) - before) < 4:
            os.sched_yield()
        for pid in born:
            assert_powerless(pid)


@pytest.mark.parametrize("missing", THREE)
def test_a_jail_that_lacks_a_file_is_refused(api: Backend, authority: Authority, jail: Path, missing: str) -> None:
    (jail / "etc" / missing).unlink()
    with_listener = listener("socket_map", "m", ports.free())
    with Jailed(jailed(api, authority, jail, with_listener), ready=False) as daemon:
        assert daemon.wait() == os.EX_CONFIG
        daemon.log.wait_end()
        assert daemon.log.lines() == [f"pfxhttpd: chroot {jail}: it must contain etc/{missing}"]
        assert not daemon.processes()
        daemon.destroy()


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ({"run_as_user": "no-such-user"}, "run_as_user no-such-user: there is no such user"),
        ({"run_as_group": "no-such-group"}, "run_as_group no-such-group: there is no such group"),
        ({"chroot": "/no/such/directory"}, "chroot /no/such/directory: there is no such directory"),
    ],
)
def test_what_cannot_be_become_is_refused(server: dict[str, str], said: str, tmp_path: Path) -> None:
    config = configuration(
        listener("socket_map", "m", address=str(tmp_path / "m.sock")),
        socket_maps={"m": socket_map("http://127.0.0.1:9/")},
        **server,
    )
    with Daemon(config, ready=False) as daemon:
        assert daemon.wait() == os.EX_CONFIG
        daemon.log.wait_end()
        assert daemon.log.lines() == [f"pfxhttpd: {said}"]
        assert not daemon.socket_files() and not (tmp_path / "m.sock").exists()
        daemon.destroy()


def test_without_root_nobody_else_can_be_become(tmp_path: Path) -> None:
    file = Path("/tmp", f"pfxhttpd-unprivileged-{os.getpid()}.yml")
    file.write_text(
        "server:\n"
        "  run_as_user: daemon\n"
        "  runtime_directory: /tmp/pfxhttpd-unprivileged\n"
        "  listen: [{kind: socket_map, name: m, type: tcp, address: 127.0.0.1, port: 1}]\n"
        "socket_maps: {m: {target: 'http://127.0.0.1:9/', value_field: result}}\n"
    )
    try:
        # Interpreter and tree may lie where only root can read; so the change comes after all is loaded.
        program = (
            "import os, pwd, sys, pfxhttpd.__main__ as program\n"
            "from pfxhttpd.io import jail\n"
            "jail.preload('pfxhttpd')\n"
            f"user = pwd.getpwnam({USER!r})\n"
            "os.setgroups([]); os.setgid(user.pw_gid); os.setuid(user.pw_uid)\n"
            f"sys.exit(program.main(['--config', {str(file)!r}, 'run']))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=clean_environment(),
            cwd="/",
            capture_output=True,
            text=True,
            timeout=30,
        )
    finally:
        file.unlink()
    assert done.returncode == os.EX_NOPERM
    assert done.stderr == "pfxhttpd: run_as_user daemon: only root can become another user\n"


def test_reload_inside_the_jail(api: Backend, authority: Authority, jail: Path) -> None:
    """The original's manual: after the descent, every path is looked up inside, and low ports are out of reach."""
    port, added = ports.free(), ports.free()
    config = jailed(api, authority, jail, listener("socket_map", "m", port))
    with Jailed(config) as daemon:
        said = daemon.reload()
        assert "Reload failed" in said and "files are looked for inside the chroot" in said

        inside = jail / daemon.config_path.relative_to("/")
        inside.parent.mkdir(parents=True)
        inside.write_text(daemon.config_path.read_text())
        said = daemon.reload()
        assert "Reload failed" in said and "server.tls.root_ca" in said

        for path in (authority.certificate, api.client_pair.certificate, api.client_pair.key):
            copy = jail / Path(path).relative_to("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
            copy.chmod(0o644)
        for directory in [*copy.parents][: len(copy.relative_to(jail).parents)]:
            directory.chmod(0o755)
        assert "Configuration reloaded" in daemon.reload()

        low = {**config, "server": {**config["server"], "runtime_directory": str(daemon.runtime_directory)}}
        low["server"]["listen"] = [*config["server"]["listen"], listener("socket_map", "low", 986)]
        daemon.write(low)
        inside.write_text(daemon.config_path.read_text())
        said = daemon.reload()
        assert "Reload failed" in said and "986" in said and "root" in said

        low["server"]["listen"][-1] = listener("socket_map", "high", added)
        daemon.write(low)
        inside.write_text(daemon.config_path.read_text())
        assert "Configuration reloaded" in daemon.reload()
        for where in (port, added):
            with SocketMap(("127.0.0.1", where)) as client:
                assert client.ask("m", "x") == "OK over TLS"


def test_the_lookup_of_a_listeners_name_has_a_limit(api: Backend, authority: Authority, jail: Path) -> None:
    """The jail's only name server never answers; the resolver itself would wait for 30 seconds, and then try again."""
    config = jailed(api, authority, jail, listener("socket_map", "m", ports.free()), tls={"enabled": False})
    (jail / "etc/nsswitch.conf").write_text("hosts: files dns\n")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, Jailed(config) as daemon:
        server.bind(("127.83.1.1", 53))
        (jail / "etc/resolv.conf").write_text("nameserver 127.83.1.1\noptions timeout:30 attempts:3\n")
        late = {**listener("socket_map", "late", ports.free()), "address": "late.pfxhttpd.test"}
        config["server"]["listen"].append(late)
        config["server"]["runtime_directory"] = str(daemon.runtime_directory)
        inside = jail / daemon.config_path.relative_to("/")
        inside.parent.mkdir(parents=True)
        daemon.write(config)
        inside.write_text(daemon.config_path.read_text())
        told = daemon.run("reload")
        assert told.returncode == os.EX_CONFIG
        assert "the lookup of late.pfxhttpd.test took longer than 5 s" in told.stderr
        assert server.recv(4096)  # it was asked
        os.kill(daemon.workers()[0], signal.SIGKILL)
        daemon.log.wait_for("Process died")
        shown = daemon.run("status")
        assert shown.returncode == 1 and "1 process died and was replaced" in shown.stdout, shown


def test_the_service_manager_hears_from_inside(api: Backend, authority: Authority, jail: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(20)
        manager.bind(str(tmp_path / "notify"))
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "4000000"}
        config = jailed(api, authority, jail, listener("socket_map", "m", ports.free()))
        with Jailed(config, environment=environment) as daemon:
            assert hear(manager, "READY=1")["MAINPID"] == str(daemon.pid)
            hear(manager, "WATCHDOG=1")
            daemon.reload()
            assert "MONOTONIC_USEC" in hear(manager, "RELOADING=1")
            hear(manager, "READY=1")
        hear(manager, "STOPPING=1")


def hear(manager: socket.socket, word: str) -> dict[str, str]:
    """The next datagram with that line in it, as variables."""
    while True:
        lines = manager.recv(4096).decode().splitlines()
        if word in lines:
            return dict(line.split("=", 1) for line in lines)


def test_syslog_from_inside(api: Backend, authority: Authority, jail: Path) -> None:
    assert not os.path.exists("/dev/log"), "this machine has a syslog; the test brings its own"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.settimeout(20)
        syslog.bind("/dev/log")
        try:
            os.chmod("/dev/log", 0o666)
            port = ports.free()
            config = jailed(
                api, authority, jail, listener("socket_map", "m", port), logging={"level": "info", "syslog": "mail"}
            )
            with Jailed(config, ready=False) as daemon:
                text = ""
                while "Ready" not in text:  # Postfix servers of other tests write here as well
                    text = syslog.recv(8192).decode()
                assert text.startswith("<22>pfxhttpd["), text  # mail.info
                with SocketMap(("127.0.0.1", port)) as client:
                    client.ask("m", "x")
                    while "New connection" not in text:
                        text = syslog.recv(8192).decode()
                assert f"<22>pfxhttpd[{daemon.workers()[0]}]" in text or f"<22>pfxhttpd[{daemon.workers()[1]}]" in text
        finally:
            os.unlink("/dev/log")


def test_a_user_without_a_jail_leaves_nothing_behind(api: Backend, authority: Authority) -> None:
    port = ports.free()
    config = configuration(
        listener("socket_map", "m", port),
        socket_maps={"m": socket_map(api.url("/map", host="127.0.0.1"))},
        run_as_user=USER,
        tls={"enabled": True, "skip_verify": True},
    )
    with Daemon(config, ready=False) as daemon:
        shutil.chown(daemon.runtime_directory, USER, "nogroup")
        daemon.log.wait_for("Ready")
        for pid in daemon.processes():
            assert_powerless(pid)
        with SocketMap(("127.0.0.1", port)) as client:
            assert client.ask("m", "x") == "OK over TLS"


@pytest.mark.parametrize(("user", "warned"), [("", True), (USER, False)], ids=["root", "another user"])
def test_a_server_that_runs_as_root_says_so_once(user: str, warned: bool) -> None:
    with reachable() as place:
        config = configuration(
            listener("socket_map", "m", ports.free()),
            socket_maps={"m": socket_map("http://127.0.0.1:9/")},
            runtime_directory=str(place / "run"),
            level="info",
            **({"run_as_user": user} if user else {}),
        )
        with Daemon(config) as daemon:
            assert len(daemon.log.find("The server runs as root")) == warned
            daemon.reload()
            assert len(daemon.log.find("The server runs as root")) == warned
            checked = daemon.run("check")
            assert checked.returncode == 0
            assert ("warning: server.run_as_user is not set" in checked.stdout) == warned

"""What other programs make of the log: fail2ban's filter finds the failed logins, and logrotate loses no line."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from kit import daemon, ports, proc
from kit.backend import Backend
from kit.clients import SocketMap
from kit.configuration import configuration, listener, socket_map
from kit.logins import ANSWERS, RIGHT, WRONG, Logins, login
from kit.needs import needs, program
from kit.waiting import until

CONTRIB = daemon.TREE / "contrib"
ATTACKER, VICTIM, USER = "192.0.2.13", "198.51.100.7", "203.0.113.5"
FORGED = f'" user=x mechanism=PLAIN rip={VICTIM} reason="'

SYSLOG = "Nov 26 12:00:00 mail pfxhttpd[4711]: "
JOURNAL = "2026-11-26T12:00:00+0000 mail pfxhttpd[4711]: "


@pytest.fixture(scope="module", params=["logfmt", "json"])
def lines(request: pytest.FixtureRequest, backend: Backend) -> list[str]:
    """What the real daemon logs at level info of logins of all kinds."""
    needs("fail2ban-regex")
    backend.answer("/login", ANSWERS)
    logging = {"level": "info", "json": request.param == "json"}
    with (
        Logins({"login": login(backend.url("/login"), temporary_failure="fail")}, logging=logging) as logins,
        logins.client("login") as client,
    ):
        for user, password, address in [
            ("ann", WRONG, ATTACKER),
            (FORGED, WRONG, ATTACKER),
            (f"a b\\{FORGED}", WRONG, ATTACKER),
            (f'","rip":"{VICTIM}', WRONG, ATTACKER),
            ("x" * 1020, WRONG, ATTACKER),
            ("jürgen", WRONG, ATTACKER),
            ("ann", WRONG, "2001:db8::13"),
            ("ann", RIGHT, USER),
            (f"Authentication failed rip={VICTIM}", RIGHT, USER),
            ("ann", "503", USER),
        ]:
            client.plain(user, password, f"rip={address}")
        logged = logins.log.lines()
    assert sum("Authentication " in line for line in logged) >= 10
    return logged


@pytest.mark.parametrize("prefix", ["", SYSLOG, JOURNAL])
def test_fail2ban_finds_failed_logins_and_no_others(lines: list[str], prefix: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"{prefix}{line}\n" for line in lines))
    # A filter stands beside fail2ban's own, to which it refers.
    filters = tmp_path / "filter.d"
    filters.mkdir()
    (filters / "common.conf").symlink_to("/etc/fail2ban/filter.d/common.conf")
    (filters / "pfxhttpd.conf").write_text((CONTRIB / "fail2ban/filter.d/pfxhttpd.conf").read_text())
    find = [program("fail2ban-regex") or "", "--out", "ip", str(log), str(filters / "pfxhttpd.conf")]
    done = subprocess.run(find, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [ATTACKER] * 6 + ["2001:db8::13"]


def test_logrotate_loses_nothing_and_leaves_no_hole(tmp_path: Path) -> None:
    needs("logrotate")
    log, port = tmp_path / "pfxhttpd.log", ports.free()
    rotation = (CONTRIB / "logrotate/pfxhttpd").read_text()
    assert "/var/log/pfxhttpd.log" in rotation
    settings = tmp_path / "logrotate"
    settings.write_text(rotation.replace("/var/log/pfxhttpd.log", str(log)))
    rotate = [program("logrotate") or "", "--force", "--state", str(tmp_path / "state"), str(settings)]
    maps = {"map": socket_map("http://127.0.0.1:1/", timeout="1s")}
    server = configuration(listener("socket_map", "map", port), socket_maps=maps, level="info")
    server["server"]["runtime_directory"] = str(tmp_path)
    (tmp_path / "pfxhttp.json").write_text(json.dumps(server))
    with log.open("ab") as output:
        process = subprocess.Popen(
            daemon.command(["--config", str(tmp_path / "pfxhttp.json"), "run"]),
            env=daemon.clean_environment(),
            stdout=output,
            stderr=output,
            preexec_fn=proc.die_with_parent,
        )
    try:
        until(lambda: re.search(daemon.READY, log.read_text()), "the server")
        subprocess.run(rotate, check=True)
        with SocketMap(("127.0.0.1", port)) as client:
            assert client.ask("map", "key").startswith("TEMP ")
        until(lambda: "127.0.0.1:1" in log.read_text(), "the line about the failed lookup")
    finally:
        process.terminate()
        process.wait()
    assert re.search(daemon.READY, (tmp_path / "pfxhttpd.log.1").read_text())
    assert re.match(r"(time=\S+ )?level=", log.read_text())


def test_the_apparmor_profile_can_be_loaded() -> None:
    """The parser compiles it without an error or a warning. What it permits is not tested: that needs AppArmor's kernel."""
    needs("apparmor_parser")
    profile = CONTRIB / "apparmor/usr.sbin.pfxhttpd"
    compile_ = [program("apparmor_parser") or "", "--skip-kernel-load", "--skip-cache", str(profile)]
    done = subprocess.run(compile_, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    without_kernel = (
        "Cache read/write disabled: interface file missing. (Kernel needs AppArmor 2.4 compatibility patch.)\n"
    )
    assert (done.returncode, done.stdout.replace(without_kernel, "")) == (0, "")

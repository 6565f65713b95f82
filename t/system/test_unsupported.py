"""What this version cannot do is refused, in one clear line, wherever a configuration asks for it; nothing else changes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kit import daemon
from kit.backend import Backend
from kit.logins import ACCOUNT, ANSWERS, RIGHT, Logins, login

CONFIGURATION = 78
PROVIDER = {
    "enabled": True,
    "configuration_uri": "https://idp.example.test/.well-known/openid-configuration",
    "client_id": "us",
}

USES = [
    ("dovecot_sasl", "login", "sasl_oidc_auth", "validating the OAuth tokens of users"),
    ("dovecot_sasl", "login", "backend_oidc_auth", "getting OIDC tokens for a backend"),
    ("dovecot_sasl", "defaults", "sasl_oidc_auth", "validating the OAuth tokens of users"),
]
uses = pytest.mark.parametrize("section, entry, block, what", USES, ids=lambda value: value if "_auth" in value else "")


@pytest.fixture(scope="module")
def site(backend: Backend) -> Iterator[Logins]:
    backend.answer("/login", ANSWERS)
    with Logins({"defaults": {}, "login": login(backend.url("/login"))}) as started:
        yield started


def asking(config: dict[str, Any], section: str, entry: str, block: str) -> dict[str, Any]:
    changed = copy.deepcopy(config)
    changed[section][entry][block] = PROVIDER
    return changed


def is_refusal(text: str, path: Path, section: str, block: str, what: str) -> bool:
    """One line: the file, the entry and its block, what is not possible, what to do."""
    begin = f"{path}: {section}.login.{block}: {what} is not possible in this version"
    return text.startswith(begin) and "enabled: false" in text and text.count("\n") <= 1


@uses
@pytest.mark.parametrize("command", ["run", "check"])
def test_neither_served_nor_called_good(
    site: Logins, tmp_path: Path, command: str, section: str, entry: str, block: str, what: str
):
    path = tmp_path / "pfxhttp.yml"
    path.write_text(yaml.safe_dump(asking(site.config, section, entry, block)))
    done = daemon.run("--config", str(path), command)
    assert (done.returncode, done.stdout) == (CONFIGURATION, "")
    assert is_refusal(done.stderr, path, section, block, what), done.stderr


@uses
def test_a_reload_changes_nothing(site: Logins, section: str, entry: str, block: str, what: str):
    site.daemon.write(asking(site.config, section, entry, block))
    try:
        done = site.daemon.run("reload")
        assert (done.returncode, done.stdout) == (CONFIGURATION, "")
        told = done.stderr.removeprefix("pfxhttpd: reload failed, nothing has changed: ")
        assert is_refusal(told, site.daemon.config_path, section, block, what), done.stderr
        assert "level=ERROR" in site.daemon.reload()
        with site.client("login") as client:
            assert client.mechanisms.keys() == {"PLAIN", "LOGIN"}
            assert client.plain("ann", RIGHT) == f"OK\t1\tuser={ACCOUNT}"
    finally:
        site.daemon.write(site.config)


@pytest.mark.parametrize("section", ["socket_maps", "policy_services"])
def test_the_other_kinds_are_told_as_well(site: Logins, tmp_path: Path, section: str):
    changed = asking(site.config, "dovecot_sasl", "login", "backend_oidc_auth")
    changed[section] = {"other": {"target": "http://127.0.0.1:9/", "value_field": "x", "backend_oidc_auth": PROVIDER}}
    path = tmp_path / "pfxhttp.yml"
    path.write_text(yaml.safe_dump(changed))
    done = daemon.run("--config", str(path), "check")
    assert done.returncode == CONFIGURATION
    assert sorted(line.split(": ")[1] for line in done.stderr.splitlines()) == [
        "dovecot_sasl.login.backend_oidc_auth", f"{section}.other.backend_oidc_auth"]  # fmt: skip


def test_what_is_not_enabled_may_be_written(site: Logins, tmp_path: Path):
    changed = asking(site.config, "dovecot_sasl", "login", "sasl_oidc_auth")
    changed["dovecot_sasl"]["login"]["sasl_oidc_auth"] = {**PROVIDER, "enabled": False}
    path = tmp_path / "pfxhttp.yml"
    path.write_text(yaml.safe_dump(changed))
    assert daemon.run("--config", str(path), "check").returncode == 0

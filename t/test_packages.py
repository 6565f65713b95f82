"""The packages have everything that setup.cfg asks for, in a version that is new enough, and the container's files fit."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
import yaml

from pfxhttpd.config.load import load_text
from pfxhttpd.config.settings import POLICY_SERVICE, SOCKET_MAP

TREE = Path(__file__).resolve().parents[1]
CONTRIB = TREE / "contrib"
NAMES = {"PyYAML": "yaml", "python-daemon": "daemon", "python-jose": "jose", "prometheus_client": "prometheus-client"}
"""What Debian calls a package behind `python3-`, where it is not the name itself."""


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def required() -> dict[str, str]:
    """Package -> the first version that setup.cfg accepts."""
    settings = configparser.ConfigParser()
    settings.read(TREE / "setup.cfg")
    lines = settings["options"]["install_requires"].split()
    return dict(re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", line).groups() for line in lines)


@pytest.mark.parametrize("release", ["bookworm", "trixie"])
def test_the_debian_package_has_all_that_is_required(release: str) -> None:
    bundled = dict(
        re.findall(r"^([\w-]+)==([\d.]+)", (CONTRIB / f"debian/bundle/{release}.txt").read_text(), re.MULTILINE)
    )
    depends = dict(
        re.findall(r"^ python3-([\w-]+) \(>= ([\d.]+)\),$", (CONTRIB / "debian/control").read_text(), re.MULTILINE)
    )
    # These are bundled for one release only, and contrib/debian/build writes the dependency of the other.
    (varying,) = re.findall(r"^for package in (.*); do$", (CONTRIB / "debian/build").read_text(), re.MULTILINE)
    for name, first in required().items():
        if name in bundled:
            assert version(bundled[name]) >= version(first), name
        elif name not in varying.split():
            assert depends[NAMES.get(name, name)] == first


def test_the_rpm_package_requires_all_that_is_required() -> None:
    text = (CONTRIB / "rpm/pfxhttpd.spec").read_text()
    requires = dict(re.findall(r"^Requires: +python3-(\w+) >= ([\d.]+)$", text, re.MULTILINE))
    names = {"PyYAML": "pyyaml", "prometheus_client": "prometheus_client"}
    assert {names.get(name, NAMES.get(name, name)): first for name, first in required().items()} == requires


def test_postfix_in_the_compose_file_asks_the_listeners_of_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "api").write_text("user:password")
    text = (CONTRIB / "container/pfxhttp.yml").read_text().replace("/run/secrets/", f"{tmp_path}/")
    settings = load_text(text, "pfxhttp.yml", "yaml", {}).settings
    services = yaml.safe_load((CONTRIB / "container/compose.yml").read_text())["services"]
    lines = services["postfix"]["build"]["dockerfile_inline"]
    maps = re.findall(r"socketmap:inet:pfxhttpd:(\d+):(\w+)", lines)
    (policy,) = re.findall(r"check_policy_service inet:pfxhttpd:(\d+)", lines)
    ports = {(listener.kind, listener.port) for listener in settings.server.listen}
    assert ports == {(SOCKET_MAP, int(maps[0][0])), (POLICY_SERVICE, int(policy))}
    assert {name for _, name in maps} == set(settings.entries[SOCKET_MAP])
    assert services["pfxhttpd"]["volumes"] == ["./pfxhttp.yml:/etc/pfxhttp/pfxhttp.yml:ro"]

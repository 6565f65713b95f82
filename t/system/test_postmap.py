"""The real postmap -q against the real daemon: what an administrator sees of each outcome."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from kit.backend import Answer, Backend, Keyed
from kit.configuration import configuration, listener, socket_map
from kit.daemon import Daemon
from kit.needs import needs
from kit.postfix import Postfix
from kit.site import Site

pytestmark = pytest.mark.usefixtures("same_workers")

FOUND = {
    "ann@example.test": "maildir/ann/",
    "some one@example.test": "with a blank",
    '"quoted local"@example.test': 'with "quotes"',
    "it's 'single' quoted": "too",
    "<>": "the null sender",
    "<ann@example.test>": "angle brackets",
    "jörg@beispiel.test": "grüße aus köln",
    "back\\slash": "a\\b",
    "a,b:c": "12:x,",
}


@pytest.fixture(scope="module")
def postfix() -> Iterator[Postfix]:
    needs("root", "postfix")
    with Postfix(smtpd=False) as started:
        yield started


@pytest.fixture(scope="module")
def site(backend: Backend) -> Iterator[Site]:
    table = {key: Answer(json={"result": value}) for key, value in FOUND.items()}
    table["late@example.test"] = Answer(silent=True)
    table["down@example.test"] = Answer(status=503)
    table["refused@example.test"] = Answer(json={"error": "no such tenant"})
    table["lost@example.test"] = Answer(status=404)
    table["long@example.test"] = Answer(json={"result": "x" * 99_000})
    table["too-long@example.test"] = Answer(json={"result": "x" * 100_001})
    backend.answer("/map", Keyed(table))
    backend.answer("/many", json={"result": "value of {key}"}, fill=True)
    maps = {"demo": socket_map(backend.url("/map"), timeout="500ms"), "many": socket_map(backend.url("/many"))}
    with Site(maps) as started:
        yield started


def table(site: Site, name: str = "demo") -> str:
    return f"socketmap:inet:127.0.0.1:{site.map_port}:{name}"


@pytest.mark.parametrize("key", FOUND)
def test_found(postfix: Postfix, site: Site, key: str):
    result = postfix.postmap(table(site), key)
    assert (result.stdout.decode(), result.stderr, result.returncode) == (FOUND[key] + "\n", b"", 0)


@pytest.mark.parametrize("key", ["nobody@example.test", "no body", '"', "@example.test", "niemand@köln.test"])
def test_not_found(postfix: Postfix, site: Site, key: str):
    result = postfix.postmap(table(site), key)
    assert (result.stdout, result.stderr, result.returncode) == (b"", b"", 1)


@pytest.mark.parametrize(
    "key, complaint",
    [
        ("down@example.test", "temporary"),
        ("late@example.test", "timeout"),
        ("refused@example.test", "permanent"),
        ("lost@example.test", "permanent"),
        ("too-long@example.test", "permanent"),
    ],
)
def test_errors(postfix: Postfix, site: Site, key: str, complaint: str):
    result = postfix.postmap(table(site), key)
    assert (result.stdout, result.returncode) == (b"", 1)
    assert complaint in result.stderr.decode().lower()


def test_the_reason_of_a_refusal_is_shown(postfix: Postfix, site: Site):
    assert "no such tenant" in postfix.postmap(table(site), "refused@example.test").stderr.decode()
    assert "404" in postfix.postmap(table(site), "lost@example.test").stderr.decode()


def test_a_long_value(postfix: Postfix, site: Site):
    assert postfix.postmap(table(site), "long@example.test").stdout == b"x" * 99_000 + b"\n"


def test_no_such_map(postfix: Postfix, site: Site):
    result = postfix.postmap(table(site, "nowhere"), "ann@example.test")
    assert (result.stdout, result.returncode) == (b"", 1)
    assert "permanent" in result.stderr.decode()


def test_a_thousand_keys_through_one_connection(postfix: Postfix, site: Site, backend: Backend):
    keys = [f"user {number}@example.test" for number in range(1000)]
    backend.forget()
    mark = site.log.position
    result = postfix.postmap(table(site, "many"), *keys)
    assert result.returncode == 0 and result.stderr == b""
    assert result.stdout.decode().splitlines() == [f"{key}\tvalue of {key}" for key in keys]
    assert backend.count("/many") == 1000
    site.log.wait_for("Connection closed", start=mark)
    sessions = {re.search("session=([0-9a-f]{16})", line)[1] for line in site.log.find("Received request", mark)}
    assert len(sessions) == 1
    assert len(site.log.find("New connection established", mark)) == 1


def test_a_mixed_file_of_keys(postfix: Postfix, site: Site):
    keys = ["nobody@example.test", *FOUND, "nobody else@example.test"]
    result = postfix.postmap(table(site), *keys)
    assert result.stdout.decode() == "".join(f"{key}\t{value}\n" for key, value in FOUND.items())


def test_over_a_unix_socket(postfix: Postfix, site: Site, backend: Backend):
    path = site.daemon.directory / "maps.sock"
    maps = {"demo": socket_map(backend.url("/map"))}
    config = configuration(listener("socket_map", "demo", address=str(path), mode="0666"), socket_maps=maps)
    with Daemon(config):
        result = postfix.postmap(f"socketmap:unix:{path}:demo", "ann@example.test")
        assert result.stdout == b"maildir/ann/\n"

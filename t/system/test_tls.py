"""TLS towards backends: whom the daemon trusts, whom it does not, and how it proves who it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kit import ports
from kit.backend import Backend, ServerTls
from kit.certificates import Authority, Pair
from kit.configuration import configuration, listener, socket_map
from kit.daemon import Daemon
from kit.proxy import Proxy
from kit.site import Site


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("theirs"))


def secure(pair: Pair, **more: Any) -> Backend:
    backend = Backend(ServerTls(pair.certificate, pair.key, **more))
    backend.answer("/map", json={"result": "x"})
    return backend


@pytest.fixture(scope="module")
def good(ours: Authority) -> Iterator[Backend]:
    with secure(ours.server()) as started:
        yield started


def ask(backend: Backend, tls: dict[str, Any] | None, host: str = "localhost", **server: Any) -> str:
    """One lookup by a daemon with that TLS configuration."""
    if tls is not None:
        server["tls"] = {"enabled": True, **tls}
    with Site({"map": socket_map(backend.url("/map", host))}, workers=1, **server) as site:
        return site.ask("map", "k")


def test_a_private_ca_is_trusted_when_named(ours: Authority, good: Backend):
    before = good.connections()
    with Site(
        {"name": socket_map(good.url("/map", "localhost")), "number": socket_map(good.url("/map", "127.0.0.1"))},
        workers=1,
        tls={"enabled": True, "root_ca": ours.certificate},
    ) as site:
        for name in ("name", "name", "number", "number"):
            assert site.ask(name, "k") == "OK x"
    assert good.connections() == before + 2, "kept alive, one connection per target"
    assert good.requests()[-4].server_name == "localhost"


def test_a_private_ca_is_not_trusted_otherwise(theirs: Authority, good: Backend):
    said = "TLS with the backend failed: certificate verification failed: unable to get local issuer certificate; "
    for tls, trusted in (
        ({"root_ca": theirs.certificate}, theirs.certificate),
        ({}, "the system's store /"),
        (None, "the"),
    ):
        good.forget()
        assert ask(good, tls).startswith(f"TEMP {said}trusted is {trusted}"), tls
        assert good.count() == 0


def test_a_ca_that_is_named_and_not_enabled_is_told(ours: Authority, good: Backend):
    """In the reply, in the log and in the status."""
    with Site({"map": socket_map(good.url("/map", "localhost"))}, workers=1, tls={"root_ca": ours.certificate}) as site:
        reason = (
            "server.tls.root_ca is not used, because server.tls.enabled is not true; trusted is the system's store "
        )
        assert reason[:90] in site.ask("map", "k")
        assert reason in site.log.wait_for("Backend failed")
        assert reason[:90] in site.daemon.run("status").stdout.splitlines()[0]


def test_a_certificate_for_another_name(ours: Authority):
    with secure(ours.server("elsewhere.example.test")) as backend:
        for host in ("localhost", "127.0.0.1"):
            assert ask(backend, {"root_ca": ours.certificate}, host).startswith("TEMP ")
        assert backend.count() == 0


def test_an_expired_certificate(ours: Authority):
    with secure(ours.server(expired=True)) as backend:
        assert ask(backend, {"root_ca": ours.certificate}).startswith("TEMP ")


def test_skip_verify_takes_any(theirs: Authority, ours: Authority):
    with secure(theirs.server("elsewhere.example.test", expired=True)) as backend:
        assert ask(backend, {"skip_verify": True}) == "OK x"
        assert ask(backend, {"skip_verify": True, "root_ca": ours.certificate}) == "OK x"


def test_client_certificates(ours: Authority, theirs: Authority):
    mine, foreign = ours.client("mx.example.test"), theirs.client("mx.example.test")
    with secure(ours.server(), client_ca=ours.certificate) as backend:
        trust = {"root_ca": ours.certificate}
        assert ask(backend, {**trust, "cert": mine.certificate, "key": mine.key}) == "OK x"
        assert backend.requests()[-1].peer == "mx.example.test"
        backend.forget()
        assert ask(backend, trust).startswith("TEMP ")
        assert ask(backend, {**trust, "cert": foreign.certificate, "key": foreign.key}).startswith("TEMP ")
        assert backend.count() == 0


def test_oldest_version(ours: Authority):
    with secure(ours.server(), newest="1.2") as backend:
        assert ask(backend, {"root_ca": ours.certificate}) == "OK x"
    with secure(ours.server(), newest="1.1") as backend:
        assert ask(backend, {"root_ca": ours.certificate}).startswith("TEMP ")
        assert ask(backend, {"skip_verify": True}).startswith("TEMP ")


def test_through_a_proxy(ours: Authority):
    with secure(ours.server("api.example.test")) as backend, Proxy(backend.port) as proxy:
        maps = {"map": socket_map("https://api.example.test/map")}
        tls = {"enabled": True, "root_ca": ours.certificate}
        with Site(maps, workers=1, tls=tls, http_client={"proxy": proxy.url}) as site:
            assert site.ask("map", "k") == "OK x"
            assert site.ask("map", "k") == "OK x"
        assert [(seen.method, seen.target) for seen in proxy.requests()] == [("CONNECT", "api.example.test:443")]
        assert backend.requests()[0].server_name == "api.example.test"


def test_a_missing_ca_file_is_a_mistake_at_start(tmp_path: Path):
    config = configuration(
        listener("socket_map", "maps", ports.free()),
        socket_maps={"map": socket_map("https://localhost/map")},
        tls={"enabled": True, "root_ca": str(tmp_path / "missing.pem")},
    )
    daemon = Daemon(config, ready=False)
    try:
        assert daemon.wait() not in (0, 1)
        assert "missing.pem" in daemon.log.text and "Traceback" not in daemon.log.text
        assert not daemon.processes()
    finally:
        daemon.destroy()

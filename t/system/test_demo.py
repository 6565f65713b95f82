"""`pfxhttpd demo`: what the README promises of it, asked by the real postmap."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kit import ports
from kit.clients import Policy, Sasl, SocketMap
from kit.daemon import Daemon
from kit.needs import needs
from kit.postfix import Postfix


@pytest.fixture(scope="module")
def port() -> int:
    return ports.free(4)


@pytest.fixture(scope="module")
def demo(port: int) -> Iterator[Daemon]:
    with Daemon("", arguments=("demo", "--port", str(port))) as started:
        yield started


def test_postmap_finds_some_one(demo: Daemon, port: int):
    needs("root", "postfix")
    with Postfix(smtpd=False) as postfix:
        result = postfix.postmap(f"socketmap:inet:127.0.0.1:{port}:demo_map", "some one@example.com")
        assert result.returncode == 0 and result.stdout.strip() and result.stderr == b""
        result = postfix.postmap(f"socketmap:inet:127.0.0.1:{port}:demo_map", "nobody@example.com")
        assert (result.returncode, result.stdout, result.stderr) == (1, b"", b"")


def test_every_outcome_can_be_seen(demo: Daemon, port: int):
    with SocketMap(("127.0.0.1", port)) as client:
        assert client.ask("demo_map", "some one@example.com").startswith("OK ")
        assert client.ask("demo_map", "nobody@example.com") == "NOTFOUND "
        assert client.ask("demo_map", "outage@example.com").startswith("TEMP ")
        assert client.ask("demo_map", "wrong@example.com").startswith("PERM ")
        assert client.ask("demo_domains", "example.com").startswith("OK ")


def test_the_policy(demo: Daemon, port: int):
    with Policy(("127.0.0.1", port + 1)) as client:
        assert client.ask(sender="spammer@example.net", recipient="alice@example.com").startswith("REJECT")
        assert client.ask(sender="friend@example.net", recipient="alice@example.com") == "DUNNO"


def test_the_login(demo: Daemon, port: int):
    with Sasl(("127.0.0.1", port + 3)) as client:
        assert "PLAIN" in client.mechanisms
        assert client.plain("alice@example.com", "wonderland") == "OK\t1\tuser=alice@example.com"
        assert client.plain("alice@example.com", "looking-glass").startswith("FAIL\t2")

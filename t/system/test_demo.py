"""`pfxhttpd demo`, asked by the real postmap: what the README shows first. The rest of it is in test_demo_command."""

from __future__ import annotations

from kit import ports
from kit.daemon import Daemon
from kit.needs import needs
from kit.postfix import Postfix


def test_postmap_finds_some_one():
    needs("root", "postfix")
    port = ports.free(4)
    with Daemon("", arguments=("demo", "--port", str(port))), Postfix(smtpd=False) as postfix:
        table = f"socketmap:inet:127.0.0.1:{port}:demo_map"
        found = postfix.postmap(table, "some one@example.com")
        assert (found.returncode, found.stdout, found.stderr) == (0, b"example.com/some.one/\n", b"")
        missing = postfix.postmap(table, "nobody@example.com")
        assert (missing.returncode, missing.stdout, missing.stderr) == (1, b"", b"")

"""The private Postfix runs, answers, and is gone afterwards; the machine's own is not involved."""

from __future__ import annotations

import socket

import pytest

from kit.needs import needs
from kit.postfix import Postfix


def test_runs_looks_up_and_leaves_nothing() -> None:
    needs("root", "postfix")
    domains = "virtual_mailbox_domains = inline:{ example.test=yes }"
    with Postfix([domains, "virtual_mailbox_maps = inline:{ ann@example.test=x }"]) as postfix:
        assert postfix.postmap("inline:{ a=b }", "a").stdout == b"b\n"
        assert postfix.postmap("inline:{ a=b, c=d }", "a", "x", "c").stdout == b"a\tb\nc\td\n"
        with postfix.smtp() as client:
            assert client.mail("sender@example.test")[0] == 250
            assert client.rcpt("ann@example.test")[0] == 250
            assert client.rcpt("bob@example.test")[0] == 550
        postfix.wait_log("connect from")
        assert postfix._strays()
    assert not postfix._strays() and not postfix.directory.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", postfix.port), 5)


def test_postmap_needs_no_running_instance() -> None:
    needs("root", "postfix")
    with Postfix(smtpd=False) as postfix:
        assert postfix.postmap("inline:{ a=b }", "z").returncode == 1
        assert not postfix._strays()

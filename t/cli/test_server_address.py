"""Addresses as they are given and as the configuration has them."""

from __future__ import annotations

import pytest

from pfxhttpd.cli import server_address
from pfxhttpd.config.settings import Listener


@pytest.mark.parametrize(
    "text, shown",
    [
        ("inet:127.0.0.1:25", "inet:127.0.0.1:25"),
        ("inet:[::1]:25", "inet:[::1]:25"),
        ("inet:[::]:25", "inet:127.0.0.1:25"),
        ("tcp:*:25", "inet:127.0.0.1:25"),
        ("inet:0.0.0.0:25", "inet:127.0.0.1:25"),
        ("inet:localhost:25", "inet:localhost:25"),
        ("unix:/run/a b:c", "unix:/run/a b:c"),
    ],
)
def test_addresses(text: str, shown: str) -> None:
    assert str(server_address.parse(text)) == shown


@pytest.mark.parametrize(
    "type, address, shown",
    [
        ("tcp6", "[::]", "inet:[::1]:2"),
        ("tcp6", "", "inet:[::1]:2"),
        ("tcp", "[::]", "inet:127.0.0.1:2"),
        ("tcp", "", "inet:127.0.0.1:2"),
        ("tcp", "[fe80::1]", "inet:[fe80::1]:2"),
        ("unix", "/run/s", "unix:/run/s"),
    ],
)
def test_a_listener_is_asked_where_its_own_machine_reaches_it(type: str, address: str, shown: str) -> None:
    listener = Listener("socket_map", "m", type, address, 2)
    assert str(server_address.of_listener(listener)) == shown

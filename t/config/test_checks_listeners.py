"""Listeners: what is accepted, and what is reported."""

from __future__ import annotations

from typing import Any

import pytest

from pfxhttpd.config.settings import Listener

ENTRIES = """\
socket_maps: {demo: {target: 'http://h/', value_field: v}}
policy_services: {rules: {target: 'http://h/', value_field: v}, broken: 5}
dovecot_sasl: {login: {target: 'http://h/'}}
"""


def with_listeners(*listeners: str) -> str:
    return "server:\n  listen:\n" + "".join(f"  - {{{listener}}}\n" for listener in listeners)


GOOD = ENTRIES.replace(", broken: 5", "")
MAP = "kind: socket_map, name: m"


@pytest.mark.parametrize(
    "listener, expected",
    [
        (f"{MAP}, port: 5", Listener("socket_map", "m", "tcp", "", 5)),
        ("kind: socket_map, port: 5", Listener("socket_map", "", "tcp", "", 5)),
        ("kind: socket_map, name: '', port: 5", Listener("socket_map", "", "tcp", "", 5)),
        (f"{MAP}, type: tcp, address: '[::]', port: 5", Listener("socket_map", "m", "tcp", "[::]", 5)),
        (f"{MAP}, type: tcp6, address: '::1', port: '5'", Listener("socket_map", "m", "tcp6", "::1", 5)),
        (f"{MAP}, type: tcp, address: localhost, port: 65535", Listener("socket_map", "m", "tcp", "localhost", 65535)),
        (f"{MAP}, type: unix, address: /run/x, port: 5", Listener("socket_map", "m", "unix", "/run/x", 5)),
        (
            f"{MAP}, type: unix, address: /run/x, mode: '0660', user: u, group: g",
            Listener("socket_map", "m", "unix", "/run/x", 0, 0o660, "u", "g"),
        ),
        (f"{MAP}, type: unix, address: /run/x, mode: '600'", Listener("socket_map", "m", "unix", "/run/x", 0, 0o600)),
        (f"{MAP}, type: unix, address: /run/x, mode: '0o666'", Listener("socket_map", "m", "unix", "/run/x", 0, 0o666)),
        (f"{MAP}, type: unix, address: /{'x' * 106}", Listener("socket_map", "m", "unix", "/" + "x" * 106)),
        (f"{MAP}, systemd_socket_name: pfx", Listener("socket_map", "m", systemd_socket_name="pfx", type="tcp")),
        (
            f"{MAP}, type: unix, systemd_socket_name: pfx",
            Listener("socket_map", "m", systemd_socket_name="pfx", type="unix"),
        ),
        ("kind: policy_service, name: rules, port: 5", Listener("policy_service", "rules", "tcp", "", 5)),
        ("kind: dovecot_sasl, name: login, port: 5", Listener("dovecot_sasl", "login", "tcp", "", 5)),
    ],
)
def test_a_listener(listener: str, expected: Listener, accepted: Any) -> None:
    assert accepted(with_listeners(listener) + GOOD).settings.server.listen == (expected,)


@pytest.mark.parametrize(
    "listener, line",
    [
        ("name: m, port: 5", "3:5: server.listen[0].kind: is missing"),
        (
            "kind: policy_service, port: 5",
            "3:5: server.listen[0].name: is missing: the name of the entry under policy_services that answers here",
        ),
        (
            "kind: dovecot_sasl, name: '', port: 5",
            "3:32: server.listen[0].name: is missing: the name of the entry under dovecot_sasl that answers here",
        ),
        (
            "kind: socket_maps, name: m, port: 5",
            '3:12: server.listen[0].kind: expected one of socket_map, policy_service, dovecot_sasl, not "socket_maps" (did you mean socket_map?)',
        ),
        (MAP, "3:5: server.listen[0].port: is missing"),
        (f"{MAP}, port: 0", "3:39: server.listen[0].port: must be from 1 to 65535, not 0"),
        (f"{MAP}, port: 65536", "3:39: server.listen[0].port: must be from 1 to 65535, not 65536"),
        (f"{MAP}, port: smtp", '3:39: server.listen[0].port: expected a whole number, not "smtp"'),
        (f"{MAP}, port: 25.5", "3:39: server.listen[0].port: expected a whole number, not 25.5"),
        (f"{MAP}, port: .nan", "3:39: server.listen[0].port: expected a whole number, not nan"),
        (f"{MAP}, port: .inf", "3:39: server.listen[0].port: expected a whole number, not inf"),
        (f"{MAP}, port: true", "3:39: server.listen[0].port: expected a whole number, not true"),
        (f"{MAP}, port: '0x19'", '3:39: server.listen[0].port: expected a whole number, not "0x19"'),
        (f"{MAP}, port: 5, type: udp", '3:48: server.listen[0].type: expected one of tcp, tcp6, unix, not "udp"'),
        (f"{MAP}, port: 5, address: 127.0.0.1:80", "3:51: server.listen[0].address: the port belongs in `port`"),
        (
            f"{MAP}, port: 5, address: /run/x",
            "3:51: server.listen[0].address: a path is the address of a listener of type unix",
        ),
        (f"{MAP}, port: 5, address: a b", "3:51: server.listen[0].address: neither a host name nor an IP address"),
        (f"{MAP}, port: 5, address: '*'", "3:51: server.listen[0].address: neither a host name nor an IP address"),
        (
            f"{MAP}, port: 5, address: 127.1",
            "3:51: server.listen[0].address: expected a text on one line without control characters, not 127.1 (put it in quotes)",
        ),
        (
            f"{MAP}, port: 5, type: tcp6, address: 127.0.0.1",
            "3:63: server.listen[0].address: an IPv4 address cannot be bound by a listener of type tcp6",
        ),
        (
            f"{MAP}, port: 5, mode: '0600'",
            "3:42: server.listen[0].mode: has no effect here: only a unix listener has it",
        ),
        (f"{MAP}, type: unix", "3:5: server.listen[0].address: is missing: the path of the Unix socket"),
        (
            f"{MAP}, type: unix, address: run/x",
            "3:54: server.listen[0].address: the path of a Unix socket must begin with /",
        ),
        (
            f"{MAP}, type: unix, address: /run/",
            "3:54: server.listen[0].address: the path of a Unix socket must name a file, not a directory",
        ),
        (
            f"{MAP}, type: unix, address: /{'x' * 107}",
            "3:54: server.listen[0].address: the path of a Unix socket can have 107 bytes, this has 108",
        ),
        (
            f"{MAP}, type: unix, address: /{chr(252) * 54}",
            "3:54: server.listen[0].address: the path of a Unix socket can have 107 bytes, this has 109",
        ),
        (
            f"{MAP}, type: unix, address: /x, mode: '0680'",
            '3:64: server.listen[0].mode: expected permissions in octal and in quotes, such as "0660", not "0680"',
        ),
        (
            f"{MAP}, type: unix, address: /x, mode: 0660",
            '3:64: server.listen[0].mode: expected permissions in octal and in quotes, such as "0660", not 432',
        ),
        (
            f"{MAP}, systemd_socket_name: a, mode: '0600'",
            "3:57: server.listen[0].mode: has no effect here: systemd makes this socket",
        ),
        (
            f"{MAP}, systemd_socket_name: 'a:b'",
            '3:54: server.listen[0].systemd_socket_name: expected a FileDescriptorName of a systemd socket unit (no colon, at most 255 characters), not "a:b"',
        ),
        (
            "kind: socket_map, name: defaults, port: 5",
            "3:30: server.listen[0].name: no listener can have the name `defaults`, which is a section's block of defaults",
        ),
        (
            "kind: policy_service, name: ruls, port: 5",
            '3:34: server.listen[0].name: no entry "ruls" under policy_services (did you mean rules?)',
        ),
        (
            "kind: policy_service, name: demo, port: 5",
            '3:34: server.listen[0].name: no entry "demo" under policy_services',
        ),
        (
            "kind: dovecot_sasl, name: LOGIN, port: 5",
            '3:32: server.listen[0].name: no entry "LOGIN" under dovecot_sasl (did you mean login?)',
        ),
        (
            f"{MAP}, port: 5, worker_pool: {{max_queue: 5}}",
            "3:42: server.listen[0].worker_pool.max_workers: is missing",
        ),
        (
            f"{MAP}, port: 5, worker_pool: {{max_workers: 1001}}",
            "3:69: server.listen[0].worker_pool.max_workers: must be from 1 to 1000, not 1001",
        ),
    ],
)
def test_a_mistake_in_a_listener(listener: str, line: str, refused: Any) -> None:
    assert refused(with_listeners(listener) + GOOD) == [line]


def test_an_entry_with_mistakes_is_still_an_entry(refused: Any) -> None:
    lines = refused(with_listeners("kind: policy_service, name: broken, port: 5") + ENTRIES)
    assert lines == ["5:73: policy_services.broken: expected a mapping, not 5"]


def test_a_listener_without_any_entry(refused: Any) -> None:
    assert refused(with_listeners(f"{MAP}, port: 5")) == [
        "3:30: server.listen[0].name: there is no entry under socket_maps that could answer here"
    ]
    assert refused(with_listeners(f"{MAP}, port: 5") + "socket_maps: {defaults: {target: 'http://h/'}}") == [
        "3:30: server.listen[0].name: there is no entry under socket_maps that could answer here"
    ]
    assert refused(with_listeners("kind: dovecot_sasl, name: x, port: 5")) == [
        '3:32: server.listen[0].name: no entry "x" under dovecot_sasl'
    ]
    assert refused(with_listeners(f"{MAP}, port: 5") + "socket_maps: 5") == [
        "4:14: socket_maps: expected a mapping, not 5"
    ]


@pytest.mark.parametrize(
    "text, line",
    [
        ("server:\n  listen: []\n", "2:11: server.listen: must have at least one item"),
        ("server:\n  chroot: /x\n", "1:1: server.listen: is missing"),
        ("server:\n", "1:1: server: is missing"),
        ("server:\n  listen: {}\n", "2:11: server.listen: expected a list, not a mapping"),
        ("server:\n  listen: [5]\n", "2:12: server.listen[0]: expected a mapping, not 5"),
        ("server:\n  listen: [~]\n", "2:12: server.listen[0]: expected a mapping, not nothing"),
    ],
)
def test_there_must_be_a_listener(text: str, line: str, refused: Any) -> None:
    assert refused(text) == [line]


def tcp(address: str = "", port: int = 5, type: str = "tcp") -> str:
    return f"{MAP}, type: {type}, address: '{address}', port: {port}"


@pytest.mark.parametrize(
    "one, other",
    [
        (tcp(), tcp()),
        (tcp("[::]"), tcp("")),
        (tcp("::"), tcp("[0:0::0]")),
        (tcp("::"), tcp("0.0.0.0")),
        (tcp("0.0.0.0"), tcp()),
        (tcp("::"), tcp("127.0.0.1")),
        (tcp("127.0.0.1"), tcp("0.0.0.0")),
        (tcp("::"), tcp("::1")),
        (tcp("::1"), tcp("", type="tcp6")),
        (tcp("::"), tcp("localhost")),
        (tcp("LOCALHOST"), tcp("localhost")),
        (tcp("[::1]"), tcp("0::1", type="tcp6")),
        (tcp("::", type="tcp6"), tcp("::")),
        (f"{MAP}, type: unix, address: /run/x", f"{MAP}, type: unix, address: /run//y/../x"),
        (f"{MAP}, systemd_socket_name: x", f"{MAP}, type: unix, systemd_socket_name: x"),
    ],
)
def test_two_listeners_on_one_address(one: str, other: str, refused: Any) -> None:
    (line,) = refused(with_listeners(one, other) + GOOD)
    assert line.startswith("4:") and line.endswith(": the address is taken by server.listen[0] in line 3")
    key = "systemd_socket_name" if "systemd" in other else "address"
    assert f"server.listen[1].{key}: " in line


@pytest.mark.parametrize(
    "one, other",
    [
        (tcp(), tcp(port=6)),
        (tcp("127.0.0.1"), tcp("127.0.0.2")),
        (tcp("0.0.0.0"), tcp("::", type="tcp6")),
        (tcp("127.0.0.1"), tcp("::1")),
        (tcp("127.0.0.1"), tcp("", type="tcp6")),
        (tcp("0.0.0.0"), tcp("::1")),
        (tcp("localhost"), tcp("127.0.0.1")),
        (tcp("0.0.0.0"), tcp("mail.example")),
        (f"{MAP}, type: unix, address: /run/x", f"{MAP}, type: unix, address: /run/y"),
        (f"{MAP}, systemd_socket_name: x", f"{MAP}, systemd_socket_name: y"),
    ],
)
def test_two_listeners_side_by_side(one: str, other: str, accepted: Any) -> None:
    assert len(accepted(with_listeners(one, other) + GOOD).settings.server.listen) == 2


def test_listeners_without_an_address_are_not_on_one(refused: Any) -> None:
    lines = refused(with_listeners(MAP, MAP, f"{MAP}, type: unix", f"{MAP}, type: unix") + GOOD)
    assert [line.partition(": server.")[2] for line in lines] == [
        "listen[0].port: is missing",
        "listen[1].port: is missing",
        "listen[2].address: is missing: the path of the Unix socket",
        "listen[3].address: is missing: the path of the Unix socket",
    ]

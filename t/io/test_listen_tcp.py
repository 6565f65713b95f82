"""TCP listeners are bound as configured, and refused with one clear line."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.child import in_child
from kit.needs import needs

from pfxhttpd.config.settings import SOCKET_MAP, Listener
from pfxhttpd.io import SetupError, listen

NOBODY = 65534


def tcp(address: str, port: int = 0, type: str = "tcp") -> Listener:
    return Listener(SOCKET_MAP, "demo", type, address, port)


def unix(path: Path | str, **given: object) -> Listener:
    return Listener(SOCKET_MAP, "demo", "unix", str(path), **given)  # type: ignore[arg-type]


def reach(sock: socket.socket, host: str) -> tuple[socket.socket, str]:
    """Connects to the listener's port. Returns the accepted socket and its name in log lines."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(5)
        client.connect((host, sock.getsockname()[1]))
        assert select.select([sock], [], [], 5)[0]
        accepted, address = sock.accept()
        return accepted, listen.peer_name(accepted, address).replace(str(client.getsockname()[1]), "PORT")


@pytest.fixture
def opened() -> Iterator[list[socket.socket]]:
    """Sockets that are closed at the end of the test."""
    sockets: list[socket.socket] = []
    yield sockets
    for each in sockets:
        each.close()


@pytest.mark.parametrize("address", ["[::]", "::", ""])
def test_tcp_on_every_address_is_dual_stack(address: str, opened: list[socket.socket]) -> None:
    needs("ipv6")
    opened.append(listen.bind(tcp(address), 10))
    assert reach(opened[0], "127.0.0.1")[1] == "127.0.0.1:PORT"
    assert reach(opened[0], "::1")[1] == "[::1]:PORT"


def test_tcp6_is_ipv6_only(opened: list[socket.socket]) -> None:
    needs("ipv6")
    opened.append(listen.bind(tcp("[::]", type="tcp6"), 10))
    assert reach(opened[0], "::1")[1] == "[::1]:PORT"
    with pytest.raises(ConnectionRefusedError):
        reach(opened[0], "127.0.0.1")


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_tcp_on_an_ipv4_address_or_a_name(address: str, opened: list[socket.socket]) -> None:
    opened.append(listen.bind(tcp(address), 10))
    assert opened[0].family == socket.AF_INET
    assert reach(opened[0], "127.0.0.1")[1] == "127.0.0.1:PORT"


@pytest.mark.parametrize(("address", "type"), [("[::1]", "tcp"), ("::1", "tcp6")])
def test_one_ipv6_address(address: str, type: str, opened: list[socket.socket]) -> None:
    needs("ipv6")
    opened.append(listen.bind(tcp(address, type=type), 10))
    assert reach(opened[0], "::1")[1] == "[::1]:PORT"


def test_without_ipv6_every_address_means_every_ipv4_address(
    opened: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen.TcpListener, "bind", without_ipv6(listen.TcpListener.bind))
    opened.append(listen.bind(tcp("[::]"), 10))
    assert opened[0].getsockname()[0] == "0.0.0.0"
    with pytest.raises(SetupError):
        listen.bind(tcp("[::]", type="tcp6"), 10)


def without_ipv6(bind):  # type: ignore[no-untyped-def]
    def refuse(sock: socket.socket, address: tuple) -> None:
        if sock.family == socket.AF_INET6:
            raise OSError(99, "Cannot assign requested address")
        bind(sock, address)

    return refuse


def test_a_listening_socket_does_not_wait_and_is_not_inherited(opened: list[socket.socket], tmp_path: Path) -> None:
    opened += [listen.bind(tcp("127.0.0.1"), 10), listen.bind(unix(tmp_path / "s"), 10)]
    for sock in opened:
        assert not sock.getblocking() and not sock.get_inheritable()
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        with pytest.raises(BlockingIOError):
            sock.accept()


def test_accepted_connections_inherit_what_the_listener_set(opened: list[socket.socket]) -> None:
    opened.append(listen.bind(tcp("127.0.0.1"), 10))
    accepted, _ = reach(opened[0], "127.0.0.1")
    with accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_a_port_can_be_bound_again_at_once(opened: list[socket.socket]) -> None:
    first = listen.bind(tcp("127.0.0.1"), 10)
    address = first.getsockname()
    with socket.create_connection(address) as client:
        first.accept()[0].close()  # who closes first keeps the connection, in TIME_WAIT
        assert client.recv(1) == b""
    first.close()
    opened.append(listen.bind(tcp(*address), 10))


def test_of_a_names_addresses_tcp_takes_the_ipv4_one(
    opened: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [(socket.AF_INET6, 1, 6, "", ("::1", 0, 0, 0)), (socket.AF_INET, 1, 6, "", ("127.0.0.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments: found)
    opened.append(listen.bind(tcp("both.example"), 10))
    assert opened[0].getsockname()[0] == "127.0.0.1"


def refusal(listener: Listener) -> SetupError:
    with pytest.raises(SetupError) as caught:
        listen.bind(listener, 10)
    assert "\n" not in str(caught.value) and listener.endpoint in str(caught.value)
    return caught.value


def test_a_port_in_use(opened: list[socket.socket]) -> None:
    opened.append(listen.bind(tcp("127.0.0.1"), 10))
    failure = refusal(tcp("127.0.0.1", opened[0].getsockname()[1]))
    assert "in use" in str(failure) and "another process" in str(failure) and not failure.permission


@pytest.mark.parametrize(
    ("address", "hint"), [("0.0.0.0", True), ("[::]", True), ("localhost", True), ("127.0.0.2", False)]
)
def test_a_port_in_use_by_ourselves(address: str, hint: bool, opened: list[socket.socket]) -> None:
    """With the other address at the same port, too, so that the last one is refused for that."""
    opened += [listen.bind(tcp("127.0.0.1"), 10)]
    port = opened[0].getsockname()[1]
    other = socket.create_server(("127.0.0.2", port))
    opened.append(other)
    with pytest.raises(SetupError) as refused:
        listen.bind(tcp(address, port), 10, [opened[0]])
    text = f"this server itself listens on 127.0.0.1:{port}, which a reload cannot widen or narrow: restart it"
    assert (text in str(refused.value)) == hint and ("another process" in str(refused.value)) != hint


def test_a_port_that_is_not_ours_to_bind() -> None:
    needs("root")

    def work() -> tuple[str, bool]:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        failure = refusal(tcp("127.0.0.1", 25))
        return str(failure), failure.permission

    text, permission = in_child(work)
    assert text == (
        "cannot listen on tcp:127.0.0.1:25: Permission denied (ports below 1024 need root or CAP_NET_BIND_SERVICE)"
    )
    assert permission


@pytest.mark.parametrize(
    ("address", "type", "part"),
    [
        ("192.0.2.1", "tcp", "no such address"),
        ("two..dots", "tcp", "is not an address"),
        ("127.0.0.1", "tcp6", "is not an IPv6 address"),
        ("a" * 300, "tcp", "is not an address"),
    ],
)
def test_addresses_that_cannot_be(address: str, type: str, part: str) -> None:
    failure = refusal(tcp(address, 25999, type))
    assert part in str(failure) and not failure.permission


def test_a_socket_of_systemds_gets_the_same_options(opened: list[socket.socket]) -> None:
    plain = socket.create_server(("127.0.0.1", 0))
    opened.append(plain)
    listen.set_tcp_options(plain)
    accepted, _ = reach(plain, "127.0.0.1")
    with accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

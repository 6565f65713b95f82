"""A client that is connected to another protocol's listener is named in the log, at level error, and does not wait."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from kit import ports
from kit.answer import Answer
from kit.clients import SocketMap
from kit.configuration import configuration, listener, policy, socket_map

SAID = {
    "socketmap": b"10:users key1,",
    "policy": b"request=smtpd_access_policy\n\n",
    "Dovecot SASL": b"VERSION\t1\t1\nCPID\t1\n",
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
}
KINDS = {"socket_map": "socketmap", "policy_service": "policy", "dovecot_sasl": "Dovecot SASL"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_protocols_are_named(kind: str, serve: Any, backend: Any) -> None:
    port = ports.free()
    daemon = serve(
        configuration(
            listener(kind, "users", port),
            socket_maps={"users": socket_map(backend.url("/map"))},
            policy_services={"users": policy(backend.url("/map"))},
            dovecot_sasl={"users": {"target": backend.url("/map")}},
            level="info",
        )
    )
    for protocol, data in SAID.items():
        if protocol == KINDS[kind]:
            continue
        with socket.create_connection(("127.0.0.1", port), 10) as client:
            client.sendall(data)
            try:
                while client.recv(4096):
                    pass
            except ConnectionResetError:
                pass  # how a SASL connection ends over TCP
        spoken = f'"?{protocol}"?'
        line = daemon.log.wait_for(f"Client speaks another protocol.*spoken={spoken}")
        assert "level=ERROR" in line and f"expected={KINDS[kind]}" in line.replace('"', "")


def test_an_unknown_map_is_named_once_a_minute(serve: Any, backend: Any) -> None:
    port = ports.free()
    daemon = serve(
        configuration(
            listener("socket_map", "users", port),
            socket_maps={"users": socket_map(backend.url("/map"))},
            workers=1,
            level="info",
        )
    )
    with SocketMap(("127.0.0.1", port)) as client:
        for name in ("usres", "usres", "other"):
            assert client.ask(name, "k") == "PERM no such map"
    daemon.log.wait_for("No such map.*map=other")
    lines = daemon.log.find("No such map")
    assert len(lines) == 2 and all("level=ERROR" in line for line in lines), lines


def test_a_mistyped_value_field_is_told_with_the_fields_of_an_answer(serve: Any, backend: Any) -> None:
    """Also after a reload, when the former value field has been found."""
    backend.answer("/map", Answer(json={"data": {"result": "x"}, "status": "ok"}))
    port = ports.free()
    config = configuration(
        listener("socket_map", "users", port),
        socket_maps={"users": {**socket_map(backend.url("/map")), "value_field": "data.result"}},
        workers=1,
        level="info",
    )
    daemon = serve(config)
    with SocketMap(("127.0.0.1", port)) as client:
        assert client.ask("users", "k") == "OK x"
        config["socket_maps"]["users"]["value_field"] = "data.reslut"
        daemon.reload(config)
        assert client.ask("users", "k") == "NOTFOUND "
        daemon.log.wait_for(
            "No answer has had the value field yet.*data.reslut.*the answer has the fields data.result, status"
        )


def test_the_first_failure_is_an_error_and_the_others_are_not(serve: Any, backend: Any) -> None:
    backend.answer("/map", Answer(status=503))
    backend.answer("/other", Answer(status=401))
    port = ports.free()
    maps = {"users": socket_map(backend.url("/map")), "others": socket_map(backend.url("/other"))}
    daemon = serve(configuration(listener("socket_map", "users", port), socket_maps=maps, workers=2, level="info"))
    with SocketMap(("127.0.0.1", port)) as one, SocketMap(("127.0.0.1", port)) as two:
        for client in (one, two):
            for name in ("users", "others", "users", "others"):
                client.ask(name, "k")
    for message, wanted in (("Backend failed", "status code 503"), ("Lookup refused", "status=401")):
        lines = daemon.log.find(message)
        assert len(lines) == 4 and all(wanted in line for line in lines), lines
        assert sum("level=ERROR" in line for line in lines) == 1, lines
        assert "cache=" not in lines[0]

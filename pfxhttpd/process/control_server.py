"""The server side of the control socket: each connection carries one request and one reply."""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Callable, Mapping
from typing import Any

from pfxhttpd.io import control

ControlClient = socket.socket
"""A connection whose request has been read and whose reply is still to be sent."""

Command = Callable[[ControlClient, Mapping[str, Any]], None]
"""Carries out a request. It gets the client as well, because the reply may be sent later."""

MAX_CLIENTS = 64
"""Connections at the same time; an administrator needs one."""
SEND_BUFFER = 1 << 20
"""Bytes of the kernel's buffer, so that a whole status is sent without waiting for its reader."""


def reply(clients: list[ControlClient], message: Mapping[str, Any]) -> None:
    """Send the reply and close. A client that cannot take it at once does not get it: the master waits for no client."""
    for client in clients:
        try:
            client.send(control.encode(message))
        except OSError:
            pass
        client.close()


def refuse(clients: list[ControlClient], reason: str) -> None:
    reply(clients, {"ok": False, "reason": reason})


class ControlServer:
    """`commands` maps the name of each command to what carries it out."""

    def __init__(
        self,
        directory: str,
        owner: tuple[int, int] | None,
        selector: selectors.BaseSelector,
        commands: Mapping[str, Command],
    ) -> None:
        """Binds the socket in the runtime directory. Raises SetupError."""
        self._directory, self._selector, self._commands = directory, selector, commands
        self._socket = control.bind(directory, owner)
        self._received: dict[ControlClient, bytes] = {}
        self._selector.register(self._socket, selectors.EVENT_READ, self._accept)

    def sockets(self) -> list[socket.socket]:
        """The sockets that no child may keep."""
        return [self._socket, *self._received]

    def close(self) -> None:
        self._selector.unregister(self._socket)
        self._socket.close()
        self.remove_file()

    def remove_file(self) -> None:
        """Remove the socket's file."""
        control.remove(self._directory)

    def _accept(self) -> None:
        try:
            client, _ = self._socket.accept()
        except OSError:
            return
        client.setblocking(False)
        if len(self._received) >= MAX_CLIENTS or not control.allowed(client, os.geteuid()):
            client.close()
            return
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self._received[client] = b""
        self._selector.register(client, selectors.EVENT_READ, lambda: self._read(client))

    def _read(self, client: ControlClient) -> None:
        try:
            data = client.recv(control.MAX_REQUEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        line = self._received[client] = self._received[client] + data
        if data and b"\n" not in line and len(line) < control.MAX_REQUEST:
            return
        self._selector.unregister(client)
        del self._received[client]
        if not data:
            client.close()
            return
        try:
            request = control.parse(line.partition(b"\n")[0])
        except control.ControlError as error:
            refuse([client], str(error))
            return
        command = self._commands.get(str(request.get("command")))
        if command:
            command(client, request)
        else:
            refuse([client], f"what can be asked is {', '.join(self._commands)}")

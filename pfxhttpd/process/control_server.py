"""Where the master is spoken to: connections to the control socket, each with one question and one answer."""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Callable, Mapping
from typing import Any

from pfxhttpd.io import control

ControlClient = socket.socket
"""A connection whose question has been read and whose answer is still owed."""

Command = Callable[[ControlClient, Mapping[str, Any]], None]
"""What is done about a question, which is handed over with the asker; the answer may come soon or late."""

MOST = 64
"""Connections at once; an administrator needs one."""


def answer(askers: list[ControlClient], message: Mapping[str, Any]) -> None:
    """Answer and close. Whoever does not take the answer at once does not get it: the master waits for nobody."""
    for asker in askers:
        try:
            asker.send(control.encode(message))
        except OSError:
            pass
        asker.close()


def refuse(askers: list[ControlClient], reason: str) -> None:
    answer(askers, {"ok": False, "reason": reason})


class ControlServer:
    """`commands` maps what can be asked to what is done about it."""

    def __init__(
        self,
        where: str,
        owner: tuple[int, int] | None,
        selector: selectors.BaseSelector,
        commands: Mapping[str, Command],
    ) -> None:
        """Raises `control.ControlError`."""
        self._where, self._selector, self._commands = where, selector, commands
        self._control = control.bind(where, owner)
        self._heard: dict[ControlClient, bytes] = {}
        self._selector.register(self._control, selectors.EVENT_READ, self._open)

    def sockets(self) -> list[socket.socket]:
        """What a child has no business with."""
        return [self._control, *self._heard]

    def close(self) -> None:
        self._selector.unregister(self._control)
        self._control.close()
        control.remove(self._where)

    def _open(self) -> None:
        try:
            asker, _ = self._control.accept()
        except OSError:
            return
        asker.setblocking(False)
        if len(self._heard) >= MOST or not control.allowed(asker, os.geteuid()):
            asker.close()
            return
        asker.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)  # a whole status, without waiting for its reader
        self._heard[asker] = b""
        self._selector.register(asker, selectors.EVENT_READ, lambda: self._hear(asker))

    def _hear(self, asker: ControlClient) -> None:
        try:
            data = asker.recv(control.LONGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        line = self._heard[asker] = self._heard[asker] + data
        if data and b"\n" not in line and len(line) < control.LONGEST:
            return
        self._selector.unregister(asker)
        del self._heard[asker]
        if not data:
            asker.close()
            return
        try:
            request = control.parse(line.partition(b"\n")[0])
        except control.ControlError as error:
            refuse([asker], str(error))
            return
        command = self._commands.get(str(request.get("command")))
        if command:
            command(asker, request)
        else:
            refuse([asker], f"what can be asked is {', '.join(self._commands)}")

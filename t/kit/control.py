"""A client of the control socket, written from its documentation: one line of JSON is a request, one is the response.

It does what an operator does with `pfxhttpd status` and `pfxhttpd reload`, without the quarter of a second that a
command takes to start.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kit.daemon import Daemon
from kit.waiting import until

Status = dict[str, Any]
"""What `pfxhttpd status --json` prints."""


class ControlRequest:
    """A request that has been sent; `response` waits for the answer."""

    def __init__(self, runtime_directory: Path, message: Any, timeout: float = 30.0) -> None:
        """`message` is written as JSON, or as it is if it is bytes."""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        self.socket.connect(str(runtime_directory / "control.sock"))
        self.socket.sendall(message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n")

    def response(self) -> dict[str, Any]:
        """The response. Raises TimeoutError, and ConnectionError when there is none."""
        with self.socket, self.socket.makefile("rb") as stream:
            line = stream.readline()
        if not line.endswith(b"\n"):
            raise ConnectionError(f"the control socket was closed after {line!r}")
        found: dict[str, Any] = json.loads(line)
        return found


def send_command(runtime_directory: Path, command: str, timeout: float = 30.0) -> dict[str, Any]:
    """The response to one command."""
    return ControlRequest(runtime_directory, {"command": command}, timeout).response()


class Refused(Exception):
    """The server did not carry out the command; the text is its reason."""


def status(daemon: Daemon) -> Status:
    found: Status = _accepted(send_command(daemon.runtime_directory, "status"))["status"]
    return found


def reload(daemon: Daemon, config: Mapping[str, Any] | str | None = None) -> int:
    """Replaces the configuration, if one is given, and reloads; the new generation's number. Raises Refused."""
    if config is not None:
        daemon.write(config)
    return int(_accepted(send_command(daemon.runtime_directory, "reload"))["generation"])


def _accepted(response: dict[str, Any]) -> dict[str, Any]:
    if not response["ok"]:
        raise Refused(response["reason"])
    return response


def wait_status(daemon: Daemon, accepts: Callable[[Status], Any], what: str, timeout: float = 10.0) -> Status:
    """The first status that `accepts` is true of. Raises TimeoutError."""
    seen: list[Status] = []

    def look() -> bool:
        seen.append(status(daemon))
        del seen[:-1]
        return bool(accepts(seen[-1]))

    try:
        until(look, what, timeout)
    except TimeoutError as late:
        raise TimeoutError(f"{late}\n{seen[-1]}") from None
    return seen[-1]


def connections(number: int) -> Callable[[Status], bool]:
    """For `wait_status`: the server holds so many connections."""
    return lambda status: status["connections"] == number


def waiting(number: int, pool: str = "global") -> Callable[[Status], bool]:
    """For `wait_status`: so many connections of the pool wait for a worker."""
    return lambda status: [each["waiting"] for each in status["pools"] if each["pool"] == pool] == [number]


def busy(number: int) -> Callable[[Status], bool]:
    """For `wait_status`: so many workers process a request."""
    return lambda status: [worker["state"] for worker in status["workers"]].count("busy") == number


def serving(number: int) -> Callable[[Status], bool]:
    """For `wait_status`: there are so many workers, and all of them serve."""
    return lambda status: [worker["state"] in ("idle", "busy") for worker in status["workers"]] == [True] * number

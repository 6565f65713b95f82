"""What an operator does to a running daemon, quickly: over its control socket, without the command's start-up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kit.control import ask
from kit.daemon import Daemon
from kit.waiting import until


class Refusal(Exception):
    """The server did not do it; the text is its reason."""


def status(daemon: Daemon) -> dict[str, Any]:
    """What `pfxhttpd status --json` prints."""
    return _of(ask(daemon.runtime_directory, "status"))["status"]


def reload(daemon: Daemon, config: Mapping[str, Any] | str | None = None) -> int:
    """Replaces the configuration, if one is given, and reloads; the new generation's number. Raises Refusal."""
    if config is not None:
        daemon.write(config)
    return _of(ask(daemon.runtime_directory, "reload"))["generation"]


def _of(answer: dict[str, Any]) -> dict[str, Any]:
    if not answer["ok"]:
        raise Refusal(answer["reason"])
    return answer


def wait_status(
    daemon: Daemon, right: Callable[[dict[str, Any]], Any], what: str, timeout: float = 10.0
) -> dict[str, Any]:
    """The first status of which `right` holds. Raises TimeoutError."""
    seen: list[dict[str, Any]] = []

    def look() -> bool:
        seen.append(status(daemon))
        del seen[:-1]
        return bool(right(seen[-1]))

    try:
        until(look, what, timeout)
    except TimeoutError as late:
        raise TimeoutError(f"{late}\n{seen[-1]}") from None
    return seen[-1]


def connections(number: int) -> Callable[[dict[str, Any]], bool]:
    """For `wait_status`: the server holds so many clients."""
    return lambda status: status["connections"] == number


def waiting(number: int, pool: str = "global") -> Callable[[dict[str, Any]], bool]:
    """For `wait_status`: so many clients of the pool wait for a worker."""
    return lambda status: [each["waiting"] for each in status["pools"] if each["pool"] == pool] == [number]


def busy(number: int) -> Callable[[dict[str, Any]], bool]:
    """For `wait_status`: so many workers have a request in hand."""
    return lambda status: [worker["state"] for worker in status["workers"]].count("busy") == number


def serving(number: int) -> Callable[[dict[str, Any]], bool]:
    """For `wait_status`: there are so many workers, and all of them serve."""
    return lambda status: [worker["state"] in ("idle", "busy") for worker in status["workers"]] == [True] * number

"""The cache and the circuit breaker as a test sees them, and lookups that are timed: for tests of outages."""

from __future__ import annotations

import time
from typing import Any

from kit.clients import SocketMap
from kit.control import ControlRequest, Status, status, wait_status
from kit.daemon import Daemon

TENTH = 0.1
"""Seconds that the cache may add to a reply, whatever happens to it."""
NOISE = 0.3
"""Seconds that a busy test machine may add to any."""


def cache(daemon: Daemon) -> dict[str, Any]:
    """What `status` shows of the cache."""
    found: dict[str, Any] = status(daemon)["cache"]
    return found


def wait_cached(daemon: Daemon, entries: int, timeout: float = 10.0) -> dict[str, Any]:
    """The same, as soon as it holds so many entries."""

    def holds(status: Status) -> bool:
        return bool(status["cache"]["entries"] == entries)

    found: dict[str, Any] = wait_status(daemon, holds, f"{entries} cached entries", timeout)["cache"]
    return found


def wait_cache_serves(daemon: Daemon) -> None:
    """Returns when there is a cache process at work."""
    wait_status(
        daemon,
        lambda told: ("cache", "serving") in [(each["process"], each["state"]) for each in told["processes"]],
        "a cache that serves",
    )


def purge(daemon: Daemon, name: str | None = None, key: str | None = None) -> int:
    """`pfxhttpd cache purge NAME KEY` without the command; how many were forgotten."""
    answer = ControlRequest(daemon.runtime_directory, {"command": "purge", "name": name, "key": key}).response()
    assert answer["ok"], answer
    return int(answer["forgotten"])


def breaker(daemon: Daemon, target: str) -> str:
    """The state of a target's breaker."""
    (found,) = [each["breaker"] for each in status(daemon)["targets"] if each["target"] == target]
    return str(found)


def slowest(client: SocketMap, name: str, keys: list[str], expected: str) -> float:
    """Asks for each key; the seconds that the slowest lookup took. All replies begin as expected."""
    longest = 0.0
    for key in keys:
        before = time.monotonic()
        reply = client.ask(name, key)
        longest = max(longest, time.monotonic() - before)
        assert reply.startswith(expected), reply
    return longest

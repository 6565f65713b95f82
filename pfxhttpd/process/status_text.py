"""The status of a server as lines of text, for `pfxhttpd status` and for the log.

It is apart from `status` because the command runs without the rest of the server.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def lines(status: Mapping[str, Any]) -> list[str]:
    """The status that `process.status.snapshot` returns, in lines for people."""
    text = [
        (
            f"pfxhttpd {status['version']} pid {status['pid']} generation {status['generation']} "
            f"{status['configuration']}: {status['connections']} of {status['max_connections']} connections"
            + ("" if status["accepting"] else ", no descriptors left to accept more")
        )
    ]
    for pool in status["pools"]:
        text.append(
            f"pool {pool['pool']}: {pool['workers']} workers, {pool['waiting']} of {pool['max_queue']} waiting, "
            f"listening on {' '.join(pool['listeners'])}"
        )
    cache = status["cache"]
    text.append(
        f"cache: {cache['entries']} entries, {cache['bytes']} bytes, {cache['hits']} hits, {cache['misses']} misses, "
        f"{cache['evictions']} evictions"
        if cache["enabled"]
        else "cache: not enabled"
    )
    for target in status["targets"]:
        since = f" for {target['seconds']:.1f} s" if "seconds" in target else ""
        text.append(f"target {target['target']}: breaker {target['breaker']}{since}, {target['failures']} failures")
    text += map(_provider_line, status["providers"])
    for worker in status["workers"]:
        busy = f" {worker['entry']} for {worker['seconds']:.1f} s" if worker["entry"] else ""
        text.append(f"{worker['process']} pid {worker['pid']}: {worker['state']}{busy}, {worker['requests']} requests")
    text += [f"{other['process']} pid {other['pid']}: {other['state']}" for other in status["processes"]]
    return text


def _provider_line(provider: Mapping[str, Any]) -> str:
    keys = "no keys" if provider["keys"] is None else f"{provider['keys']} keys"
    fetched = "nothing fetched" if provider["fetched"] is None else f"fetched {provider['fetched']:.0f} s ago"
    error = f", last error {provider['error_seconds']:.0f} s ago: {provider['error']}" if provider["error"] else ""
    return f"provider {provider['provider']}: {keys}, {fetched}, breaker {provider['breaker']}{error}"

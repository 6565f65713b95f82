"""The status of a server as lines of text, for `pfxhttpd status` and for the log.

It is apart from `status` because the command runs without the rest of the server.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pfxhttpd.process.status_problems import duration

WELL = "all is well"


def summary(status: Mapping[str, Any]) -> list[str]:
    """What is wrong, a line each, or one line that all is well."""
    return list(status["problems"]) or [WELL]


def lines(status: Mapping[str, Any]) -> list[str]:
    """The status that `process.status.snapshot` returns, in lines for people, without the `summary`."""
    text = [
        f"pfxhttpd {status['version']} pid {status['pid']} generation {status['generation']} {status['configuration']}",
        (
            f"up {duration(status['uptime'])}: {_count(status['requests'], 'request')}, {status['rate']:g} a second in the"
            f" last minute, {_count(status['failures'], 'failure')};"
            f" {status['connections']} of {status['max_connections']} connections"
        ),
        *map(_entry_line, status["entries"]),
    ]
    for pool in status["pools"]:
        backlog = f", {pool['backlog']} not accepted yet" if pool["backlog"] else ""
        text.append(
            f"pool {pool['pool']}: {_count(pool['workers'], 'worker')}, {pool['busy']} busy, {pool['waiting']} of"
            f" {pool['max_queue']} waiting{backlog}, listening on {' '.join(pool['listeners'])}"
        )
    cache = status["cache"]
    text.append(
        f"cache: {cache['entries']} entries, {cache['bytes']} bytes, {cache['hits']} hits, {cache['misses']} misses, "
        f"{cache['evictions']} evictions"
        if cache["enabled"]
        else "cache: not enabled"
    )
    for target in status["targets"]:
        since = f" for {duration(target['seconds'])}" if "seconds" in target else ""
        text.append(
            f"target {target['target']}: breaker {target['breaker']}{since}, {_count(target['failures'], 'failure')}"
        )
    text += map(_provider_line, status["providers"])
    for worker in status["workers"]:
        busy = f" {worker['entry']} for {worker['seconds']:.1f} s" if worker["entry"] else ""
        text.append(
            f"{worker['process']} pid {worker['pid']}: {worker['state']}{busy}, {_count(worker['requests'], 'request')}"
        )
    text += [f"{other['process']} pid {other['pid']}: {other['state']}" for other in status["processes"]]
    return text


def _entry_line(entry: Mapping[str, Any]) -> str:
    label = f"{entry['kind']} {entry['name']}"
    if not entry["requests"]:
        return f"{label}: no requests"
    failed = entry["failed"] + entry["not_sent"] + entry["unexpected"]
    text = f"{label}: {_count(entry['requests'], 'request')}, {entry['rate']:g} a second, {failed} failed"
    if entry["p50"] is None:
        return text
    times = ", ".join(f"{name} {_milliseconds(entry[name])}" for name in ("p50", "p95", "p99"))
    return f"{text}, {times}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _provider_line(provider: Mapping[str, Any]) -> str:
    keys = "no keys" if provider["keys"] is None else f"{provider['keys']} keys"
    fetched = "nothing fetched" if provider["fetched"] is None else f"fetched {provider['fetched']:.0f} s ago"
    error = f", last error {provider['error_seconds']:.0f} s ago: {provider['error']}" if provider["error"] else ""
    return f"provider {provider['provider']}: {keys}, {fetched}, breaker {provider['breaker']}{error}"

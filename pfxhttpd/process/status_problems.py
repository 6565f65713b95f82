"""What is wrong with a server, in sentences for whoever is woken by it: from the status alone, worst first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Status = Mapping[str, Any]

HOUR = 3600.0
"""Seconds after which what is over is no problem any more."""


def of(status: Status) -> list[str]:
    """The problems; none if all is well. `status` is what `process.status.snapshot` returns."""
    return [
        *_pool_problems(status),
        *_entry_problems(status),
        *_target_problems(status),
        *_provider_problems(status),
        *_limit_problems(status),
        *_process_problems(status),
        *_log_problems(status),
    ]


def duration(seconds: float) -> str:
    """A duration as people say it: "3 s", "12 min", "5 h", "2 days"."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def _pool_problems(status: Status) -> Iterator[str]:
    for pool in status["pools"]:
        waiting = pool["waiting"] + pool["backlog"]
        if pool["workers"] and pool["busy_seconds"] and waiting:
            workers = "its only worker has" if pool["busy"] == 1 else f"all {pool['busy']} workers have"
            yield (
                f"pool {pool['pool']}: {workers} been busy for {duration(pool['busy_seconds'])},"
                f" {waiting} {'client waits' if waiting == 1 else 'clients wait'}"
            )
        if pool["waiting"] >= pool["max_queue"]:
            yield f"pool {pool['pool']}: the queue is full ({pool['max_queue']}), no further connection is accepted"


def _entry_problems(status: Status) -> Iterator[str]:
    for entry in status["entries"]:
        last = entry.get("last_minute")
        if last is None:
            continue
        label = f"{entry['kind']} {entry['name']}"
        error = f"; last error {duration(entry['error_seconds'])} ago: {entry['error']}" if entry["error"] else ""
        failed = last["failed"] + last["not_sent"]
        if failed or last["unexpected"]:
            what = "failed" if failed else "got an unexpected status code"
            count = failed + last["unexpected"] if failed else last["unexpected"]
            yield f"{label}: {count} of {last['requests']} requests in the last minute {what}{error}"
        elif entry["failing"]:
            yield f"{label}: the last requests failed, and there were none since{error}"
        if last["slow"]:
            yield (
                f"{label}: {last['slow']} of {last['requests']} requests in the last minute took more than three quarters"
                f" of the timeout ({entry['timeout']:g} s)"
            )


def _target_problems(status: Status) -> Iterator[str]:
    for target in status["targets"]:
        if target["breaker"] != "closed":
            error = f": {target['error']}" if target["error"] else ""
            failures = "1 failure" if target["failures"] == 1 else f"{target['failures']} failures"
            yield (
                f"target {target['target']}: the circuit breaker has been {target['breaker']} for"
                f" {duration(target['seconds'])}, after {failures}{error}"
            )


def _provider_problems(status: Status) -> Iterator[str]:
    for provider in status["providers"]:
        error = f": {provider['error']}" if provider["error"] else ""
        if provider["breaker"] != "closed":
            yield f"provider {provider['provider']}: the circuit breaker is {provider['breaker']}{error}"


def _limit_problems(status: Status) -> Iterator[str]:
    if not status["accepting"]:
        yield "no file descriptors or memory are left to accept connections"
    if status["connections"] >= status["max_connections"]:
        yield (
            f"all {status['max_connections']} connections that the server may hold are in use,"
            " no further connection is accepted"
        )


def _log_problems(status: Status) -> Iterator[str]:
    log = status["log"]
    if log["lost"] and log["lost_seconds"] < HOUR:
        lines = "1 log line was" if log["lost"] == 1 else f"{log['lost']} log lines were"
        yield f"{lines} lost since the start, the last one {duration(log['lost_seconds'])} ago: the log cannot be written"


def _process_problems(status: Status) -> Iterator[str]:
    if status["cache_running"] is False:
        yield "the cache process does not run, and nothing is answered from the cache"
    deaths = status["deaths"]
    if deaths:
        last = deaths[-1]
        count = "1 process" if len(deaths) == 1 else f"{len(deaths)} processes"
        yield (
            f"{count} died and {'was' if len(deaths) == 1 else 'were'} replaced in the last hour, the last one"
            f" {duration(last['seconds'])} ago: {last['process']}, {last['why']}"
        )

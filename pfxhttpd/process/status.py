"""What `status` shows: a snapshot of the scoreboard and of the master's knowledge, as values that JSON can hold."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

from pfxhttpd import __version__
from pfxhttpd.io.cache.documents import ProviderState
from pfxhttpd.io.log import Logger
from pfxhttpd.io.scoreboard import Scoreboard
from pfxhttpd.process import pool_load, status_problems
from pfxhttpd.process.child import State
from pfxhttpd.process.entry_totals import EntryTotals, entry_keys
from pfxhttpd.process.generation import Generation
from pfxhttpd.process.pool_load import SaturationLog
from pfxhttpd.process.supervisor import Supervisor
from pfxhttpd.process.target_failure_log import last_error
from pfxhttpd.rules.breaker import STATE_NAMES
from pfxhttpd.service.backend import plain_target
from pfxhttpd.service.oidc.provider import breaker_target

ACCEPTING_AGAIN = 2.0
"""Seconds without a failure after which connections count as accepted again."""

_Breaker = tuple[int, int, float, tuple[int, ...]]
"""What `TargetRow.read` returns."""


def snapshot(
    supervisor: Supervisor, board: Scoreboard, saturation: SaturationLog, providers: Iterable[ProviderState] = ()
) -> dict[str, Any]:
    """The state of the server, in values that JSON can hold. Durations are seconds. `providers` are the states that the
    cache knows. `problems` is what is wrong, a sentence each."""
    now = time.monotonic()
    generation, totals = supervisor.generation, supervisor.totals
    names = {breaker_target(uri): uri for uri in generation.providers}
    known = {state.provider: state for state in providers}
    entries = _entries(generation, totals, now)
    all_counts = totals.totals()
    status: dict[str, Any] = {
        "version": __version__,
        "pid": os.getpid(),
        "configuration": generation.settings.source,
        "generation": generation.number,
        "uptime": round(now - totals.started_at, 1),
        "requests": sum(sum(counts.outcomes().values()) for counts in all_counts.values()),
        "failures": sum(
            counts.outcomes()["failed"] + counts.not_sent + counts.outcomes()["unexpected"]
            for counts in all_counts.values()
        ),
        "rate": round(sum(entry["rate"] for entry in entries), 2),
        "connections": board.connections,
        "max_connections": generation.max_connections,
        "accepting": now - board.accept_failed_at > ACCEPTING_AGAIN if board.accept_failed_at else True,
        "entries": entries,
        "pools": _pools(supervisor, board, saturation, now),
        "cache": {
            "enabled": generation.settings.server.response_cache.enabled,
            **board.cache.read(),
        },
        "cache_running": cache_runs(supervisor, now),
        "targets": [
            _target(target, board.target(row).read(), now) | _error(last_error(generation, totals, target), now)
            for target, row in generation.targets.items()
            if target not in names
        ],
        "providers": [
            _provider(uri, board.target(generation.targets[name]).read(), known.get(uri), now)
            for name, uri in names.items()
        ],
        "log": _log(generation.logger, now),
        "deaths": [
            {"process": death.process, "why": death.why, "seconds": round(now - death.at, 1)}
            for death in supervisor.deaths
            if now - death.at < status_problems.HOUR
        ],
        **_processes(supervisor, board, now),
    }
    return {"problems": status_problems.of(status), **status}


def _entries(generation: Generation, totals: EntryTotals, now: float) -> list[dict[str, Any]]:
    """The counts of each entry of the configuration: since the start, and within the last minute."""
    counts, found = totals.totals(), []
    recent = totals.recent(counts, now)
    for kind, name in entry_keys(generation.settings.entries):
        entry = generation.settings.entries[kind][name]
        shown: dict[str, Any] = {"kind": kind, "name": name, "timeout": entry.timeout, "requests": 0, "rate": 0.0}
        if (kind, name) in counts:
            own, last = counts[kind, name], recent[kind, name]
            outcomes = own.outcomes()
            median, high, highest = own.percentiles(0.5, 0.95, 0.99)
            last_requests = sum(count for outcome, count in last.counts.items() if outcome in outcomes)
            shown |= {
                "requests": sum(outcomes.values()),
                "rate": round(last_requests / last.seconds, 2),
                **outcomes,
                "cached": own.cached,
                "slow": own.slow,
                "seconds": round(own.seconds, 6),
                "p50": median,
                "p95": high,
                "p99": highest,
                "last_minute": {"requests": last_requests, **last.counts},
                "failing": last.failing,
                **_error((own.error_at, own.error), now),
            }
        found.append(shown)
    return found


def _log(logger: Logger, now: float) -> dict[str, Any]:
    """The log lines that were lost since the start, and how many seconds ago the last one was; None for never."""
    lost = logger.lost_lines
    return {"lost": lost.count, "lost_seconds": round(now - lost.last_at, 1) if lost.last_at else None}


def _error(error: tuple[float, str], now: float) -> dict[str, Any]:
    at, text = error
    return {"error": text, "error_seconds": round(now - at, 1) if at else None}


def _pools(supervisor: Supervisor, board: Scoreboard, saturation: SaturationLog, now: float) -> list[dict[str, Any]]:
    generation = supervisor.generation
    pools = []
    for key, load in pool_load.pool_loads(generation, board, supervisor.children.values()).items():
        runtime = generation.pools[key]
        since = saturation.since.get(key, load.busy_since) if load.saturated else load.busy_since
        pools.append(
            {
                "pool": runtime.title,
                "workers": runtime.pool.max_workers,
                "busy": load.busy,
                "busy_seconds": round(now - since, 1) if load.busy_since else 0,
                "waiting": load.waiting,
                "backlog": load.backlog,
                "max_queue": runtime.pool.max_queue,
                "listeners": list(runtime.listeners),
            }
        )
    return pools


def cache_runs(supervisor: Supervisor, now: float) -> bool | None:
    """Whether the cache process responds; None if none is needed."""
    if not supervisor.generation.needs_cache:
        return None
    child = supervisor.cache.child
    return child is not None and child.state is State.SERVING and supervisor.cache_responds(now)


def _processes(supervisor: Supervisor, board: Scoreboard, now: float) -> dict[str, Any]:
    titles = {pool.index: pool.title for pool in supervisor.generation.pools.values()}
    workers, others = [], []
    for child in supervisor.children.values():
        if child.row < 0:
            others.append({"process": child.name, "pid": child.pid, "state": child.state.value})
            continue
        view = board.view(child.row)
        busy = view.state == "busy"
        workers.append(
            {
                "process": child.name,
                "pid": child.pid,
                "pool": titles.get(view.pool, ""),
                "generation": view.generation,
                "state": view.state if child.state is State.SERVING else child.state.value,
                "requests": view.requests,
                "entry": view.entry if busy else "",
                "seconds": round(now - view.since, 3) if busy else 0,
            }
        )
    workers.sort(key=lambda worker: (worker["pool"], worker["process"]))
    return {"workers": workers, "processes": others}


def _target(target: str, breaker: _Breaker, now: float) -> dict[str, Any]:
    state, failures, since, _ = breaker
    known = {"target": plain_target(target), "breaker": STATE_NAMES[state], "failures": failures}
    return known | ({"seconds": round(now - since, 3)} if state else {})


def _provider(uri: str, breaker: _Breaker, state: ProviderState | None, now: float) -> dict[str, Any]:
    """`keys` is None while none were fetched; `fetched` and `error_seconds` are seconds ago, None for never."""
    shown: dict[str, Any] = {"provider": plain_target(uri), "keys": None, "fetched": None, "error": ""}
    if state is not None:
        shown["keys"] = state.keys if state.keys >= 0 else None
        shown["fetched"] = round(now - state.fetched_at, 3) if state.fetched_at else None
        shown["error"] = state.error
    shown["error_seconds"] = round(now - state.error_at, 3) if state is not None and state.error else None
    shown |= _target(uri, breaker, now)
    del shown["target"]
    return shown

"""What the metrics process gets from the master: the state of the whole server, as values that JSON can hold."""

from __future__ import annotations

import json
import os
import platform
import socket
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pfxhttpd import __version__
from pfxhttpd.io.scoreboard import Scoreboard
from pfxhttpd.io.scoreboard.histograms import CONNECTION_BOUNDS, REQUEST_BOUNDS
from pfxhttpd.io.scoreboard.rows import STATES
from pfxhttpd.process import pool_load
from pfxhttpd.process.child import METRICS_WANTED, ROLES, State
from pfxhttpd.process.generation import Generation
from pfxhttpd.process.metric_totals import MetricTotals
from pfxhttpd.process.status import cache_runs
from pfxhttpd.process.supervisor import Supervisor
from pfxhttpd.service.backend import plain_target
from pfxhttpd.service.listener_metrics import (
    ACCEPT_FAILED,
    ACCEPTED,
    CLOSED,
    CLOSED_ERROR,
    CLOSED_TIMEOUT,
    UNKNOWN_MAP,
)
from pfxhttpd.service.oidc.provider import breaker_target
from pfxhttpd.service.request_metrics import APPLICATION, BACKEND

_CLOSED = {"success": CLOSED, "error": CLOSED_ERROR, "timeout": CLOSED_TIMEOUT}


def snapshot(supervisor: Supervisor, board: Scoreboard, reloads: Mapping[str, int], reloaded: bool) -> dict[str, Any]:
    """The present state. `reloads` are counts by result; `reloaded` is false if the last one failed. `took` is the
    processor time of the snapshot itself (seconds)."""
    now = time.monotonic()
    generation, totals = supervisor.generation, supervisor.metric_totals
    began = time.thread_time()
    totals.update()
    found = {
        "version": __version__,
        "python_version": platform.python_version(),
        "started": round(time.time() - (now - supervisor.totals.started_at), 3),
        "request_bounds": REQUEST_BOUNDS,
        "connection_bounds": CONNECTION_BOUNDS,
        "application": _requests(generation, totals, APPLICATION),
        "backend": _requests(generation, totals, BACKEND),
        "listeners": _listeners(generation, totals, board.connections),
        "connections": board.connections,
        "max_connections": generation.max_connections,
        "parked": board.parked,
        "pools": _pools(supervisor, board),
        "cache": {
            "enabled": generation.settings.server.response_cache.enabled,
            "responds": cache_runs(supervisor, now) is not False,
            **totals.cache(board.cache.read()),
        },
        "breakers": _breakers(generation, board),
        "deaths": {role: supervisor.deaths.counts[role] for role in ROLES},
        "reloads": dict(reloads),
        "last_reload_successful": reloaded,
        "certificates": dict(generation.certificates),
        "lost_traces": list(board.lost_traces.total),
        "not_ready": not_ready(supervisor),
        "processes": [("master", os.getpid()), *((child.role, child.pid) for child in supervisor.children.values())],
        "processor_of_ended": dict(supervisor.processor_of_ended),
    }
    return {**found, "took": time.thread_time() - began}


def not_ready(supervisor: Supervisor) -> str:
    """Why the server cannot answer all requests, in one line; "" if it can."""
    serving = {key for key, slot in supervisor.worker_slots.items() if slot.child and slot.child.state is State.SERVING}
    for pool in supervisor.generation.pools.values():
        if not any(key == pool.key for key, _ in serving):
            return f"the pool {pool.title} has no worker that serves"
    return ""


def _requests(generation: Generation, totals: MetricTotals, what: str) -> list[tuple[list[str], list[int], float]]:
    """The labels, counts and seconds of each series that the configuration has."""
    entries = generation.settings.entries
    listeners = {"", *(listener.name for listener in generation.settings.server.listen)}
    return [
        (list(labels), total.cells, total.seconds)
        for (kind_of_series, *labels), total in totals.requests()
        if kind_of_series == what and labels[1] in entries[labels[0]] and (what == BACKEND or labels[2] in listeners)
    ]


def _listeners(generation: Generation, totals: MetricTotals, connections: int) -> list[dict[str, Any]]:
    shown = []
    for key in dict.fromkeys((listener.kind, listener.name) for listener in generation.settings.server.listen):
        ended = {result: totals.listener(key, event) for result, event in _CLOSED.items()}
        closed = {result: total.count for result, total in ended.items()}
        closed["error"] += totals.lost(key)
        shown.append(
            {
                "component": key[0],
                "name": key[1],
                "accepted": totals.listener(key, ACCEPTED).count,
                "accept_failed": totals.listener(key, ACCEPT_FAILED).count,
                "unknown_map": totals.listener(key, UNKNOWN_MAP).count,
                "active": totals.active(key, connections),
                "closed": closed,
                "durations": {result: (total.cells, total.seconds) for result, total in ended.items() if total.count},
            }
        )
    return shown


def _pools(supervisor: Supervisor, board: Scoreboard) -> list[dict[str, Any]]:
    generation = supervisor.generation
    loads = pool_load.pool_loads(generation, board, supervisor.children.values())
    titles = Counter(runtime.title for runtime in generation.pools.values())
    shown = []
    for key, runtime in generation.pools.items():
        rows = [child for child in supervisor.workers() if board.view(child.row).pool == runtime.index]
        states = Counter(
            board.view(child.row).state if child.state is State.SERVING else child.state.value for child in rows
        )
        shown.append(
            {
                "pool": runtime.title if titles[runtime.title] == 1 else f"{runtime.title} {key}",
                "states": {state: states[state] for state in (*STATES[1:], State.WAITING.value)},
                "workers": runtime.pool.max_workers,
                "waiting": loads[key].waiting,
                "backlog": loads[key].backlog,
                "max_queue": runtime.pool.max_queue,
            }
        )
    return shown


def _breakers(generation: Generation, board: Scoreboard) -> dict[str, int]:
    """The state of each breaker. Targets that differ only in what must not be shown count as one: the worse is shown."""
    names = {breaker_target(uri): uri for uri in generation.providers}
    states: dict[str, int] = {}
    for target, row in generation.targets.items():
        shown = plain_target(names.get(target, target))
        states[shown] = max(states.get(shown, 0), board.target(row).read()[0])
    return states


def send(channel: socket.socket, snapshot: Mapping[str, Any]) -> None:
    """Answer METRICS_WANTED. The snapshot goes into a file in memory, since it may be larger than a message."""
    descriptor = os.memfd_create("metrics", os.MFD_CLOEXEC)
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(snapshot, file)
        file.flush()
        try:
            socket.send_fds(channel, [METRICS_WANTED], [descriptor])
        except OSError:
            pass  # it is gone or does not read; the supervisor's concern

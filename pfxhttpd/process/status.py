"""What `status` shows: a snapshot of the scoreboard, as values that JSON can hold."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

from pfxhttpd import __version__
from pfxhttpd.io.cache.documents import ProviderState
from pfxhttpd.io.scoreboard import Scoreboard
from pfxhttpd.process.child import Child
from pfxhttpd.process.generation import Generation
from pfxhttpd.rules.breaker import STATE_NAMES, BreakerState
from pfxhttpd.service.backend import plain_target
from pfxhttpd.service.oidc.provider import breaker_target

ACCEPTING_AGAIN = 2.0
"""Seconds without a failure after which connections count as accepted again."""


def snapshot(
    generation: Generation, board: Scoreboard, children: Iterable[Child], providers: Iterable[ProviderState] = ()
) -> dict[str, Any]:
    """The state of the server, in values that JSON can hold. Durations are seconds. `providers` are the states that the
    cache knows."""
    now = time.monotonic()
    workers, others = [], []
    titles = {pool.index: pool.title for pool in generation.pools.values()}
    for child in children:
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
                "state": view.state if child.state.value == "serving" else child.state.value,
                "requests": view.requests,
                "entry": view.entry if busy else "",
                "seconds": round(now - view.since, 3) if busy else 0,
            }
        )
    pools = [
        {
            "pool": pool.title,
            "workers": pool.pool.max_workers,
            "waiting": board.pool(pool.index).waiting,
            "max_queue": pool.pool.max_queue,
            "listeners": list(pool.listeners),
        }
        for pool in generation.pools.values()
    ]
    names = {breaker_target(uri): uri for uri in generation.providers}
    known = {state.provider: state for state in providers}
    return {
        "version": __version__,
        "pid": os.getpid(),
        "configuration": generation.settings.source,
        "generation": generation.number,
        "connections": board.connections,
        "max_connections": generation.max_connections,
        "accepting": now - board.accept_failed_at > ACCEPTING_AGAIN if board.accept_failed_at else True,
        "pools": pools,
        "cache": {"enabled": generation.settings.server.response_cache.enabled, **board.cache.read()},
        "targets": [
            _target(target, BreakerState(*board.target(row).read()), now)
            for target, row in generation.targets.items()
            if target not in names
        ],
        "providers": [
            _provider(uri, BreakerState(*board.target(generation.targets[name]).read()), known.get(uri), now)
            for name, uri in names.items()
        ],
        "workers": sorted(workers, key=lambda worker: (worker["pool"], worker["process"])),
        "processes": others,
    }


def _target(target: str, breaker: BreakerState, now: float) -> dict[str, Any]:
    state, failures, since, _ = breaker
    known = {"target": plain_target(target), "breaker": STATE_NAMES[state], "failures": failures}
    return known | ({"seconds": round(now - since, 3)} if state else {})


def _provider(uri: str, breaker: BreakerState, state: ProviderState | None, now: float) -> dict[str, Any]:
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

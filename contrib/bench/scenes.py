"""What is measured, scene by scene. In each, the servers take turns, so that a machine that slows down slows all of them.

A scene is a generator of `Sample`s. Processor time is per answer, in microseconds, over all of a server's processes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import servers
from load import measure
from servers import Elsewhere, Pfxhttpd, Server

WORKERS = 4
SLOW, SLOW_WORKERS, SLOW_CLIENTS = 0.020, 32, 200
RELOAD_EVERY = 0.7
QUEUE = 1000
"""max_queue where 200 clients are busy: with its default of ten per worker, those beyond would wait to be accepted."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement: who, what, which repetition, and the figures."""

    server: str
    scene: str
    turn: int
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """How thoroughly to measure, and with what."""

    directory: Path
    generator: list[str]
    repeats: int
    seconds: float

    def take(
        self, server: Server, kind: str, clients: int, silent: int = 0, port: int = 0, **more: Any
    ) -> dict[str, Any]:
        used: dict[str, float] = {}
        with Elsewhere() as elsewhere:
            figures = measure(
                self.generator, kind, port or server.port, clients, silent, seconds=self.seconds,
                during=lambda moment: used.__setitem__(moment, server.processor_time()), **more,
            )  # fmt: skip
        figures["elsewhere"] = elsewhere.share * 100
        figures["processor"] = (used["end"] - used["begin"]) / max(1, figures["answers"]) * 1e6
        return figures


def straightforward(plan: Plan) -> Iterator[Sample]:
    """Maps and policies with 1, 4 and 64 clients, 200 clients, and 200 beside 800 silent ones."""
    with ExitStack() as stack:
        url = f"http://127.0.0.1:{stack.enter_context(servers.backend(plan.directory)).port}/"
        naive = {
            kind: stack.enter_context(servers.naive(plan.directory, kind, WORKERS, url)) for kind in ("map", "policy")
        }
        ours = stack.enter_context(Pfxhttpd(plan.directory, url, WORKERS, queue=QUEUE))
        for turn in range(plan.repeats):
            for kind in ("map", "policy"):
                port = ours.map_port if kind == "map" else ours.policy_port
                for clients in (1, 4, 64):
                    scene = f"{kind}, {clients} client{'s' * (clients > 1)}"
                    yield Sample("naive", scene, turn, plan.take(naive[kind], kind, clients))
                    yield Sample("pfxhttpd", scene, turn, plan.take(ours, kind, clients, port=port))
            for silent in (0, 800):
                scene = f"map, 200 busy + {silent} silent"
                yield Sample("pfxhttpd", scene, turn, plan.take(ours, "map", 200, silent, warm=1.0))


def logging(plan: Plan) -> Iterator[Sample]:
    """What log lines cost: one for each connection (info), or five for each request (debug)."""
    with ExitStack() as stack:
        url = f"http://127.0.0.1:{stack.enter_context(servers.backend(plan.directory)).port}/"
        levels = {
            level: stack.enter_context(Pfxhttpd(plan.directory, url, WORKERS, level)) for level in ("info", "debug")
        }
        for turn in range(plan.repeats):
            for level, server in levels.items():
                yield Sample("pfxhttpd", f"map, 4 clients, logging {level}", turn, plan.take(server, "map", 4))


def tls(plan: Plan) -> Iterator[Sample]:
    """A backend behind TLS."""
    certificate, key = servers.certificate(plan.directory)
    with ExitStack() as stack:
        behind = stack.enter_context(servers.Nginx(plan.directory, certificate, key))
        url = f"https://127.0.0.1:{behind.port}/"
        naive = stack.enter_context(servers.naive(plan.directory, "map", WORKERS, url, certificate))
        ours = stack.enter_context(Pfxhttpd(plan.directory, url, WORKERS, ca=certificate))
        for turn in range(plan.repeats):
            yield Sample("naive", "map, 4 clients, TLS", turn, plan.take(naive, "map", 4))
            yield Sample("pfxhttpd", "map, 4 clients, TLS", turn, plan.take(ours, "map", 4))


def slow_backend(plan: Plan) -> Iterator[Sample]:
    """A backend that takes 20 ms: 200 clients by 32 workers, beside 32 connections straight to it."""
    with ExitStack() as stack:
        behind = stack.enter_context(servers.backend(plan.directory, delay=SLOW))
        ours = stack.enter_context(
            Pfxhttpd(plan.directory, f"http://127.0.0.1:{behind.port}/", SLOW_WORKERS, queue=QUEUE)
        )
        scene = f"20 ms backend, {SLOW_WORKERS} at a time"
        for turn in range(plan.repeats):
            yield Sample("straight", scene, turn, plan.take(behind, "http", SLOW_WORKERS, name="/", warm=1.0))
            yield Sample("pfxhttpd", scene, turn, plan.take(ours, "map", SLOW_CLIENTS, warm=1.0))


def reload(plan: Plan) -> Iterator[Sample]:
    """Reloads one after the other while 4 clients ask; every answer must hold its own key."""
    with ExitStack() as stack:
        behind = stack.enter_context(servers.backend(plan.directory, echo=True))
        ours = stack.enter_context(Pfxhttpd(plan.directory, f"http://127.0.0.1:{behind.port}/", WORKERS))
        for turn in range(plan.repeats):
            yield Sample("pfxhttpd", "map, 4 clients, no reload", turn, plan.take(ours, "map", 4, wanted="="))
            before = ours.reloads()
            with Repeating(ours.reload, RELOAD_EVERY):
                figures = plan.take(ours, "map", 4, wanted="=")
            figures["reloads"] = ours.reloads() - before
            del figures["processor"]
            yield Sample("pfxhttpd", "map, 4 clients, reloads", turn, figures)


def start_and_memory(plan: Plan) -> Iterator[Sample]:
    """From the start of the process to its first answer; and what further workers weigh once all have worked."""
    with ExitStack() as stack:
        url = f"http://127.0.0.1:{stack.enter_context(servers.backend(plan.directory)).port}/"
        few, many = 2, 10
        for turn in range(plan.repeats):
            sizes = {}
            for workers in (few, many):
                with Pfxhttpd(plan.directory, url, workers) as server:
                    first = server.first_answer
                    measure(plan.generator, "map", server.port, 64, seconds=1.0)
                    measure(plan.generator, "policy", server.policy_port, 64, seconds=1.0)
                    sizes[workers] = server.memory()
            figures = {"first_answer": first, "memory": (sizes[many] - sizes[few]) / (many - few)}
            yield Sample("pfxhttpd", "start and memory", turn, figures)


SCENES: dict[str, Callable[[Plan], Iterator[Sample]]] = {
    "plain": straightforward,
    "slow": slow_backend,
    "tls": tls,
    "logging": logging,
    "reload": reload,
    "start": start_and_memory,
}


class Repeating:
    """Calls a function again and again in a thread until the context ends."""

    def __init__(self, call: Callable[[], None], seconds: float) -> None:
        self._call, self._seconds = call, seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._ended.wait(self._seconds):
            self._call()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

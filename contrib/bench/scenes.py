"""What is measured, scene by scene. In each of them the servers take turns, so that a busy machine slows all of them.

A scene is a generator of `Sample`s.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .backends import fixed_backend, script_backend
from .bench import Bench, Contender, Servers
from .certificate import Certificate, create_certificate
from .daemon import Pfxhttpd
from .load import Load
from .nginx import Nginx, find_nginx
from .results import Sample
from .server import ScriptServer
from .tokens import tokens

WORKERS = 4
NAIVE = {"naive": "environment", "naive, no env": "direct"}
"""The two forms of naive.py, by their names in the table, with its argument."""
CLIENTS = (1, 10, 100, 1000, 10000)
NAIVE_CLIENTS = 100
"""naive.py serves 4 clients and lets the others wait; more than its backlog holds would be refused."""
DELAY, DELAY_WORKERS, DELAY_CLIENTS = 0.020, 32, 200
RELOAD_INTERVAL = 0.7
MAX_QUEUE = 20000
"""With the default, ten per worker, the other clients would wait to be accepted."""


def protocols(bench: Bench) -> Iterator[Sample]:
    """Socketmap, policy and SASL requests by 4 clients, beside both forms of the naive server."""
    with Servers() as servers:
        backend = servers.start(fixed_backend(bench.directory))
        daemons = bench.start_builds(servers, backend.url, workers=WORKERS)
        for protocol in ("map", "policy", "sasl"):
            scene = f"{protocol}, 4 clients"
            contenders = naive_contenders(bench, servers, protocol, backend.url, scene)
            contenders += daemon_contenders(daemons, protocol, (scene, "naive"))
            for repetition in range(bench.repetitions):
                yield from bench.compare(servers, scene, Load(protocol), contenders, repetition)


def clients(bench: Bench) -> Iterator[Sample]:
    """From 1 to 10,000 clients, all of which ask all the time."""
    with Servers() as servers:
        backend = servers.start(fixed_backend(bench.directory))
        naive = naive_contenders(bench, servers, "map", backend.url, "")
        daemons = bench.start_builds(servers, backend.url, workers=WORKERS, max_queue=MAX_QUEUE)
        for busy in CLIENTS:
            scene = clients_scene(busy)
            contenders = daemon_contenders(daemons, "map")
            if busy <= NAIVE_CLIENTS:
                contenders = [*naive, *contenders]
            contenders = [
                replace(contender, reference=None if contender.name == "naive" else (scene, "naive"))
                for contender in contenders
            ]
            for repetition in range(bench.repetitions):
                load = Load("map", busy, warm=0.5 + busy / 2000)
                yield from bench.compare(servers, scene, load, contenders, repetition)


def silent(bench: Bench) -> Iterator[Sample]:
    """The same busy clients without and with silent ones beside them."""
    with Servers() as servers:
        backend = servers.start(fixed_backend(bench.directory))
        daemons = bench.start_builds(servers, backend.url, workers=WORKERS, max_queue=MAX_QUEUE)
        for repetition in range(bench.repetitions):
            for busy, beside in ((4, 1000), (200, 800)):
                alone = f"map, {busy} busy"
                yield from bench.compare(
                    servers, alone, Load("map", busy, warm=1.0), daemon_contenders(daemons, "map"), repetition
                )
                for daemon in daemons:
                    contender = Contender(daemon.build.name, daemon, daemon.port, (alone, daemon.build.name))
                    load = Load("map", busy, beside, warm=1.0)
                    scene = f"{alone} + {beside} silent"
                    yield from bench.compare(servers, scene, load, [contender], repetition)


def clients_scene(busy: int) -> str:
    """The name of the scene with this number of clients."""
    return f"map, {busy} client{'s' * (busy > 1)}"


@dataclass(frozen=True, slots=True)
class Option:
    """A setting whose cost is measured. `server` is for the section of that name, `entry` for the map."""

    name: str
    server: dict[str, Any]
    entry: dict[str, Any]
    keys: int = 0
    certificate: Certificate | None = None


def options(bench: Bench) -> Iterator[Sample]:
    """What TLS, compression, the cache and log lines cost, each against a server without any of them."""
    quiet: dict[str, Any] = {"logging": {"level": "error"}}
    cached: dict[str, Any] = {**quiet, "response_cache": {"enabled": True}}
    gzip = {"http_request_compression": True, "http_response_compression": True}
    choices = [
        Option("no option", quiet, {}),
        Option("logging info", {"logging": {"level": "info"}}, {}),
        Option("logging debug", {"logging": {"level": "debug"}}, {}),
        Option("cache, new keys", cached, {}),
        Option("cache, 100 keys", cached, {}, keys=25),
    ]
    if find_nginx():
        certificate = create_certificate(bench.directory)
        tls = {"tls": {"enabled": True, "root_ca": str(certificate.path)}}
        choices += [
            Option("gzip both ways", quiet, gzip),
            Option("TLS", {**quiet, **tls}, {}, certificate=certificate),
        ]
    first = f"map, 4 clients, {choices[0].name}"
    with Servers() as servers:
        plain = servers.start(fixed_backend(bench.directory))
        contenders: dict[str, tuple[Load, list[Contender]]] = {}
        for option in choices:
            backend = servers.start(Nginx(bench.directory, option.certificate)) if option.certificate else plain
            daemons = bench.start_builds(
                servers, backend.url, workers=WORKERS, options=option.server, entry=option.entry
            )
            scene = f"map, 4 clients, {option.name}"
            contenders[scene] = (
                Load("map", keys=option.keys),
                [
                    Contender(
                        daemon.build.name, daemon, daemon.port, (first, daemon.build.name) if scene != first else None
                    )
                    for daemon in daemons
                ],
            )
        for repetition in range(bench.repetitions):
            for scene, (load, daemons_with_option) in contenders.items():
                yield from bench.compare(servers, scene, load, daemons_with_option, repetition)


def slow(bench: Bench) -> Iterator[Sample]:
    """A backend that takes 20 ms: 200 clients and 32 workers, beside 32 connections directly to the backend."""
    with Servers() as servers:
        backend = servers.start(script_backend(bench.directory, delay=DELAY))
        daemons = bench.start_builds(servers, backend.url, workers=DELAY_WORKERS, max_queue=MAX_QUEUE)
        scene = f"20 ms backend, {DELAY_WORKERS} workers"
        direct = [Contender("direct", backend, backend.port)]
        for repetition in range(bench.repetitions):
            yield from bench.compare(servers, scene, Load("http", DELAY_WORKERS, warm=1.0), direct, repetition)
            contenders = daemon_contenders(daemons, "map", (scene, "direct"))
            yield from bench.compare(servers, scene, Load("map", DELAY_CLIENTS, warm=1.0), contenders, repetition)


def reload(bench: Bench) -> Iterator[Sample]:
    """Repeated reloads while 4 clients ask; every reply must contain its own key."""
    with Servers() as servers:
        backend = servers.start(script_backend(bench.directory, echo=True))
        daemons = bench.start_builds(servers, backend.url, workers=WORKERS)
        load = Load("map", expected="=")
        for repetition in range(bench.repetitions):
            yield from bench.compare(
                servers, "map, 4 clients, no reload", load, daemon_contenders(daemons, "map"), repetition
            )
            for daemon in daemons:
                name = daemon.build.name
                before = daemon.generation()
                with Repeating(daemon.reload, RELOAD_INTERVAL):
                    figures = bench.measure(servers, daemon, daemon.port, load)
                figures["reloads"] = daemon.generation() - before
                del figures["cost"]  # The processor time of the workers that have left is not known.
                reference = ("map, 4 clients, no reload", name)
                yield Sample("map, 4 clients, reloads", name, repetition, figures, reference)


def start(bench: Bench) -> Iterator[Sample]:
    """The time to the first reply, the memory of a further worker once all have worked, and the commands' cost."""
    few, many = 2, 10
    for repetition in range(bench.repetitions):
        for build in bench.builds:
            figures: dict[str, float] = {}
            sizes: dict[int, int] = {}
            for workers in (few, many):
                with Servers() as servers:
                    backend = servers.start(fixed_backend(bench.directory))
                    daemon = servers.start(Pfxhttpd(build, bench.directory, backend.url, workers=workers))
                    for protocol, port in daemon.ports.items():
                        bench.generator.measure(Load(protocol, 64), port, 0.7)
                    sizes[workers] = daemon.memory()
                    figures["first reply, s"] = daemon.first_reply
                    for command in (("status",), ("query", "bench", "key"), ("check",)):
                        figures[f"{command[0]}, s of processor"] = daemon.command_time(*command)
            figures["memory per worker, MB"] = (sizes[many] - sizes[few]) / (many - few) / 1e6
            yield Sample("start", build.name, repetition, figures)


SCENES: dict[str, Callable[[Bench], Iterator[Sample]]] = {
    "protocols": protocols,
    "clients": clients,
    "silent": silent,
    "options": options,
    "slow": slow,
    "reload": reload,
    "tokens": tokens,
    "start": start,
}


def daemon_contenders(
    daemons: Sequence[Pfxhttpd], protocol: str, reference: tuple[str, str] | None = None
) -> list[Contender]:
    """The builds of pfxhttpd, as contenders at the listener of one protocol."""
    return [Contender(daemon.build.name, daemon, daemon.ports[protocol], reference) for daemon in daemons]


def naive_contenders(bench: Bench, servers: Servers, protocol: str, url: str, scene: str) -> list[Contender]:
    """Starts both forms of the naive server."""
    contenders = []
    for name, environment in NAIVE.items():
        server = servers.start(ScriptServer(bench.directory, "naive.py", protocol, WORKERS, url, environment))
        contenders.append(Contender(name, server, server.port, (scene, "naive") if name != "naive" else None))
    return contenders


class Repeating:
    """A context manager that calls a function every `interval` seconds in a thread."""

    def __init__(self, function: Callable[[], None], interval: float) -> None:
        self._function, self._interval = function, interval
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            self._function()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

"""How thoroughly to measure, and how one measurement is taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from .build import Build
from .daemon import Pfxhttpd
from .load import Generator, Load
from .machine import OtherLoad
from .results import Row, Sample
from .server import Server

AnyServer = TypeVar("AnyServer", bound=Server)


class Servers(ExitStack):
    """The servers of one scene; leaving this context stops them."""

    def __init__(self) -> None:
        super().__init__()
        self.running: list[Server] = []

    def start(self, server: AnyServer) -> AnyServer:
        """Takes charge of a server that has just been started, and returns it."""
        self.running.append(self.enter_context(server))
        return server


@dataclass(frozen=True, slots=True)
class Contender:
    """One of the servers that take turns in a scene. `port` is where it gets its requests."""

    name: str
    server: Server
    port: int
    reference: Row | None = None


@dataclass(frozen=True, slots=True)
class Bench:
    """`seconds` is the length of each measurement. `builds` are the versions of pfxhttpd that are measured."""

    directory: Path
    generator: Generator
    builds: Sequence[Build]
    repetitions: int
    seconds: float

    def start_builds(self, servers: Servers, url: str, **options: Any) -> list[Pfxhttpd]:
        """Starts pfxhttpd in each version; `options` are those of `Pfxhttpd`."""
        return [servers.start(Pfxhttpd(build, self.directory, url, **options)) for build in self.builds]

    def measure(self, servers: Servers, server: Server, port: int, load: Load) -> dict[str, float]:
        """The load generator's figures, and the processor time of the server in microseconds per reply (`cost`).

        `others` is how much of the machine was used by others, in percent.
        """
        used: dict[str, float] = {}

        def read_clock(moment: str) -> None:
            used[moment] = server.processor_time()

        with OtherLoad(servers.running) as others:
            short = replace(load, warm=min(load.warm, self.seconds))
            figures = self.generator.measure(short, port, self.seconds, read_clock)
        figures["others"] = others.share * 100
        figures["cost"] = (used["end"] - used["begin"]) / max(1.0, figures["replies"]) * 1e6
        return figures

    def compare(
        self, servers: Servers, scene: str, load: Load, contenders: Sequence[Contender], repetition: int
    ) -> Iterator[Sample]:
        """Measures one after the other; in every second repetition in reverse order, since a machine may get slower."""
        for contender in contenders if repetition % 2 == 0 else reversed(contenders):
            figures = self.measure(servers, contender.server, contender.port, load)
            yield Sample(scene, contender.name, repetition, figures, contender.reference)

"""The faults. Each is made, lasts, and is taken back; the server then has to recover by itself.

A process that was stopped is the exception: it is left stopped, because the server has to notice that. Only the drill's
wait for recovery ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import signal
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from drill.clients import Population
from drill.schedule import Planned
from drill.server import VARIANTS, Server


class BackendProcess:
    """The process of `backend`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, command: list[str]) -> BackendProcess:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[1],
        )
        backend = cls(process)
        await backend._confirmed()
        return backend

    async def set_mode(self, mode: str, seed: str = "0") -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{mode} {seed.replace(' ', '-')}\n".encode())
        await self._confirmed()

    async def _confirmed(self) -> None:
        assert self._process.stdout
        if await self._process.stdout.readline() != b"ok\n":
            raise RuntimeError("the drill's backend has failed")

    async def stop(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        await self._process.wait()


@dataclass(slots=True)
class Scene:
    """What faults act on. `clock_file` holds the offset of the server's clock."""

    server: Server
    backend: BackendProcess
    population: Population
    clock_file: Path
    variant: int = 0
    """The variant of the configuration that the server has, or is to have as soon as a reload is possible."""
    reload_due: bool = False
    """Whether a good reload failed while something was broken, and has to succeed later."""
    failures: list[str] = field(default_factory=list)
    """What must never happen and did, a line each."""


Action = Callable[[Scene, Planned, random.Random], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """`family`: two faults of one family are never made at once. `needs` names what has to be there, "" for nothing."""

    family: str
    make: Action
    needs: str = ""


def signalled(role: str, number: signal.Signals) -> Action:
    """A signal to one process, or for workers to as many as half of them."""

    async def make(scene: Scene, planned: Planned, chance: random.Random) -> None:
        processes = scene.server.of_role(role)
        victims = chance.sample(processes, min(len(processes), chance.randint(1, max(1, len(processes) // 2))))
        for victim in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim.pid, number)
        await asyncio.sleep(planned.seconds)

    return make


def backend_mode(mode: str) -> Action:
    async def make(scene: Scene, planned: Planned, chance: random.Random) -> None:
        await scene.backend.set_mode(mode, planned.seed)
        await asyncio.sleep(planned.seconds)
        await scene.backend.set_mode("normal")

    return make


async def poisoned_key(scene: Scene, planned: Planned, chance: random.Random) -> None:
    await scene.backend.set_mode("poisoned")
    await scene.population.hammer(planned.seconds)
    await scene.backend.set_mode("normal")


async def good_reload(scene: Scene, planned: Planned, chance: random.Random) -> None:
    scene.variant = chance.randrange(VARIANTS)
    scene.server.configure(scene.variant)
    code, _ = await scene.server.command("reload")
    scene.reload_due = code != os.EX_OK
    await asyncio.sleep(planned.seconds / 2)


async def bad_reload(scene: Scene, planned: Planned, chance: random.Random) -> None:
    scene.server.break_configuration(chance.randrange(5))
    code, _ = await scene.server.command("reload")
    scene.server.configure(scene.variant)
    if code == os.EX_OK:
        scene.failures.append("a broken configuration was taken")
    await asyncio.sleep(planned.seconds / 2)


def set_clock(file: Path, offset: int) -> None:
    """Let the server's time of day differ from the machine's by so many seconds; see clock.c."""
    with file.open("r+b" if file.exists() else "wb") as clock:
        clock.write(struct.pack("@q", offset))


async def clock(scene: Scene, planned: Planned, chance: random.Random) -> None:
    hour, day = 3600, 86400
    for offset in (chance.choice([hour, -hour, 30 * day, -30 * day, 400 * day]), 0):
        set_clock(scene.clock_file, offset)
        await asyncio.sleep(planned.seconds)


def disk_full(which: str) -> Action:
    async def make(scene: Scene, planned: Planned, chance: random.Random) -> None:
        filler = scene.server.directories[which] / "filler"
        try:
            with filler.open("wb", buffering=0) as file:
                for size in (1 << 20, 1 << 12, 1):
                    fill(file, size)
            await asyncio.sleep(planned.seconds)
        finally:
            filler.unlink(missing_ok=True)

    return make


def fill(file: BinaryIO, size: int) -> None:
    """Write blocks of that size until there is no space for another one."""
    try:
        while file.write(bytes(size)) == size:
            pass
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


def few_descriptors(role: str) -> Action:
    """Limits the processes of a role to the descriptors that they have, and a few more."""

    async def make(scene: Scene, planned: Planned, chance: random.Random) -> None:
        normal = scene.server.descriptor_limit()
        for process in scene.server.of_role(role):
            with contextlib.suppress(OSError):  # it has ended
                process.limit_descriptors(process.descriptors() + chance.randint(0, 3))
        await asyncio.sleep(planned.seconds)
        for process in scene.server.processes():  # those that were started meanwhile have the limit, too
            process.limit_descriptors(normal)

    return make


FAULTS = {
    "kill worker": Fault("process", signalled("worker", signal.SIGKILL)),
    "kill parking": Fault("process", signalled("parking", signal.SIGKILL)),
    "kill cache": Fault("process", signalled("cache", signal.SIGKILL)),
    "stop worker": Fault("process", signalled("worker", signal.SIGSTOP)),
    "stop parking": Fault("process", signalled("parking", signal.SIGSTOP)),
    "stop cache": Fault("process", signalled("cache", signal.SIGSTOP)),
    "good reload": Fault("reload", good_reload),
    "bad reload": Fault("reload", bad_reload),
    "backend down": Fault("backend", backend_mode("down")),
    "backend slow": Fault("backend", backend_mode("slow")),
    "backend hangs": Fault("backend", backend_mode("hanging")),
    "backend trickles": Fault("backend", backend_mode("trickling")),
    "backend lies": Fault("backend", backend_mode("lying")),
    "backend resets": Fault("backend", backend_mode("resetting")),
    "poisoned key": Fault("backend", poisoned_key),
    "clock": Fault("clock", clock, "a C compiler"),
    "log disk full": Fault("disk", disk_full("log"), "root and mount namespaces"),
    "runtime disk full": Fault("disk", disk_full("run"), "root and mount namespaces"),
    "worker descriptors": Fault("descriptors", few_descriptors("worker"), "prlimit"),
    "parking descriptors": Fault("descriptors", few_descriptors("parking"), "prlimit"),
    "master descriptors": Fault("descriptors", few_descriptors("master"), "prlimit"),
}

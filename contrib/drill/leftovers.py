"""Whether the server's memory, descriptors and processes come back to what they were, and what its log has to say."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass

from drill.server import Server

SETTLE = 20.0
"""Seconds in which descriptors and memory may still be given back once all clients are gone."""

MEMORY_FACTOR, MEMORY_SPARE = 1.25, 8 << 20
DESCRIPTORS_SPARE = 10  # a worker connects to the cache when it first stores something

_VALUE = r'(?:"(?:\\.|[^"\\])*"|[^\s"]*)'
_LINE = re.compile(rf"(time=\S+ )?level=[A-Z]+ msg={_VALUE}( [A-Za-z_]+={_VALUE})*")


@dataclass(frozen=True, slots=True)
class Usage:
    """What the server holds while no client is connected: memory in bytes, descriptors by role (of the process with most)."""

    memory: int
    descriptors: dict[str, int]

    @classmethod
    def of(cls, server: Server) -> Usage:
        descriptors: dict[str, int] = {}
        memory = 0
        for process in server.processes():
            descriptors[process.role] = max(descriptors.get(process.role, 0), process.descriptors())
            memory += process.memory()
        return cls(memory, descriptors)

    def excess(self, before: Usage) -> list[str]:
        """What there is more of than before, a line each."""
        found = []
        if self.memory > before.memory * MEMORY_FACTOR + MEMORY_SPARE:
            found.append(f"memory: {self.memory >> 20} MiB, before {before.memory >> 20} MiB")
        for role, number in self.descriptors.items():
            if number > before.descriptors.get(role, 0) + DESCRIPTORS_SPARE:
                found.append(f"descriptors of {role}: {number}, before {before.descriptors.get(role, 0)}")
        return found


async def settled(server: Server, variant: int, before: Usage) -> list[str]:
    """What is left over of the clients, who are gone, once the server had time to give it back; a line each."""
    give_up = time.monotonic() + SETTLE
    while True:
        try:
            found = Usage.of(server).excess(before)
        except OSError as error:  # a process ended while it was looked at
            found = [f"processes still end: {error}"]
        incomplete = server.incomplete(variant)
        if incomplete:
            found.append(incomplete)
        if not found or time.monotonic() > give_up:
            return found
        await asyncio.sleep(0.5)


def complaints(log: str, torn: bool) -> list[str]:
    """What in the server's log should not be there: tracebacks, and lines that are not whole. A line each, 20 at most.

    `torn`: the log's disk was full at times, so a line may lack its end. The next one still has to begin on its own.
    """
    found = []
    for line in log.splitlines():
        if "Traceback" in line or "Internal error" in line:
            found.append(f"in the log: {line[:300]}")
        elif not _LINE.fullmatch(line) and not (torn and is_beginning(line)):
            found.append(f"not a line of the log: {line[:300]}")
    return found[:20]


def is_beginning(line: str) -> bool:
    """Whether the text is the beginning of one line of the log, and of one only."""
    return (line.startswith("time=") or "time=".startswith(line)) and line.count("level=") < 2

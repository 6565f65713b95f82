"""Many busy socket-map clients in one process of their own, each of whose replies is checked.

    with Load(address, clients=200, tokens=("old", "new")) as load:
        load.wait_answers(1000)
        load.allow(1)                   # from now on the second configuration may answer as well
        reload()
        load.demand(1)                  # what is sent from now on, none but the second may answer
        tally = load.finish()           # every request that was sent has its answer, or has lost its connection

A client sends its next request when it has the reply to the last one. The value awaited is `<token> <key>`, each key
being asked once, so that no reply can be taken for another's; without tokens it is `fixed`. Configuration number n
answers with the token n modulo their number. A client whose connection breaks comes again.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from kit import proc
from kit.clients import Address

HERE = Path(__file__).resolve().parent


@dataclass(slots=True)
class Tally:
    """What became of the requests. `answers` counts the right ones per client.

    `stale`: answered by a configuration that was not to answer any more, or not yet. `wrong`: not an answer to the
    request at all. `failed`: `TEMP` and the like. `broken`: the connection ended where a reply was due. `refused`:
    attempts to connect. `slowest` is the longest time to an answer, in seconds.
    """

    answers: list[int]
    stale: int = 0
    wrong: int = 0
    failed: int = 0
    broken: int = 0
    refused: int = 0
    slowest: float = 0.0
    seconds: float = 0.0
    examples: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return sum(self.answers)

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.total / self.seconds

    def flawless(self) -> bool:
        return not (self.stale or self.wrong or self.failed or self.broken or self.refused)


@dataclass(frozen=True, slots=True)
class Plan:
    address: Address
    clients: int
    map_name: str
    tokens: Sequence[str]


class Load:
    """The clients; they are busy from construction on."""

    def __init__(self, address: Address, clients: int, map_name: str = "map", tokens: Sequence[str] = ()) -> None:
        self._talk, theirs = Pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kit.crowd", str(theirs.fileno())],
            cwd=HERE.parent,
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            preexec_fn=proc.die_with_parent,
        )
        theirs.close()
        self._talk.send(Plan(address, clients, map_name, tuple(tokens)))

    def allow(self, number: int) -> None:
        """Configurations up to this number may answer."""
        self._ask("allow", number)

    def demand(self, number: int) -> None:
        """Requests sent from now on must be answered by this configuration or a later one."""
        self._ask("demand", number)

    def tally(self) -> Tally:
        return self._ask("tally")

    def wait_answers(self, number: int, timeout: float = 60.0) -> Tally:
        """The tally as soon as there are so many more answers. Raises TimeoutError."""
        return self._ask("more", number, timeout=timeout)

    def wait_each(self, number: int, timeout: float = 60.0) -> Tally:
        """The tally as soon as every client has so many answers more. Raises TimeoutError."""
        return self._ask("each", number, timeout=timeout)

    def finish(self, timeout: float = 60.0) -> Tally:
        """Sends nothing more; the tally when nothing is owed any more. Raises TimeoutError."""
        return self._ask("finish", timeout=timeout)

    def _ask(self, verb: str, number: int = 0, timeout: float = 10.0) -> Any:
        self._talk.send((verb, number))
        if not self._talk.poll(timeout):
            raise TimeoutError(f"{verb} {number}: not within {timeout} s")
        return self._talk.recv()

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._talk.close()

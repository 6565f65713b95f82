"""Many busy socket-map clients in one process of their own, each of whose replies is checked.

    with Load(address, clients=200, tokens=("old", "new")) as load:
        load.wait_answers(1000)
        load.allow(1)                   # from now on the second configuration may answer as well
        reload()
        load.demand(1)                  # what is sent from now on, none but the second may answer
        result = load.finish()           # every request that was sent has its answer, or has lost its connection

A client sends its next request when it has the reply to the last one. The expected value is `<token> <key>`, where
each key is used once, so that no reply can be taken for another's; without tokens it is `fixed`. Configuration number n
answers with token n modulo the number of tokens. A client whose connection breaks connects again.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import Pipe
from pathlib import Path

from kit import proc
from kit.clients import Address

HERE = Path(__file__).resolve().parent


@dataclass(slots=True)
class LoadResult:
    """What became of the requests. `answers` counts the right ones per client.

    `stale`: answered by a configuration that was not to answer any more, or not yet. `wrong`: no answer to the
    request. `failed`: `TEMP` and the like. `broken`: the connection ended where a reply was due. `refused`:
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
class LoadPlan:
    address: Address
    clients: int
    map_name: str
    tokens: Sequence[str]


class Load:
    """The clients; they are busy from construction on."""

    def __init__(self, address: Address, clients: int, map_name: str = "map", tokens: Sequence[str] = ()) -> None:
        self._pipe, theirs = Pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kit.load_process", str(theirs.fileno())],
            cwd=HERE.parent,
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            preexec_fn=proc.die_with_parent,
        )
        theirs.close()
        self._pipe.send(LoadPlan(address, clients, map_name, tuple(tokens)))

    def allow(self, number: int) -> None:
        """Configurations up to this number may answer."""
        self._command("allow", number)

    def demand(self, number: int) -> None:
        """Requests sent from now on must be answered by this configuration or a later one."""
        self._command("demand", number)

    def result(self) -> LoadResult:
        return self._command("result")

    def wait_answers(self, number: int, timeout: float = 60.0) -> LoadResult:
        """The result as soon as there are so many more answers. Raises TimeoutError."""
        return self._command("more", number, timeout=timeout)

    def wait_each(self, number: int, timeout: float = 60.0) -> LoadResult:
        """The result as soon as every client has so many answers more. Raises TimeoutError."""
        return self._command("each", number, timeout=timeout)

    def finish(self, timeout: float = 60.0) -> LoadResult:
        """Sends nothing more; the result when every request has its reply. Raises TimeoutError."""
        return self._command("finish", timeout=timeout)

    def _command(self, command: str, number: int = 0, timeout: float = 10.0) -> LoadResult:
        self._pipe.send((command, number))
        if not self._pipe.poll(timeout):
            raise TimeoutError(f"{command} {number}: not within {timeout} s")
        result: LoadResult = self._pipe.recv()
        return result

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._pipe.close()

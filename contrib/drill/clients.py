"""Clients of the three protocols: some ask all the time and check each answer, a crowd comes, half-speaks and goes.

They share no code with the package, so a mistake in its encoders cannot hide.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import random
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from drill import expected
from drill.invariants import Ledger, Outcome, judge_login, judge_lookup, judge_policy

GIVE_UP = 30.0
"""Seconds after which a client no longer waits for an answer."""

MAPS = ("users", "domains")
RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the server listens: ports on 127.0.0.1, and the path of a Unix socket."""

    map_port: int
    map_socket: str
    policy_port: int
    sasl_port: int


class Connection:
    """A client's connection. Each read and the connecting itself raise TimeoutError after GIVE_UP."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, address: int | str) -> Connection:
        """Connect to a port on loopback, or to a Unix socket. Raises OSError."""
        async with asyncio.timeout(GIVE_UP):
            if isinstance(address, str):
                return cls(*await asyncio.open_unix_connection(address))
            return cls(*await asyncio.open_connection("127.0.0.1", address))

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        async with asyncio.timeout(GIVE_UP):
            await self._writer.drain()

    async def line(self, end: bytes = b"\n") -> str:
        """What comes before the next `end`. Raises IncompleteReadError."""
        async with asyncio.timeout(GIVE_UP):
            data = await self._reader.readuntil(end)
        return data[: -len(end)].decode()

    async def exactly(self, number: int) -> bytes:
        async with asyncio.timeout(GIVE_UP):
            return await self._reader.readexactly(number)

    def close(self, by_reset: bool = False) -> None:
        if by_reset:
            with suppress(OSError):
                connection = self._writer.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self._writer.transport.abort()
        else:
            self._writer.close()


class Client:
    """A connection of one protocol, and how a question is asked on it. `opening` is read after connecting."""

    def __init__(self, connection: Connection, chance: random.Random) -> None:
        self.connection, self.chance = connection, chance

    async def greet(self) -> None:
        """What comes before the first question."""

    def question(self) -> bytes:
        """The bytes of a new question, which `outcome` then reads the answer to."""
        raise NotImplementedError

    async def outcome(self) -> tuple[Outcome, str]:
        """The outcome of the question asked last, and a text with question and answer."""
        raise NotImplementedError


def mail_address(chance: random.Random) -> str:
    return f"user.{chance.randrange(expected.KEYS)}@drill.example"


class MapClient(Client):
    """The client of socketmap_table(5)."""

    def question(self) -> bytes:
        self._map, self._key = self.chance.choice(MAPS), mail_address(self.chance)
        return self.encoded()

    def poisoned(self) -> bytes:
        self._map, self._key = MAPS[0], expected.POISONED_KEY
        return self.encoded()

    def encoded(self) -> bytes:
        request = f"{self._map} {self._key}".encode()
        return b"%d:%b," % (len(request), request)

    async def outcome(self) -> tuple[Outcome, str]:
        length = await self.connection.line(b":")
        reply = (await self.connection.exactly(int(length) + 1)).decode()
        reply, comma = reply[:-1], reply[-1:]
        what = f"{self._map} {self._key}: {reply}"
        return (judge_lookup(self._map, self._key, reply) if comma == "," else Outcome.WRONG), what


class PolicyClient(Client):
    """The client of Postfix's policy delegation protocol."""

    def question(self) -> bytes:
        self._sender, self._recipient = mail_address(self.chance), mail_address(self.chance)
        attributes = {
            "request": "smtpd_access_policy",
            "sender": self._sender,
            "recipient": self._recipient,
            "instance": f"{self.chance.randrange(1 << 30):x}",
        }
        return "".join([f"{name}={value}\n" for name, value in attributes.items()]).encode() + b"\n"

    async def outcome(self) -> tuple[Outcome, str]:
        action = (await self.connection.line(b"\n\n")).removeprefix("action=")
        return judge_policy(self._sender, self._recipient, action), f"{self._sender} {self._recipient}: {action}"


class SaslClient(Client):
    """The client of Dovecot's auth protocol. Every third password is wrong."""

    def __init__(self, connection: Connection, chance: random.Random) -> None:
        super().__init__(connection, chance)
        self._ids = itertools.count(chance.randrange(1, 1000))

    async def greet(self) -> None:
        await self.connection.send(b"VERSION\t1\t2\nCPID\t%d\n" % os.getpid())
        while await self.connection.line() != "DONE":
            pass

    def question(self) -> bytes:
        user = self.chance.choice([mail_address(self.chance)] * 9 + [expected.THROTTLED_USER])
        password = self.chance.choice([expected.password_of(user)] * 2 + [f"wrong {user}"])
        return self.attempt(user, password)

    def attempt(self, user: str, password: str) -> bytes:
        self._user, self._password, self._id = user, password, next(self._ids)
        self._parts = [user, password]
        start = f"AUTH\t{self._id}\t"
        if self.chance.random() < 0.5:
            return f"{start}LOGIN\tservice=smtp\n".encode()
        self._parts.clear()
        return (
            f"{start}PLAIN\tservice=smtp\tresp=".encode() + base64.b64encode(f"\0{user}\0{password}".encode()) + b"\n"
        )

    async def outcome(self) -> tuple[Outcome, str]:
        for part in self._parts:  # what LOGIN asks for, one after the other
            line = await self.connection.line()
            if not line.startswith(f"CONT\t{self._id}\t"):
                break
            encoded = base64.b64encode(part.encode()).decode()
            await self.connection.send(f"CONT\t{self._id}\t{encoded}\n".encode())
        else:
            line = await self.connection.line()
        is_right = "right" if self._password == expected.password_of(self._user) else "wrong"
        return judge_login(self._user, self._password, self._id, line), f"{self._user}, {is_right} password: {line!r}"


KINDS: tuple[type[Client], ...] = (MapClient, PolicyClient, SaslClient)


class Population:
    """All clients. `steady` of them ask all the time; the others are the crowd."""

    def __init__(self, endpoints: Endpoints, ledger: Ledger, seed: int) -> None:
        self._endpoints, self._ledger, self._seed = endpoints, ledger, seed
        self._tasks: set[asyncio.Task[None]] = set()
        self._number = itertools.count()

    def start(self, steady: int, crowd: int) -> None:
        for number in range(steady):
            self._spawn(self._steady, KINDS[number % len(KINDS)])
        for _ in range(crowd):
            self._spawn(self._visitor, None)

    async def stop(self) -> None:
        """All clients go away at once."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def ask_once(self, kind: type[Client]) -> bool:
        """Whether a new client gets the right answer; what happens is not counted."""
        try:
            async with self._client(kind, random.Random()) as client:
                if isinstance(client, SaslClient):
                    user = mail_address(client.chance)
                    await client.connection.send(client.attempt(user, expected.password_of(user)))
                else:
                    await client.connection.send(client.question())
                return (await client.outcome())[0] is Outcome.RIGHT
        except (OSError, EOFError, ValueError):
            return False

    async def hammer(self, seconds: float) -> None:
        """One client asks for the poisoned key without a pause. Its answers are not counted."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with suppress(OSError, EOFError, ValueError):
                async with self._client(MapClient, random.Random()) as client:
                    assert isinstance(client, MapClient)
                    while time.monotonic() < end:
                        await client.connection.send(client.poisoned())
                        await client.outcome()
            await asyncio.sleep(0.05)

    def _spawn(
        self, live: Callable[[random.Random, type[Client] | None], Awaitable[None]], kind: type[Client] | None
    ) -> None:
        chance = random.Random(f"{self._seed} {next(self._number)}")

        async def task() -> None:
            await asyncio.sleep(chance.random())
            while True:
                await live(chance, kind)
                await asyncio.sleep(chance.uniform(0.05, 0.5))

        self._tasks.add(asyncio.create_task(task()))

    def _address(self, kind: type[Client], chance: random.Random) -> int | str:
        if kind is MapClient:
            return self._endpoints.map_port if chance.random() < 0.5 else self._endpoints.map_socket
        return self._endpoints.policy_port if kind is PolicyClient else self._endpoints.sasl_port

    @asynccontextmanager
    async def _client(self, kind: type[Client], chance: random.Random) -> AsyncIterator[Client]:
        connection = await Connection.open(self._address(kind, chance))
        try:
            client = kind(connection, chance)
            await client.greet()
            yield client
        finally:
            connection.close(by_reset=chance.random() < 0.2)

    async def _steady(self, chance: random.Random, kind: type[Client] | None) -> None:
        """One connection that asks again and again, until it is closed or has asked enough."""
        assert kind
        began = time.monotonic()
        outcome = Outcome.NO_CONNECTION
        try:
            async with self._client(kind, chance) as client:
                outcome = Outcome.CLOSED
                for _ in range(chance.choice([1, 20, 1000])):
                    began = time.monotonic()
                    await client.connection.send(client.question())
                    self._ledger.note(*self._waited(await client.outcome(), began))
                    await asyncio.sleep(chance.uniform(0.02, 0.1))
        except TimeoutError:
            self._ledger.note(Outcome.UNANSWERED, time.monotonic() - began, kind.__name__)
        except (OSError, EOFError) as error:
            self._ledger.note(outcome, time.monotonic() - began, str(error))
        except ValueError as error:
            self._ledger.note(Outcome.WRONG, time.monotonic() - began, f"{kind.__name__}: {error}")

    @staticmethod
    def _waited(found: tuple[Outcome, str], began: float) -> tuple[Outcome, float, str]:
        return found[0], time.monotonic() - began, found[1]

    async def _visitor(self, chance: random.Random, kind: type[Client] | None) -> None:
        """Somebody of the crowd: connects, says nothing, half of a question, all of it or nonsense, and goes."""
        kind = chance.choice(KINDS)
        began = time.monotonic()
        try:
            async with self._client(kind, chance) as client:
                await asyncio.sleep(chance.expovariate(1 / 5))
                behaviour = chance.choice(["silent", "half", "half, then all", "nonsense", "no answer awaited"])
                if behaviour == "silent":
                    return
                if behaviour == "nonsense":
                    await client.connection.send(chance.randbytes(chance.randrange(1, 300)))
                    await asyncio.sleep(chance.expovariate(1))
                    return
                question = client.question()
                half = chance.randrange(1, len(question))
                await client.connection.send(question[:half] if behaviour.startswith("half") else question)
                await asyncio.sleep(chance.expovariate(1 / 5))
                if behaviour == "half, then all":
                    began = time.monotonic()
                    await client.connection.send(question[half:])
                    self._ledger.note(*self._waited(await client.outcome(), began))
        except TimeoutError:
            self._ledger.note(Outcome.UNANSWERED, time.monotonic() - began, kind.__name__)
        except (OSError, EOFError):
            pass  # the steady clients count what is closed
        except ValueError as error:
            self._ledger.note(Outcome.WRONG, time.monotonic() - began, f"{kind.__name__}: {error}")

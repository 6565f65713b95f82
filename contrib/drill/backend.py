"""The HTTP API behind the server, with faults: a process of its own that is told what to do on its standard input.

    python3 -m drill.backend PORT

A line `MODE SEED` sets the mode and is answered with `ok`; the modes are those of `MODES`. It ends with its input.
The clients' questions are answered as in `expected`; no mode ever sends a valid answer that is wrong.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from drill import expected

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends a reset, socket(7)."""

TIMEOUT = 2.0
"""Seconds: the `timeout` of the server's entries."""


class Abort(Exception):
    """The connection is to be closed now, by a reset."""


def response(status: int, document: object, headers: Mapping[str, str] | None = None) -> bytes:
    return raw_response(status, json.dumps(document).encode(), headers)


def raw_response(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} Status", f"Content-Length: {len(body)}", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def right_answer(path: str, question: Mapping[str, str]) -> bytes:
    """The API's own answer, as an API without faults gives it."""
    if path == "/lookup":
        return response(200, {"data": {"result": expected.value_of(question["map"], question["key"])}})
    if path == "/policy":
        return response(200, {"policy": {"result": expected.action_of(question["sender"], question["recipient"])}})
    user = question["username"]
    if question["password"] == expected.password_of(user):
        return response(200, {}, {"Auth-User": user})
    return response(403, {}, {"Auth-Status": "wrong password"})


Send = Callable[[bytes], Awaitable[None]]


async def slow(answer: bytes, path: str, send: Send, chance: random.Random) -> None:
    """Answers late, and one time in four later than the server waits."""
    await asyncio.sleep(chance.choice([0.1, 0.3, 0.8, TIMEOUT + 1]))
    await send(answer)


async def hanging(answer: bytes, path: str, send: Send, chance: random.Random) -> None:
    """Accepts every request and answers none."""
    await asyncio.sleep(3600)


async def trickling(answer: bytes, path: str, send: Send, chance: random.Random) -> None:
    """Sends byte by byte; a third of the answers is not complete within the server's timeout."""
    pause = chance.choice([0.001, 0.005, 0.1])
    for position in range(len(answer)):
        await send(answer[position : position + 1])
        await asyncio.sleep(pause)


async def lying(answer: bytes, path: str, send: Send, chance: random.Random) -> None:
    """Sends what is no answer. A login never gets the status 200 here: that alone would let it in."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lies = [
        answer[: chance.randrange(1, len(answer))],
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        response(503, {"data": {"result": "value of another"}}),
        response(502, {}),
        response(429, {}),
        b"HTTP/1.1 500 Status\r\nContent-Length: 99999999999\r\n\r\n{}",
        b"HTTP/1.1 500 Status\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        answer + response(200, {"data": {"result": "not asked for"}, "policy": {"result": "REJECT not asked for"}}),
    ]
    if path != "/login":
        lies += [
            raw_response(200, b"<html>It works</html>"),
            raw_response(200, b"}{"),
            raw_response(200, b""),
            head + b"\r\n\r\n" + body[: len(body) // 2],
        ]
    lie = chance.choice(lies)
    await send(lie)
    if not lie.startswith(answer):
        raise Abort  # otherwise the server would wait for the rest


async def resetting(answer: bytes, path: str, send: Send, chance: random.Random) -> None:
    """Resets half of the connections, before or in the middle of the answer."""
    if chance.random() < 0.5:
        if chance.random() < 0.5:
            await send(answer[: len(answer) // 2])
        raise Abort
    await send(answer)


async def normal(answer: bytes, path: str, send: Send, chance: random.Random) -> None:
    await send(answer)


MODES = {
    "normal": normal,
    "down": normal,
    "slow": slow,
    "hanging": hanging,
    "trickling": trickling,
    "lying": lying,
    "resetting": resetting,
    "poisoned": normal,
}


class Backend:
    """Listens on a loopback port, except in the mode `down`."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._mode = "normal"
        self._chance = random.Random(0)

    async def set_mode(self, mode: str, seed: str) -> None:
        self._mode, self._chance = mode, random.Random(seed)
        if mode == "down":
            if self._server:
                self._server.close()
                self._server = None
            for writer in list(self._connections):
                abort(writer)
        elif not self._server:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, backlog=1024)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def send(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        self._connections.add(writer)
        try:
            while True:
                path, question = await read_request(reader)
                await self._answer(path, question, send)
        except Abort:
            abort(writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the server has closed its connection, as it may at any time
        finally:
            self._connections.discard(writer)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, path: str, question: Mapping[str, str], send: Send) -> None:
        answer = right_answer(path, question)
        if self._mode == "poisoned":
            if question.get("key") == expected.POISONED_KEY:
                answer = response(500, {})
            elif question.get("username") == expected.THROTTLED_USER:
                answer = response(429, {})
        await MODES[self._mode](answer, path, send, self._chance)


async def read_request(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]]:
    """The path and the JSON object of the next request. Raises IncompleteReadError at the end of the connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    request_line, *headers = head.split("\r\n")
    lengths = [line.split(":")[1] for line in headers if line.lower().startswith("content-length:")]
    body = await reader.readexactly(int(lengths[0]))
    return request_line.split(" ")[1], json.loads(body)


def abort(writer: asyncio.StreamWriter) -> None:
    """Close the connection by a reset."""
    connection = writer.get_extra_info("socket")
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


async def main(port: int) -> None:
    backend = Backend(port)
    await backend.set_mode("normal", "0")
    commands = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    print("ok", flush=True)
    while line := await commands.readline():
        mode, seed = line.decode().split()
        await backend.set_mode(mode, seed)
        print("ok", flush=True)
    os._exit(0)  # requests that hang need no orderly end


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))

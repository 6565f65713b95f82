"""Feeding a parser the way a network does: the same bytes in one piece, one by one, cut anywhere, with more behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from pfxhttpd.wire import ProtocolError

Take = Callable[[bytes], "tuple[Any, int] | None"]


class Heard(NamedTuple):
    """What a reader has made of its bytes: the messages, the bytes left over, and whether it had to hang up."""

    messages: list[Any]
    rest: bytes
    malformed: bool


def hear(take: Take, pieces: Iterable[bytes]) -> Heard:
    """A reader's life: each piece is put behind what is left of the last, and messages are taken while there are any."""
    messages: list[Any] = []
    buffer = b""
    for piece in pieces:
        buffer += piece
        try:
            while taken := take(buffer):
                message, used = taken
                assert 0 < used <= len(buffer)
                messages.append(message)
                buffer = buffer[used:]
        except ProtocolError as error:
            assert str(error).isprintable() and 0 < len(str(error)) <= 80
            return Heard(messages, b"", True)
    return Heard(messages, buffer, False)


def ways(data: bytes) -> Iterator[list[bytes]]:
    """The data in one piece, byte by byte, and cut in two at every place."""
    yield [data]
    yield [data[place : place + 1] for place in range(len(data))]
    for place in range(1, len(data)):
        yield [data[:place], data[place:]]


def hear_every_way(take: Take, data: bytes) -> Heard:
    """What the reader hears, which must be the same whatever way the data comes in."""
    expected = hear(take, [data])
    for pieces in ways(data):
        assert hear(take, pieces) == expected, pieces
    return expected


def calls_at(whole: Callable[[bytes, int], bool], data: bytes) -> int | None:
    """After how many of the bytes, one by one, `whole` asks that somebody looks; None if never. Each byte is asked about once."""
    for size in range(len(data) + 1):
        if whole(data[:size], max(0, size - 1)):
            return size
    return None


def must_look(take: Take, data: bytes) -> bool:
    """What `whole` has to say: there is a message, or there can never be one."""
    try:
        return take(data) is not None
    except ProtocolError:
        return True

"""Feeds a parser as a network does: the same bytes in one piece, one by one, and split at any position."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from pfxhttpd.wire import ProtocolError

Parse = Callable[[bytes], "tuple[Any, int] | None"]


class Parsed(NamedTuple):
    """The messages parsed, the bytes left over, and whether the parser raised ProtocolError."""

    messages: list[Any]
    rest: bytes
    malformed: bool


def feed(parse: Parse, pieces: Iterable[bytes]) -> Parsed:
    """Appends each piece to a buffer and parses messages from its start as long as there are any."""
    messages: list[Any] = []
    buffer = b""
    for piece in pieces:
        buffer += piece
        try:
            while parsed := parse(buffer):
                message, used = parsed
                assert 0 < used <= len(buffer)
                messages.append(message)
                buffer = buffer[used:]
        except ProtocolError as error:
            reason = str(error)
        else:
            continue
        assert reason.isprintable() and 0 < len(reason) <= 80
        return Parsed(messages, b"", True)
    return Parsed(messages, buffer, False)


def splits(data: bytes) -> Iterator[list[bytes]]:
    """The data in one piece, byte by byte, and in two pieces for every position."""
    yield [data]
    yield [data[position : position + 1] for position in range(len(data))]
    for position in range(1, len(data)):
        yield [data[:position], data[position:]]


def feed_every_split(parse: Parse, data: bytes) -> Parsed:
    """The result of feeding the data, which must be the same however the data are split."""
    expected = feed(parse, [data])
    for pieces in splits(data):
        assert feed(parse, pieces) == expected, pieces
    return expected


def completes_at(is_complete: Callable[[bytes, int], bool], data: bytes) -> int | None:
    """The number of bytes after which `is_complete` is true if the data arrive byte by byte; None if it never is."""
    for size in range(len(data) + 1):
        if is_complete(data[:size], max(0, size - 1)):
            return size
    return None


def is_decided(parse: Parse, data: bytes) -> bool:
    """What `is_complete` should return: whether `parse` returns a message or raises ProtocolError."""
    try:
        return parse(data) is not None
    except ProtocolError:
        return True

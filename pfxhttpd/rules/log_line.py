"""From a log record to its line: the one place that encodes what is logged.

Two forms, logfmt and JSON, with the same names in the same order: time (if any), level, msg, then the fields. Both
quote as JSON does (RFC 8259, 7), so one rule tells what reaches a line: printable characters, and nothing else.
A line is never longer than LINE bytes, its newline included: that is what a pipe takes in one piece (PIPE_BUF,
pipe(7)), so lines of several processes cannot mix.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache

from pfxhttpd.rules.redact import REDACTED, Redactor, is_secret_name

LINE = 4096
"""Bytes of the longest line, newline included."""

VALUE = 1000
"""Characters of a value that are shown, and bytes that their encoding may take."""

_NAME = 64
_MESSAGES = 256
_LEFT_OUT = 40
_OWN_NAMES = frozenset({"time", "level", "msg", "left_out"})
_SHORT_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_BARE = re.compile(r"[!#-<>-\[\]-~]+").fullmatch


@lru_cache(maxsize=512)
def field_name(name: str) -> tuple[str, bool]:
    """The name under which a field is written, and whether it names a secret.

    Letters, digits, `_`, `.`, `-`, and none of the line's own names.
    """
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:_NAME] or "_"
    return f"field_{plain}" if plain in _OWN_NAMES else plain, is_secret_name(name)


def plain_text(value: object) -> str:
    """A value as text, before redaction and encoding. Bytes that are no UTF-8 show as `\\xNN`."""
    if isinstance(value, str):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode("utf-8", "backslashreplace")
    try:
        return str(value)
    except Exception as failure:  # the value's own __str__, which may raise anything; a log must not
        return f"<{type(value).__name__} without text: {type(failure).__name__}>"


def escaped(text: str, room: int) -> tuple[str, int]:
    """`text` as it may stand between quotes, in at most `room` bytes of UTF-8; and how many characters did not fit."""
    if text.isprintable():
        quick = text.replace("\\", "\\\\").replace('"', '\\"')
        if len(quick.encode()) <= room:
            return quick, 0
    pieces: list[str] = []
    size = 0
    for place, character in enumerate(text):
        piece = _escape(character)
        size += len(piece) if piece.isascii() else len(piece.encode())
        if size > room:
            return "".join(pieces), len(text) - place
        pieces.append(piece)
    return "".join(pieces), 0


def _escape(character: str) -> str:
    if character in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


def _quoted(text: str, redactor: Redactor) -> str:
    text, unseen = redactor.clean(text, VALUE)
    inner, unfit = escaped(text, VALUE)
    return f'"{inner}[+{unseen + unfit} cut]"' if unseen or unfit else f'"{inner}"'


def _logfmt_value(value: object, redactor: Redactor) -> str:
    if value is True or value is False:
        return "true" if value else "false"
    text = value if isinstance(value, str) else plain_text(value)
    if len(text) <= VALUE:
        clean, _ = redactor.clean(text, VALUE)
        if _BARE(clean):
            return clean
    return _quoted(text, redactor)


def _json_value(value: object, redactor: Redactor) -> str:
    if value is True or value is False:
        return "true" if value else "false"
    if type(value) is int and -(1 << 53) < value < 1 << 53:
        return str(value)
    if type(value) is float and value - value == 0.0:  # neither infinite nor NaN, for which JSON has no form
        return repr(value)
    return _quoted(value if isinstance(value, str) else plain_text(value), redactor)


class Encoder:
    """Turns records into lines of one form, without the secrets that `redactor` knows. Make one with `encoder`."""

    __slots__ = ("_between", "_closing", "_hidden", "_messages", "_named", "_opening", "_redactor", "_value")

    def __init__(
        self,
        opening: str,
        named: str,
        between: str,
        closing: str,
        value: Callable[[object, Redactor], str],
        redactor: Redactor,
    ) -> None:
        self._opening, self._named, self._between, self._closing = opening, named, between, closing
        self._value = value
        self._redactor = redactor
        self._hidden = value(REDACTED, redactor)
        self._messages: dict[tuple[str, str], str] = {}

    def encode(self, stamp: str, level: str, msg: str, fields: Mapping[str, object]) -> bytes:
        """One line with its newline. An empty `stamp` and fields that are None are left out."""
        named, value, redactor = self._named, self._value, self._redactor
        if not isinstance(msg, str):
            msg = plain_text(msg)
        message = self._messages.get((level, msg)) or self._message(level, msg)
        parts = [named % ("time", value(stamp, redactor)), message] if stamp else [message]
        head = len(parts)
        for given, content in fields.items():
            if content is not None:
                name, secret = field_name(given)
                parts.append(named % (name, self._hidden if secret else value(content, redactor)))
        line = self._line(parts)
        return line if len(line) <= LINE else self._fitting(parts[:head], parts[head:])

    def _message(self, level: str, msg: str) -> str:
        """Level and message. They come again and again, so what they look like is kept, unless it hides something."""
        quoted = _quoted(msg, self._redactor)
        encoded = self._between.join(
            (self._named % ("level", self._value(level, self._redactor)), self._named % ("msg", quoted))
        )
        if quoted == f'"{msg}"' and len(self._messages) < _MESSAGES:
            self._messages[level, msg] = encoded
        return encoded

    def _line(self, parts: list[str]) -> bytes:
        return (self._opening + self._between.join(parts) + self._closing).encode()

    def _fitting(self, head: list[str], parts: list[str]) -> bytes:
        """The line without the fields that do not fit; later ones that do are kept, since they are the short ones."""
        room = LINE - len(self._line(head)) - _LEFT_OUT
        kept = []
        for part in parts:
            size = len(part.encode()) + len(self._between)
            if size <= room:
                room -= size
                kept.append(part)
        left_out = self._named % ("left_out", len(parts) - len(kept))
        return self._line(head + kept + [left_out])


def encoder(json: bool, redactor: Redactor) -> Encoder:
    """The encoder of logfmt lines, or of JSON objects."""
    if json:
        return Encoder("{", '"%s":%s', ",", "}\n", _json_value, redactor)
    return Encoder("", "%s=%s", " ", "\n", _logfmt_value, redactor)

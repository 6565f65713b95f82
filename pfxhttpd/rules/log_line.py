"""The encoding of a log record as one line of logfmt or JSON.

Both formats have the same names in the same order: time (if any), level, msg and then the fields. Both quote as JSON
does (RFC 8259 section 7), so a line contains printable characters only. A line is never longer than LINE_LIMIT bytes
with its newline. A pipe accepts that many bytes in one piece (PIPE_BUF, pipe(7)), so the lines of several processes
cannot mix.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache

from pfxhttpd.rules.redact import REDACTED, Redactor, is_secret_name

LINE_LIMIT = 4096
"""Length of the longest line in bytes, including its newline."""

VALUE_LIMIT = 1000
"""Length of the longest value that is shown in full, in characters and in bytes of its encoding."""

_NAME_LIMIT = 64
_CACHED_MESSAGES = 256
_LEFT_OUT_SIZE = 40
"""Bytes reserved for the field that counts the fields left out."""
_RESERVED_NAMES = frozenset({"time", "level", "msg", "left_out"})
_SHORT_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_UNQUOTED = re.compile(r"[!#-<>-\[\]-~]+").fullmatch


@lru_cache(maxsize=512)
def field_name(name: str) -> tuple[str, bool]:
    """The name under which a field is written, and whether its value is a secret.

    The name consists of letters, digits, `_`, `.` and `-` and is none of the reserved names.
    """
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:_NAME_LIMIT] or "_"
    return f"field_{plain}" if plain in _RESERVED_NAMES else plain, is_secret_name(name)


def plain_text(value: object) -> str:
    """A value as text, before redaction and encoding. Bytes that are not UTF-8 appear as `\\xNN`."""
    if isinstance(value, str):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode("utf-8", "backslashreplace")
    try:
        return str(value)
    except Exception as error:  # __str__ of any type may raise anything, and logging must not raise
        return f"<{type(value).__name__} without text: {type(error).__name__}>"


def escape(text: str, limit: int) -> tuple[str, int]:
    """`text` escaped for use in quotes, in at most `limit` bytes of UTF-8, and the number of characters cut off."""
    if text.isprintable():
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        if len(escaped.encode()) <= limit:
            return escaped, 0
    pieces: list[str] = []
    size = 0
    for position, character in enumerate(text):
        piece = _escape_character(character)
        size += len(piece) if piece.isascii() else len(piece.encode())
        if size > limit:
            return "".join(pieces), len(text) - position
        pieces.append(piece)
    return "".join(pieces), 0


def _escape_character(character: str) -> str:
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
    text, not_shown = redactor.redact(text, VALUE_LIMIT)
    inner, cut_off = escape(text, VALUE_LIMIT)
    return f'"{inner}[+{not_shown + cut_off} cut]"' if not_shown or cut_off else f'"{inner}"'


def _logfmt_value(value: object, redactor: Redactor) -> str:
    if value is True or value is False:
        return "true" if value else "false"
    text = value if isinstance(value, str) else plain_text(value)
    if len(text) <= VALUE_LIMIT:
        redacted, _ = redactor.redact(text, VALUE_LIMIT)
        if _UNQUOTED(redacted):
            return redacted
    return _quoted(text, redactor)


def _json_value(value: object, redactor: Redactor) -> str:
    if value is True or value is False:
        return "true" if value else "false"
    if type(value) is int and -(1 << 53) < value < 1 << 53:
        return str(value)
    if type(value) is float and value - value == 0.0:  # neither infinite nor NaN, which JSON cannot express
        return repr(value)
    return _quoted(value if isinstance(value, str) else plain_text(value), redactor)


class Encoder:
    """Encodes records as lines of one format, without the secrets that `redactor` finds. `encoder` creates one.

    A line is `start`, the fields joined with `separator`, and `end`. `field` is the format of a field with its name and
    encoded value, and `encode_value` encodes a value.
    """

    __slots__ = ("_encode_value", "_end", "_field", "_messages", "_redacted", "_redactor", "_separator", "_start")

    def __init__(
        self,
        start: str,
        field: str,
        separator: str,
        end: str,
        encode_value: Callable[[object, Redactor], str],
        redactor: Redactor,
    ) -> None:
        self._start, self._field, self._separator, self._end = start, field, separator, end
        self._encode_value = encode_value
        self._redactor = redactor
        self._redacted = encode_value(REDACTED, redactor)
        self._messages: dict[tuple[str, str], str] = {}

    def encode(self, stamp: str, level: str, msg: str, fields: Mapping[str, object]) -> bytes:
        """The record as one line with its newline. An empty `stamp` and fields whose value is None are left out."""
        field, encode_value, redactor = self._field, self._encode_value, self._redactor
        if not isinstance(msg, str):
            msg = plain_text(msg)
        head = self._messages.get((level, msg)) or self._encode_head(level, msg)
        parts = [field % ("time", encode_value(stamp, redactor)), head] if stamp else [head]
        head_count = len(parts)
        for name, value in fields.items():
            if value is not None:
                shown_name, secret = field_name(name)
                parts.append(field % (shown_name, self._redacted if secret else encode_value(value, redactor)))
        line = self._join(parts)
        return line if len(line) <= LINE_LIMIT else self._shorten(parts[:head_count], parts[head_count:])

    def _encode_head(self, level: str, msg: str) -> str:
        """The level and the message. They recur, so the encoding of a message that needs no change is cached."""
        quoted = _quoted(msg, self._redactor)
        encoded = self._separator.join(
            (self._field % ("level", self._encode_value(level, self._redactor)), self._field % ("msg", quoted))
        )
        if quoted == f'"{msg}"' and len(self._messages) < _CACHED_MESSAGES:
            self._messages[level, msg] = encoded
        return encoded

    def _join(self, parts: list[str]) -> bytes:
        return (self._start + self._separator.join(parts) + self._end).encode()

    def _shorten(self, head: list[str], fields: list[str]) -> bytes:
        """The line without the fields that do not fit. Shorter fields after a long one are kept."""
        available = LINE_LIMIT - len(self._join(head)) - _LEFT_OUT_SIZE
        kept = []
        for field in fields:
            size = len(field.encode()) + len(self._separator)
            if size <= available:
                available -= size
                kept.append(field)
        left_out = self._field % ("left_out", len(fields) - len(kept))
        return self._join([*head, *kept, left_out])


def encoder(json: bool, redactor: Redactor) -> Encoder:
    """An Encoder for lines of JSON objects if `json` is set, otherwise for lines of logfmt."""
    if json:
        return Encoder("{", '"%s":%s', ",", "}\n", _json_value, redactor)
    return Encoder("", "%s=%s", " ", "\n", _logfmt_value, redactor)

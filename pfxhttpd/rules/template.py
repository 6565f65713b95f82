"""The request's template: parsed once, when the configuration is loaded, and filled in for each request.

Whatever a client sends goes through the encoder of the place where its placeholder stands, so no key can break out:

    place                                      a string becomes                      the object (see below) becomes
    within "..."                               JSON string escapes                   JSON string escapes
    elsewhere in a text shaped like JSON       a complete JSON string, with quotes   itself
    a target, or a form (see `payload_of`)     percent-encoded                       percent-encoded
    elsewhere                                  itself: nothing here has a meaning    itself

`{{ .Key }}` of a policy request is the request as one JSON object, in the order received; all else are strings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from json import JSONEncoder
from json.encoder import encode_basestring
from typing import NamedTuple
from urllib.parse import quote

from pfxhttpd.config.settings import DOVECOT_SASL, POLICY_SERVICE, SOCKET_MAP, Entry
from pfxhttpd.wire.text import one_line

Request = str | Mapping[str, str]
"""What a template is filled in with: the key of a lookup, or the attributes of a policy request."""

Fill = Callable[[Request], str]
"""What stands in a placeholder's place, for a request."""

Encoder = Callable[[str], str]

FORM = "application/x-www-form-urlencoded"

_DEFAULT_PAYLOADS = {SOCKET_MAP: '{"key": "{{ .Key }}"}', POLICY_SERVICE: "{{ .Key }}", DOVECOT_SASL: ""}
_WITHOUT_BODY = frozenset({"GET", "HEAD"})

_BLANKS = " \t\r\n"
# As in Go's text/template, a trim mark needs a blank between itself and the placeholder's name.
_OPEN = re.compile(r"\{\{(-(?=[ \t\r\n]))?[ \t\r\n]*")
_CLOSE = re.compile(r"([ \t\r\n]-)?\}\}")
_ATTRIBUTE = re.compile(r"\.Attr\.([^\s{}]+)")
_STRING_MARK = re.compile(r'\\.|"', re.DOTALL)
_UP_TO_PATH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*[/?#]")


class TemplateError(ValueError):
    """The template has placeholders that mean nothing. `problems` holds pairs: offset in characters, what is wrong."""

    def __init__(self, problems: list[tuple[int, str]]) -> None:
        super().__init__("; ".join([f"character {offset + 1}: {what}" for offset, what in problems]))
        self.problems = problems


class Template:
    """A parsed template. `static` is the result where no request can change it, else None."""

    __slots__ = ("_fills", "_pattern", "static")

    static: bytes | None

    def __init__(self, pieces: list[str | Fill]) -> None:
        self._pattern = "".join([piece.replace("%", "%%") if isinstance(piece, str) else "%s" for piece in pieces])
        self._fills = tuple([piece for piece in pieces if not isinstance(piece, str)])
        self.static = None if self._fills else (self._pattern % ()).encode("utf-8", "replace")

    def render(self, request: Request) -> bytes:
        """The text for this request. A lone surrogate, which UTF-8 cannot hold, becomes a question mark."""
        if self.static is not None:
            return self.static
        return (self._pattern % tuple([fill(request) for fill in self._fills])).encode("utf-8", "replace")


def payload_of(entry: Entry) -> Template:
    """The template of the entry's request body; that of a GET is empty. Raises TemplateError.

    An entry without a payload sends `{"key": "..."}`, or for policies the attributes. Where a custom header says that
    the body is a form (application/x-www-form-urlencoded), what is filled in is percent-encoded.
    """
    pieces = _cut(entry.payload or _DEFAULT_PAYLOADS[entry.kind], entry)
    if entry.method.upper() in _WITHOUT_BODY:
        return Template([])
    if _is_form(entry):
        return Template(_encode(pieces, _PERCENT, _PERCENT))
    return Template(_encode(pieces, _IN_STRING, _IN_JSON if _shaped_like_json(pieces) else _PLAIN))


def target_of(entry: Entry) -> Template:
    """The template of the entry's target. Raises TemplateError, also for a placeholder in front of the path.

    Scheme, host and port are the administrator's alone: no client chooses where a request goes.
    """
    pieces = _cut(entry.target, entry)
    if len(pieces) > 1 and not _UP_TO_PATH.match(pieces[0]):
        raise TemplateError([(len(pieces[0]), "a placeholder may stand in the path or the query of a target only")])
    return Template(_encode(pieces, _PERCENT, _PERCENT))


def check(entry: Entry) -> Iterator[tuple[str, str]]:
    """What is wrong with the entry's templates, each with its key. A SASL entry's payload has no effect and is not looked at."""
    parsers = {"payload": payload_of, "target": target_of}
    if entry.kind == DOVECOT_SASL:
        del parsers["payload"]
    for key, parse in parsers.items():
        try:
            parse(entry)
        except TemplateError as error:
            for offset, what in error.problems:
                yield key, f"character {offset + 1}: {what}"


# The encoders, one for each kind of place.


def escaped(text: str) -> str:
    """The text as it stands between the quotes of a JSON string (RFC 8259, section 7)."""
    return encode_basestring(text)[1:-1]


def percent(text: str) -> str:
    """The text with all but its unreserved characters percent-encoded (RFC 3986, section 2.3).

    `.` and `..` are encoded as well: as a whole segment of a path they would lead elsewhere.
    """
    if text == "." or text == "..":
        return text.replace(".", "%2E")
    return quote(text, safe="", errors="replace")


def itself(text: str) -> str:
    """The text, unchanged."""
    return text


class _Place(NamedTuple):
    """How the two kinds of things that can be filled in are encoded in one kind of place."""

    text: Encoder
    json: Encoder


_IN_STRING = _Place(escaped, escaped)
_IN_JSON = _Place(encode_basestring, itself)
_PERCENT = _Place(percent, percent)
_PLAIN = _Place(itself, itself)


class _Slot(NamedTuple):
    """A placeholder: what it stands for, whether that is JSON, and whether it is the same for every request."""

    source: Fill
    json: bool = False
    constant: bool = False


_KEY = _Slot(itself)
_REQUEST = _Slot(JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode, json=True)


def _slot(name: str, entry: Entry) -> _Slot | str:
    """What the placeholder `name` stands for in this entry, or what is wrong with it."""
    if name == ".Name":
        return _Slot(lambda request: entry.name, constant=True)
    known = [".Name"]
    if entry.kind == SOCKET_MAP:
        if name == ".Key":
            return _KEY
        known.append(".Key")
    if entry.kind == POLICY_SERVICE:
        if name == ".Key":
            return _REQUEST
        attribute = _ATTRIBUTE.fullmatch(name)
        if attribute:
            return _Slot(lambda request: request.get(attribute[1], ""))
        known += [".Key", ".Attr.sender"]
    elif _ATTRIBUTE.fullmatch(name):
        return "only policy services have attributes"
    likely = get_close_matches(name.title(), known, 1)
    hint = f"; did you mean {{{{ {likely[0]} }}}}?" if likely else f"; known are {', '.join(known)}"
    return f"unknown placeholder {{{{ {one_line(name, 40)} }}}}{hint}"


def _cut(text: str, entry: Entry) -> list[str | _Slot]:
    """The template cut into literals and placeholders by turns, blanks trimmed where marks ask for it. Raises TemplateError.

    The first and the last piece are literals, if need be empty ones.
    """
    problems: list[tuple[int, str]] = []
    pieces: list[str | _Slot] = []
    done = 0
    trim = False
    while opening := _OPEN.search(text, done):
        closing = _CLOSE.search(text, opening.end())
        if not closing:
            problems.append((opening.start(), "{{ without its }}"))
            break
        literal = text[done : opening.start()]
        literal = literal.lstrip(_BLANKS) if trim else literal
        pieces.append(literal.rstrip(_BLANKS) if opening[1] else literal)
        slot = _slot(text[opening.end() : closing.start()].rstrip(_BLANKS), entry)
        if isinstance(slot, str):
            problems.append((opening.start(), slot))
        else:
            pieces.append(slot)
        done = closing.end()
        trim = bool(closing[1])
    if problems:
        raise TemplateError(problems)
    pieces.append(text[done:].lstrip(_BLANKS) if trim else text[done:])
    return pieces


def _encode(pieces: list[str | _Slot], within: _Place, outside: _Place) -> list[str | Fill]:
    """The pieces with each placeholder's encoder chosen, by whether it stands within a string, and the fixed ones joined."""
    encoded: list[str | Fill] = [""]
    within_string = False
    for piece in pieces:
        if isinstance(piece, str):
            within_string ^= _STRING_MARK.findall(piece).count('"') % 2 == 1
        else:
            place = within if within_string else outside
            piece = _fill(piece, place.json if piece.json else place.text)
        if isinstance(piece, str) and isinstance(encoded[-1], str):
            encoded[-1] += piece
        else:
            encoded.append(piece)
    return [piece for piece in encoded if piece != ""]


def _fill(slot: _Slot, encode: Encoder) -> str | Fill:
    """The slot's source and its encoder as one function; the text itself where it is constant."""
    if slot.constant:
        return encode(slot.source(""))
    if encode is itself:
        return slot.source
    if slot.source is itself:
        return encode
    return lambda request: encode(slot.source(request))


def _shaped_like_json(pieces: list[str | _Slot]) -> bool:
    for piece in pieces:
        if not isinstance(piece, str):
            return False
        if piece.strip(_BLANKS):
            return piece.lstrip(_BLANKS)[0] in '{["'
    return False


def _is_form(entry: Entry) -> bool:
    types = [value for name, value in entry.headers if name.lower() == "content-type"]
    return bool(types) and types[-1].partition(";")[0].strip().lower() == FORM

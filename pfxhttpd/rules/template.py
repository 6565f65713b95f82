"""Templates of a request's body and URL: parsed once, when the configuration is loaded, and rendered for each request.

`{{ .Key }}` is the key of a lookup, or the whole policy request as one JSON object with the attributes in the order
received. `{{ .Attr.sender }}` is one attribute of a policy request, `{{ .Name }}` the entry's name. Each is encoded for
the position where it stands, so that nothing a client sends can end the string or the field around it. `encoding` has
the rules; the Content-Type header decides which of them apply to a body.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from json import JSONEncoder
from typing import NamedTuple

from pfxhttpd.config.settings import DOVECOT_SASL, POLICY_SERVICE, SOCKET_MAP, Entry
from pfxhttpd.rules.encoding import (
    EncodingError,
    Layers,
    Marks,
    form_layers,
    json_layers,
    marks_for,
    url_layers,
    xml_layers,
)
from pfxhttpd.wire.sanitize import one_line

Request = str | Mapping[str, str]
"""What a template is rendered for: the key of a lookup, or the attributes of a policy request."""

Value = Callable[[Request], str]
"""The text that takes a placeholder's place, for one request."""

_DEFAULT_PAYLOADS = {SOCKET_MAP: '{"key": "{{ .Key }}"}', POLICY_SERVICE: "{{ .Key }}", DOVECOT_SASL: ""}
_WITHOUT_BODY = frozenset({"GET", "HEAD"})

_BLANKS = " \t\r\n"
# As in Go's text/template, a trim mark needs a blank between itself and the placeholder's name.
_OPEN = re.compile(r"\{\{(-(?=[ \t\r\n]))?[ \t\r\n]*")
_CLOSE = re.compile(r"([ \t\r\n]-)?\}\}")
_ATTRIBUTE = re.compile(r"\.Attr\.([^\s{}]+)")
_UP_TO_PATH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*(?=[/?#])")
_CHARSET = re.compile(r';[ \t]*charset[ \t]*=[ \t"]*([^\s;"]*)', re.IGNORECASE)

_CONTENT_TYPE_HINT = (
    "set Content-Type in custom_headers to the kind of body that this is:"
    " application/json, application/x-www-form-urlencoded, application/xml,"
    " or text/plain where a key needs no escapes"
)


class TemplateError(ValueError):
    """The template cannot be used. `problems` holds pairs: the offset in characters, and what is wrong there."""

    def __init__(self, problems: list[tuple[int, str]]) -> None:
        super().__init__("; ".join([f"character {offset + 1}: {what}" for offset, what in problems]))
        self.problems = problems


class Template:
    """A parsed template. `static` is the rendered text where it is the same for every request, else None."""

    __slots__ = ("_parts", "_pattern", "_values", "static")

    static: bytes | None
    _parts: tuple[str, Value, str] | None

    def __init__(self, pieces: list[str | Value]) -> None:
        self._pattern = "".join([piece.replace("%", "%%") if isinstance(piece, str) else "%s" for piece in pieces])
        self._values = tuple([piece for piece in pieces if not isinstance(piece, str)])
        self.static = None if self._values else (self._pattern % ()).encode("utf-8", "replace")
        # Nearly every template has a single placeholder; putting two strings around it takes a third of the time.
        before, _, after = self._pattern.partition("%s")
        single = len(self._values) == 1 and "%%" not in self._pattern
        self._parts = (before, self._values[0], after) if single else None

    def render(self, request: Request) -> bytes:
        """The text for this request. A lone surrogate, which UTF-8 cannot hold, becomes a question mark."""
        if self.static is not None:
            return self.static
        if self._parts is not None:
            before, value, after = self._parts
            return (before + value(request) + after).encode("utf-8", "replace")
        return (self._pattern % tuple([value(request) for value in self._values])).encode("utf-8", "replace")


def payload_of(entry: Entry) -> Template:
    """The template of the entry's request body, which is empty for a GET. Raises TemplateError.

    An entry without a payload sends `{"key": "..."}`, or for policies the attributes. The payload of a SASL entry has no
    effect and is not examined, whatever an old configuration has there.
    """
    if entry.kind == DOVECOT_SASL:
        return Template([])
    pieces = _parse(entry.payload or _DEFAULT_PAYLOADS[entry.kind], entry)
    if entry.method.upper() in _WITHOUT_BODY:
        return Template([])
    return _template(pieces, lambda text, marks: _body_layers(entry, text, marks))


def target_of(entry: Entry) -> Template:
    """The template of the entry's target. Raises TemplateError, also for a placeholder in front of the path.

    Scheme, host and port are the administrator's alone: no client chooses where a request goes.
    """
    pieces = _parse(entry.target, entry)
    host = _UP_TO_PATH.match(pieces[0].literal)
    if len(pieces) > 1 and not host:
        raise TemplateError([(pieces[1].offset, "a placeholder may stand in the path or the query of a target only")])
    return _template(pieces, lambda text, marks: url_layers(text[host.end() if host else 0 :], marks))


def check(entry: Entry) -> Iterator[tuple[str, str]]:
    """What is wrong with the entry's templates, each problem with its key."""
    for key, parse in (("payload", payload_of), ("target", target_of)):
        try:
            parse(entry)
        except TemplateError as error:
            for offset, what in error.problems:
                yield key, f"character {offset + 1}: {what}"


# Parsing.


class _Placeholder(NamedTuple):
    """What a placeholder stands for, whether that is a JSON document, and whether it is the same for every request."""

    value: Value
    is_json: bool = False
    constant: bool = False


class _Piece(NamedTuple):
    """A placeholder, or a literal where there is none. `offset` is its position in the template, in characters."""

    offset: int
    literal: str = ""
    placeholder: _Placeholder | None = None


def _key(request: Request) -> str:
    assert isinstance(request, str)
    return request


def _attribute(name: str) -> Value:
    def value(request: Request) -> str:
        assert not isinstance(request, str)
        return request.get(name, "")

    return value


_KEY = _Placeholder(_key)
_ATTRIBUTES = _Placeholder(JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode, is_json=True)


def _placeholder(name: str, entry: Entry) -> _Placeholder | str:
    """What the placeholder `name` stands for in this entry, or what is wrong with it."""
    if name == ".Name":
        return _Placeholder(lambda request: entry.name, constant=True)
    known = [".Name"]
    attribute = _ATTRIBUTE.fullmatch(name)
    if entry.kind == SOCKET_MAP:
        if name == ".Key":
            return _KEY
        known.append(".Key")
    if entry.kind == POLICY_SERVICE:
        if name == ".Key":
            return _ATTRIBUTES
        if attribute:
            return _Placeholder(_attribute(attribute[1]))
        known += [".Key", ".Attr.sender"]
    elif attribute:
        return "only policy services have attributes"
    likely = get_close_matches(name.title(), known, 1)
    hint = f"; did you mean {{{{ {likely[0]} }}}}?" if likely else f"; known are {', '.join(known)}"
    return f"unknown placeholder {{{{ {one_line(name, 40)} }}}}{hint}"


def _parse(text: str, entry: Entry) -> list[_Piece]:
    """Literals and placeholders by turns, blanks trimmed where trim marks ask for it. Raises TemplateError.

    The first and the last piece are literals, which may be empty.
    """
    problems: list[tuple[int, str]] = []
    pieces: list[_Piece] = []
    done = 0
    trim = False
    while opening := _OPEN.search(text, done):
        closing = _CLOSE.search(text, opening.end())
        if not closing:
            problems.append((opening.start(), "{{ without its }}"))
            break
        literal = text[done : opening.start()]
        literal = literal.lstrip(_BLANKS) if trim else literal
        pieces.append(_Piece(done, literal.rstrip(_BLANKS) if opening[1] else literal))
        placeholder = _placeholder(text[opening.end() : closing.start()].rstrip(_BLANKS), entry)
        if isinstance(placeholder, str):
            problems.append((opening.start(), placeholder))
        else:
            pieces.append(_Piece(opening.start(), "", placeholder))
        done = closing.end()
        trim = bool(closing[1])
    if problems:
        raise TemplateError(problems)
    pieces.append(_Piece(done, text[done:].lstrip(_BLANKS) if trim else text[done:]))
    return pieces


# Encoding.


def _body_layers(entry: Entry, text: str, marks: Marks) -> dict[str, Layers]:
    """The layers of each mark in a body of the entry's Content-Type. Raises EncodingError."""
    declared = [value for name, value in entry.headers if name.lower() == "content-type"]
    content_type = declared[-1] if declared else "application/json"
    media_type = content_type.partition(";")[0].strip().lower()
    first = next(iter(marks))
    charset = _CHARSET.search(content_type)
    if charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        raise EncodingError(first, f"what is sent is UTF-8, but Content-Type says {one_line(charset[1], 40)}")
    if media_type == "application/x-www-form-urlencoded":
        return form_layers(text, marks)
    if media_type == "text/plain":
        return dict.fromkeys(marks, ())
    if media_type in ("application/xml", "text/xml") or media_type.endswith("+xml"):
        return xml_layers(text, marks)
    if media_type in ("application/json", "text/json") or media_type.endswith("+json"):
        try:
            return json_layers(text, marks)
        except EncodingError as error:
            hint = "" if declared else f"; correct it, or {_CONTENT_TYPE_HINT}"
            raise EncodingError(error.mark, f"{error}{hint}") from None
    raise EncodingError(
        first, f"how a key is encoded in {one_line(media_type, 60) or 'this'} is not known; {_CONTENT_TYPE_HINT}"
    )


def _template(pieces: list[_Piece], find_layers: Callable[[str, Marks], dict[str, Layers]]) -> Template:
    """The template of these pieces, each placeholder with the encoders that `find_layers` finds. Raises TemplateError.

    Where only the administrator's own names are put in and no layers are found, they are sent as they are.
    """
    placeholders = {piece.offset: piece.placeholder for piece in pieces if piece.placeholder}
    marks = dict(zip(placeholders, marks_for("".join([piece.literal for piece in pieces]), len(placeholders))))
    layers: dict[str, Layers] = {}
    if placeholders:
        text = "".join([marks[piece.offset] if piece.placeholder else piece.literal for piece in pieces])
        try:
            layers = find_layers(text, {marks[offset]: found.is_json for offset, found in placeholders.items()})
        except EncodingError as error:
            if not all(placeholder.constant for placeholder in placeholders.values()):
                offset = next(offset for offset, mark in marks.items() if mark == error.mark)
                raise TemplateError([(offset, str(error))]) from None
    joined: list[str | Value] = [""]
    for piece in pieces:
        value: str | Value = piece.literal
        if piece.placeholder:
            value = _encoded(piece.placeholder, layers.get(marks[piece.offset], ()))
        if isinstance(value, str) and isinstance(joined[-1], str):
            joined[-1] += value
        else:
            joined.append(value)
    return Template([piece for piece in joined if piece != ""])


def _encoded(placeholder: _Placeholder, layers: Layers) -> str | Value:
    """The placeholder's value and its encoders as one function, or the text itself where it is constant."""

    def value(request: Request) -> str:
        text = placeholder.value(request)
        for encode in layers:
            text = encode(text)
        return text

    if placeholder.constant:
        return value("")
    if placeholder is _KEY and len(layers) == 1:
        encode: Callable[..., str] = layers[0]  # the usual case, one call for each request
        return encode
    return value

"""Finds the encoders that each placeholder of a template needs at the position where it stands.

What a client sends must not be able to end the string, field or element that it is put into. A placeholder may stand
in several layers at once: in `payload={"key": "{{ .Key }}"}` it stands in a JSON string, and that JSON in a form field.
It is then encoded once for each layer, the innermost first.

The text is examined with each placeholder replaced by a *mark*, one character that occurs nowhere else in the text.
Each layer is decoded in turn (JSON and XML by their real parsers), and the marks show where the placeholders are in
the result. The layers, each with what it does to a text and to a JSON document that is put in:

    layer                           a text becomes                        a JSON document becomes
    JSON string, "..."              JSON string escapes                   JSON string escapes
    JSON, outside of strings        a complete JSON string, with quotes   itself
    form field, part of a URL       percent-encoded (see `path_encoded`)  percent-encoded
    XML text or attribute value     character references                  character references
    other text                      itself                                itself

Double quotes are taken for those of a JSON string wherever they stand: GraphQL, SCIM filters (RFC 7644 section
3.4.2.2) and most programming languages escape in the same way. A position whose escapes are not known is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from json.encoder import encode_basestring
from urllib.parse import quote, unquote, unquote_plus
from xml.parsers import expat

Encoder = Callable[[str], str]
Layers = tuple[Encoder, ...]
"""The encoders of one placeholder, the innermost first."""

Marks = Mapping[str, bool]
"""The marks of a text, each with whether a JSON document (not a text) takes the placeholder's place."""

_FIRST_MARK, _LAST_MARK = 0xF0000, 0xFFFFD  # a private use area: not in names of XML, no part of an escape sequence
_MARK = f"[{chr(_FIRST_MARK)}-{chr(_LAST_MARK)}]"
_TOKEN = re.compile(rf'"(?:[^"\\]|\\.)*"|{_MARK}', re.DOTALL)
_SINGLE_QUOTED = re.compile(r"(?<!\w)'[^']*'")
_DOT_SEGMENT = re.compile(r"(?<![^/\\])\.\.?(?![^/\\])")
_BLANKS = " \t\r\n"

_XML_REFERENCES = str.maketrans(
    dict.fromkeys([*range(0x20), 0xFFFE, 0xFFFF], "\ufffd")
    | {ord(letter): f"&#{ord(letter)};" for letter in "&<>\"'\t\n\r\x85\u2028"}
)


class EncodingError(ValueError):
    """No encoding is known for the position of `mark`. The message says what is wrong and what can be done about it."""

    def __init__(self, mark: str, reason: str) -> None:
        super().__init__(reason)
        self.mark = mark


def marks_for(text: str, count: int) -> list[str]:
    """`count` different marks that do not occur in the text."""
    unused = (chr(code) for code in range(_FIRST_MARK, _LAST_MARK + 1) if chr(code) not in text)
    return [next(unused) for _ in range(count)]


# The encoders.


def json_escaped(text: str) -> str:
    """The text as it stands between the quotes of a JSON string (RFC 8259 section 7)."""
    return encode_basestring(text)[1:-1]


def json_string(text: str) -> str:
    """The text as a JSON string with its quotes."""
    return encode_basestring(text)


def percent_encoded(text: str) -> str:
    """The text with everything but its unreserved characters percent-encoded (RFC 3986 section 2.3)."""
    return quote(text, safe="", errors="replace")


def path_encoded(text: str) -> str:
    """The text as a part of a URL's path: percent-encoded, and without `.` and `..` as segments.

    Web servers decode a path before they resolve these segments, so `..%2Fother` would lead to another directory. The
    dots of such a segment are encoded twice: the server decodes them to `%2E`, which is no file's name.
    """
    return quote(_DOT_SEGMENT.sub(_encoded_dots, text), safe="", errors="replace")


def _encoded_dots(segment: re.Match[str]) -> str:
    return segment[0].replace(".", "%2E")


def xml_escaped(text: str) -> str:
    """The text as it stands in an element or in an attribute's value (XML 1.0 section 2.4).

    Control characters, which XML cannot hold in any form, become U+FFFD.
    """
    return text.translate(_XML_REFERENCES)


# The layers.


def json_layers(text: str, marks: Marks) -> dict[str, Layers]:
    """The layers of each mark in a text that must be JSON. Raises EncodingError."""
    alone = text.strip(_BLANKS)
    if alone in marks and not marks[alone]:
        raise EncodingError(alone, "a text alone is not JSON; quote it to send a JSON string")
    return _json_layers(text, marks, ())


def form_layers(text: str, marks: Marks) -> dict[str, Layers]:
    """The layers of each mark in the fields of a form (application/x-www-form-urlencoded). Raises EncodingError."""
    found: dict[str, Layers] = {}
    for field in text.split("&"):
        for part in field.split("=", 1):
            found |= _percent_layers(part, unquote_plus, marks, percent_encoded)
    return found


def url_layers(text: str, marks: Marks) -> dict[str, Layers]:
    """The layers of each mark in a URL, behind its host. Raises EncodingError."""
    text, _, fragment = text.partition("#")
    path, _, query = text.partition("?")
    found = _percent_layers(fragment, unquote, marks, percent_encoded)
    for segment in path.split("/"):
        found |= _percent_layers(segment, unquote, marks, path_encoded)
    return found | form_layers(query, marks)


def xml_layers(text: str, marks: Marks) -> dict[str, Layers]:
    """The layers of each mark in an XML document. Raises EncodingError."""
    found: dict[str, Layers] = {}
    for part in _xml_texts(text, next(iter(marks))):
        found |= _text_layers(part, marks, (xml_escaped,))
    for mark in marks:
        if mark not in found:
            raise EncodingError(mark, "in XML a placeholder may stand in text and in the value of an attribute only")
    return found


def _percent_layers(part: str, decode: Encoder, marks: Marks, encode: Encoder) -> dict[str, Layers]:
    unfinished = re.search(rf"%[0-9A-Fa-f]?({_MARK})", part)
    if unfinished:
        raise EncodingError(unfinished[1], "the percent sign in front of it lacks its two digits")
    return _text_layers(decode(part), marks, (encode,))


def _text_layers(text: str, marks: Marks, outer: Layers) -> dict[str, Layers]:
    """The layers of each mark in a text that may hold JSON, or quotes like those of JSON. `outer` encodes the text."""
    if text.lstrip(_BLANKS).startswith(("{", "[")) and any(token in marks for token in _TOKEN.findall(text)):
        return _json_layers(text, marks, outer)
    outside = [token for token in _TOKEN.findall(text) if token in marks]
    rest = _TOKEN.sub(lambda token: token[0] if token[0] in marks else "", text)
    single_quoted = "".join(_SINGLE_QUOTED.findall(rest))
    for mark in outside:
        if mark in single_quoted:
            raise EncodingError(mark, "how a text in single quotes is escaped is not known; use double quotes")
        if rest.count('"') > 1:
            raise EncodingError(mark, "the quotes around it have backslashes in front of them")
    return _string_layers(text, marks, outer) | dict.fromkeys(outside, outer)


def _json_layers(text: str, marks: Marks, outer: Layers) -> dict[str, Layers]:
    """The layers of each mark in a text that must be JSON, once a string or an object takes each mark's place."""
    outside = [token for token in _TOKEN.findall(text) if token in marks]
    sample = _TOKEN.sub(lambda token: _sample(token[0], marks), text)
    try:
        json.loads(sample, strict=False)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        raise EncodingError(next(mark for mark in marks if mark in text), f"this is not JSON ({reason})") from None
    found = {mark: outer if marks[mark] else (json_string, *outer) for mark in outside}
    return found | _string_layers(text, marks, outer)


def _sample(token: str, marks: Marks) -> str:
    if token not in marks:
        return token
    return "{}" if marks[token] else '""'


def _string_layers(text: str, marks: Marks, outer: Layers) -> dict[str, Layers]:
    """The layers of those marks that stand within double quotes."""
    found: dict[str, Layers] = {}
    for token in _TOKEN.findall(text):
        inside = [mark for mark in marks if mark in token and mark != token]
        if inside:
            try:
                content = json.loads(token, strict=False)
            except ValueError:
                raise EncodingError(inside[0], "the text in the quotes around it is not escaped as in JSON") from None
            found |= _text_layers(content, marks, (json_escaped, *outer))
    return found


def _xml_texts(document: str, mark: str) -> list[str]:
    """The texts and the attributes' values of an XML document. Raises EncodingError for `mark`.

    Marks in CDATA sections, which have no escapes, are left out.
    """
    parser = expat.ParserCreate()
    texts = [""]
    in_cdata = False

    def start_element(name: str, attributes: dict[str, str]) -> None:
        texts.extend([*attributes.values(), ""])

    def end_element(name: str) -> None:
        texts.append("")

    def character_data(data: str) -> None:
        texts[-1] += re.sub(_MARK, "", data) if in_cdata else data

    def start_cdata() -> None:
        nonlocal in_cdata
        in_cdata = True

    def end_cdata() -> None:
        nonlocal in_cdata
        in_cdata = False

    def refuse_doctype(*declaration: object) -> None:
        raise EncodingError(mark, "an XML document with a DOCTYPE may have no placeholders")

    def check_declaration(version: str, encoding: str | None, standalone: int) -> None:
        if encoding and encoding.lower() not in ("utf-8", "us-ascii"):
            raise EncodingError(mark, "what is sent is UTF-8; the XML declaration says something else")

    parser.StartElementHandler = start_element
    parser.EndElementHandler = end_element
    parser.CharacterDataHandler = character_data
    parser.StartCdataSectionHandler = start_cdata
    parser.EndCdataSectionHandler = end_cdata
    parser.StartDoctypeDeclHandler = refuse_doctype
    parser.XmlDeclHandler = check_declaration
    try:
        parser.Parse(document.encode("utf-8", "replace"), True)
    except expat.ExpatError as error:
        raise EncodingError(mark, f"this is not XML ({expat.ErrorString(error.code)})") from None
    return texts

"""Redaction: the names of secrets, and the shapes of secrets in texts.

A secret reaches a log line in two ways: as the value of a field whose name says so (`is_secret_name`), or inside a text
that a client or a backend wrote, such as an error that quotes a URL or a body that repeats a request (`Redactor`). In
doubt more is redacted, never less. `rules.known_secrets` has the secrets that are known by value.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

REDACTED = "<redacted>"

SHORTEST_LITERAL = 6
"""Length of the shortest literal that is redacted. A shorter one could be part of ordinary words."""

LOOK_AHEAD = 4000
"""Number of characters searched. Fewer are shown, so that a secret that begins among those is found as a whole."""

# The names of secrets


class _Match(enum.Enum):
    """How a word of the table must occur in a name."""

    NEVER = 0
    WHOLE = 1
    """The name is that word."""
    PART = 2
    """The name contains the word. In the name of a field, a harmless ending such as `_url` overrides this."""


_NEVER, _WHOLE, _PART = _Match.NEVER, _Match.WHOLE, _Match.PART

_SECRET_WORDS = {
    # word: (in the name of a field, in the name of a header or query parameter)
    "password": (_PART, _PART),
    "passwd": (_PART, _PART),
    "passphrase": (_PART, _PART),
    "secret": (_PART, _PART),
    "token": (_PART, _PART),
    "authorization": (_PART, _PART),
    "authheader": (_PART, _PART),
    "cookie": (_PART, _PART),
    "credential": (_PART, _PART),
    "privatekey": (_PART, _PART),
    "apikey": (_PART, _PART),
    "keymaterial": (_PART, _PART),
    "assertion": (_PART, _PART),
    "bearer": (_PART, _PART),
    "pass": (_WHOLE, _PART),
    "pwd": (_WHOLE, _PART),
    "auth": (_WHOLE, _PART),
    "jwt": (_WHOLE, _PART),
    "signature": (_WHOLE, _PART),
    "resp": (_WHOLE, _WHOLE),
    "initialresponse": (_WHOLE, _WHOLE),
    "jwk": (_WHOLE, _WHOLE),
    "pem": (_WHOLE, _WHOLE),
    "otp": (_WHOLE, _WHOLE),
    "key": (_NEVER, _PART),  # the `key` of a lookup is no secret; socketmap_table(5) uses the word so
    "session": (_NEVER, _PART),
    "cred": (_NEVER, _PART),
    "sig": (_NEVER, _PART),
}
"""The words that mark a name as that of a secret."""

_HARMLESS_ENDINGS = (
    "endpoint",
    "uri",
    "url",
    "type",
    "file",
    "count",
    "method",
    "ttl",
    "expires",
    "expiry",
    "age",
    "status",
    "field",
)


@lru_cache(maxsize=512)
def is_secret_name(name: str, *, strict: bool = False) -> bool:
    """Whether a value with this name is a secret.

    It is if the name, in lower case and without `_`, `-` and `.`, matches a word of the table.

    `strict` is for headers and query parameters: more words match, and no ending is harmless. They are configured for
    the API alone, so redacting one too many does no harm.
    """
    plain = name.lower().replace("_", "").replace("-", "").replace(".", "")
    harmless = not strict and plain.endswith(_HARMLESS_ENDINGS)
    for word, (in_field, in_header) in _SECRET_WORDS.items():
        match = in_header if strict else in_field
        if (match is _WHOLE and plain == word) or (match is _PART and word in plain and not harmless):
            return True
    return False


# Secrets in texts

_QUOTE = r"""(?:\\*["']|%22|%27)"""
_EQUALS = r"(?:=>?|:|%3[ad])"
_OPENING = r"(?:%22|%27)?"
_UNQUOTED = r"""[^\s&"'<>]+"""
_STRONG = r"(?:password|passwd|passphrase|pwd|secret|api[_-]?key|private[_-]?key|assertion|credential)\w{0,16}"
_HEADER = r"(?:authorization|cookie)2?"
_WEAK = r"(?:token|jwt)"


def _quoted(name: str) -> tuple[str, ...]:
    """Patterns for `"name": "value"`, `'name': 'value'`, `('name', 'value')`, `name="value"`; quotes may be escaped."""
    before = rf"""{name}{_QUOTE}?\s*(?:{_EQUALS}|(?<=["']),)\s*\\*"""
    return rf"""({before}")(?:[^"\\]|\\.)*""", rf"""({before}')(?:[^'\\]|\\.)*"""


def _shape(hints: str, *alternatives: str) -> tuple[tuple[str, ...], re.Pattern[str]]:
    """A pattern of secrets and its hints. The one capturing group of an alternative is kept, the rest redacted.

    A text without any of the `hints` (words in lower case) cannot match, and searching for them is far cheaper.
    """
    return tuple(hints.split()), re.compile("|".join(alternatives), re.IGNORECASE | re.DOTALL)


_SHAPES = (
    _shape("-----begin", r"(-----BEGIN [^-\n]{0,40}-----).*?(?=-----END|\Z)"),
    # user:password@ in a URL (RFC 3986 section 3.2.1), also with a password that should have been percent-encoded
    _shape("://", r"(://)[^\s/?#]*(?=@)", r"(://(?!\[)[^\s/?#@:]{0,64}:)(?!\d{0,5}(?:[/?#\s]|\Z))[^\s@]{1,256}(?=@)"),
    # JSON Web Tokens and other base64url objects
    _shape("eyj", r"()(?-i:eyJ)[\w-]{8,}(?:\.[\w-]*)*"),
    # the initial responses of XOAUTH2 and OAUTHBEARER in base64
    _shape("dxnlcj1 bixhpx biws", r"()(?-i:dXNlcj1|bixhPX|biws)[A-Za-z0-9+/=]{12,}"),
    _shape(
        "password passwd passphrase pwd secret apikey api_key api-key privatekey private_key private-key "
        "assertion credential",
        *_quoted(_STRONG),
        rf"({_STRONG}{_QUOTE}?\s*{_EQUALS}\s*{_OPENING}){_UNQUOTED}",
        rf"({_STRONG}>)[^<]+",
    ),
    _shape("authorization cookie", *_quoted(_HEADER), rf"({_HEADER}{_QUOTE}?\s*{_EQUALS}\s*)[^\r\n]+"),
    # "token" is also common in error messages: after a bare colon only what looks like a token is redacted
    _shape(
        "token jwt",
        *_quoted(_WEAK),
        rf"({_WEAK}{_QUOTE}?\s*(?:=>?|%3d)\s*{_OPENING}){_UNQUOTED}",
        rf"({_WEAK}{_QUOTE}\s*(?::|%3a)\s*{_OPENING}){_UNQUOTED}",
        r"(-token\s*:\s*)\S+",
        rf"({_WEAK}\s*:\s*)[A-Za-z0-9._~+/=-]{{16,}}",
    ),
    _shape("resp=", r"(resp=)\S+"),
    _shape("code=", r"""((?:^|[?&])code=)[^\s&"'<>]+"""),
    # credentials of an Authorization header anywhere (RFC 7617, RFC 6750), but not the parameters of a challenge
    _shape(
        "bearer basic digest negotiate",
        r"((?:bearer|basic|digest|negotiate)(?:\s|%20)+)(?!(?:token|realm|error|auth\w*)\b)[A-Za-z0-9._~+/=-]+",
    ),
)

# Most values are session ids, numbers, host names, mail addresses or addresses with a port, which need no search.
_PLAIN = re.compile(r"[\w.@-]*(?::\d{1,5})?|\[[0-9a-f:.]+\]:\d{1,5}", re.ASCII).fullmatch
_PLAIN_LENGTH = 40
_ENCODED_STARTS = frozenset({"eyJ", "dXN", "bix", "biw"})


class Redactor:
    """Redacts secrets in texts. `literals` are secrets known by value, such as a configuration's `client_secret`."""

    __slots__ = ("_literals",)

    def __init__(self, literals: Iterable[str] = ()) -> None:
        self._literals = sorted({text for text in literals if len(text) >= SHORTEST_LITERAL}, key=len)

    def redact(self, text: str, limit: int) -> tuple[str, int]:
        """The first `limit` characters of `text`, with REDACTED for each secret, and the number of characters cut off.

        `limit` is at most a quarter of LOOK_AHEAD.
        """
        searched = text
        if len(text) > LOOK_AHEAD:
            # A URL whose end is cut off lacks the "@" by which its password is recognized.
            searched = text[:LOOK_AHEAD] + "@"
        spans: list[tuple[int, int]] = []
        for literal in self._literals:
            if len(literal) > len(searched):
                break
            position = searched.find(literal)
            while position >= 0:
                spans.append((position, position + len(literal)))
                position = searched.find(literal, position + 1)
        if not spans and len(text) <= _PLAIN_LENGTH and _PLAIN(text) and text[:3] not in _ENCODED_STARTS:
            return text, 0
        lowered = searched.lower()
        for hints, shape in _SHAPES:
            for hint in hints:
                if hint in lowered:
                    spans += _find_secrets(shape, searched, limit)
                    break
        if not spans:
            return (text, 0) if len(text) <= limit else (text[:limit], len(text) - limit)
        return _replace(text, sorted(spans), limit)


def _find_secrets(shape: re.Pattern[str], text: str, limit: int) -> Iterator[tuple[int, int]]:
    """The start and end of each secret of that shape that starts in the first `limit` characters.

    The search continues inside a secret, which may itself be the name of another one: `password= password: x`.
    """
    match = shape.search(text)
    while match and match.start() < limit:
        start, end = match.end(match.lastindex or 0), match.end()
        yield start, end
        match = shape.search(text, start if start > match.start() else end)


def _replace(text: str, spans: list[tuple[int, int]], limit: int) -> tuple[str, int]:
    """The result of `Redactor.redact` if the secrets are at `spans`, which are sorted."""
    pieces: list[str] = []
    position = 0
    for start, end in spans:
        if start >= limit:
            break
        if end <= position:
            continue
        if start >= position:
            pieces.append(text[position:start])
            pieces.append(REDACTED)
        position = end
    if position < limit:
        pieces.append(text[position:limit])
        position = limit
    return "".join(pieces), max(0, len(text) - position)

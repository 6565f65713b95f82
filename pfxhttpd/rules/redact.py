"""What is taken out of every text before it reaches a log: the one place that knows what a secret looks like.

Secrets come into log lines by two ways: as the value of a field whose name says so, and inside texts that others
wrote (an error that quotes a URL, a body that echoes a request). The first is settled by `is_secret_name`, the second
by the shapes below and by the literal secrets of the configuration. When in doubt more is taken out, never less.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from urllib.parse import parse_qsl, urlsplit

from pfxhttpd.config.settings import Entry, Settings

REDACTED = "<redacted>"

SHORTEST_LITERAL = 6
"""A configured secret shorter than this would shred ordinary texts; it is only found by its shape."""

LOOK_AHEAD = 4000
"""Characters of a text that are searched. What is shown is less, so a secret that begins in sight is seen whole."""

_PARTS = (
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "authorization",
    "cookie",
    "credential",
    "privatekey",
    "apikey",
    "keymaterial",
    "assertion",
    "authheader",
    "bearer",
)
_WHOLE = frozenset({"auth", "pass", "pwd", "resp", "jwt", "jwk", "pem", "otp", "signature", "initialresponse"})
_HARMLESS_ENDS = (
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
def is_secret_name(name: str) -> bool:
    """Whether a field of this name holds a secret. A lookup's `key` does not: socketmap_table(5) uses the word so."""
    plain = name.lower().replace("_", "").replace("-", "").replace(".", "")
    if plain in _WHOLE:
        return True
    return any(part in plain for part in _PARTS) and not plain.endswith(_HARMLESS_ENDS)


_QUOTE = r"""(?:\\*["']|%22|%27)"""
_EQUALS = r"(?:=>?|:|%3[ad])"
_OPENING = r"(?:%22|%27)?"
_UNQUOTED = r"""[^\s&"'<>]+"""
_STRONG = r"(?:password|passwd|passphrase|pwd|secret|api[_-]?key|private[_-]?key|assertion|credential)\w{0,16}"
_HEADER = r"(?:authorization|cookie)2?"
_WEAK = r"(?:token|jwt)"


def _quoted(name: str) -> tuple[str, ...]:
    """`"name": "value"`, `'name': 'value'`, `('name', 'value')`, `name="value"`, and the same escaped once more."""
    before = rf"""{name}{_QUOTE}?\s*(?:{_EQUALS}|(?<=["']),)\s*\\*"""
    return rf"""({before}")(?:[^"\\]|\\.)*""", rf"""({before}')(?:[^'\\]|\\.)*"""


def _shape(hints: str, *alternatives: str) -> tuple[tuple[str, ...], re.Pattern[str]]:
    """One capturing group an alternative: that part stays, the rest of the match goes.

    A text that holds none of the `hints` (in lower case) cannot match; looking for them is far cheaper.
    """
    return tuple(hints.split()), re.compile("|".join(alternatives), re.IGNORECASE | re.DOTALL)


_SHAPES = (
    _shape("-----begin", r"(-----BEGIN [^-\n]{0,40}-----).*?(?=-----END|\Z)"),
    # user:password@ of a URL (RFC 3986, 3.2.1), also with a password that should have been percent-encoded
    _shape("://", r"(://)[^\s/?#]*(?=@)", r"(://(?!\[)[^\s/?#@:]{0,64}:)(?!\d{0,5}(?:[/?#\s]|\Z))[^\s@]{1,256}(?=@)"),
    # JSON Web Tokens and other base64url objects
    _shape("eyj", r"()(?-i:eyJ)[\w-]{8,}(?:\.[\w-]*)*"),
    # the initial responses of XOAUTH2 and OAUTHBEARER
    _shape("dxnlcj1 bixhpx biws", r"()(?-i:dXNlcj1|bixhPX|biws)[A-Za-z0-9+/=]{12,}"),
    _shape(
        "password passwd passphrase pwd secret apikey api_key api-key privatekey private_key private-key "
        "assertion credential",
        *_quoted(_STRONG),
        rf"({_STRONG}{_QUOTE}?\s*{_EQUALS}\s*{_OPENING}){_UNQUOTED}",
        rf"({_STRONG}>)[^<]+",
    ),
    _shape("authorization cookie", *_quoted(_HEADER), rf"({_HEADER}{_QUOTE}?\s*{_EQUALS}\s*)[^\r\n]+"),
    # "token" is also a word of error messages: after a bare colon only what looks like one is taken out
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
    # credentials of an Authorization header wherever they turn up (RFC 7617, RFC 6750); a challenge's words are none
    _shape(
        "bearer basic digest negotiate",
        r"((?:bearer|basic|digest|negotiate)(?:\s|%20)+)(?!(?:token|realm|error|auth\w*)\b)[A-Za-z0-9._~+/=-]+",
    ),
)

# Session ids, numbers, host names, mail addresses, addresses with a port: most values are of this kind.
_PLAIN = re.compile(r"[\w.@-]*(?::\d{1,5})?|\[[0-9a-f:.]+\]:\d{1,5}", re.ASCII).fullmatch
_PLAIN_LENGTH = 40
_ENCODED_STARTS = frozenset({"eyJ", "dXN", "bix", "biw"})


class Redactor:
    """Takes secrets out of texts. `literals` are secrets known by value, such as a configuration's `client_secret`."""

    __slots__ = ("_literals",)

    def __init__(self, literals: Iterable[str] = ()) -> None:
        self._literals = sorted({text for text in literals if len(text) >= SHORTEST_LITERAL}, key=len)

    def clean(self, text: str, keep: int) -> tuple[str, int]:
        """`text` without its secrets, and how many of its characters were left out at the end.

        Only what stands in the first `keep` characters is shown, `REDACTED` in each secret's place; `keep` is at
        most a quarter of LOOK_AHEAD.
        """
        head = text
        if len(text) > LOOK_AHEAD:
            # The end that a cut-off URL's password lacks, so that it is known for one.
            head = text[:LOOK_AHEAD] + "@"
        spans: list[tuple[int, int]] = []
        for literal in self._literals:
            if len(literal) > len(head):
                break
            at = head.find(literal)
            while at >= 0:
                spans.append((at, at + len(literal)))
                at = head.find(literal, at + 1)
        if not spans and len(text) <= _PLAIN_LENGTH and _PLAIN(text) and text[:3] not in _ENCODED_STARTS:
            return text, 0
        lowered = head.lower()
        for hints, shape in _SHAPES:
            for hint in hints:
                if hint in lowered:
                    spans += _found(shape, head, keep)
                    break
        if not spans:
            return (text, 0) if len(text) <= keep else (text[:keep], len(text) - keep)
        return _without(text, sorted(spans), keep)


def _found(shape: re.Pattern[str], text: str, keep: int) -> Iterator[tuple[int, int]]:
    """Where a shape's secrets begin and end, as far as they begin in the first `keep` characters.

    The search goes on inside of what was found, since that may be a second name: `password= password: x`.
    """
    match = shape.search(text)
    while match and match.start() < keep:
        start, end = match.end(match.lastindex or 0), match.end()
        yield start, end
        match = shape.search(text, start if start > match.start() else end)


def _without(text: str, spans: list[tuple[int, int]], keep: int) -> tuple[str, int]:
    pieces: list[str] = []
    at = 0
    for start, end in spans:
        if start >= keep:
            break
        if end <= at:
            continue
        if start >= at:
            pieces.append(text[at:start])
            pieces.append(REDACTED)
        at = end
    if at < keep:
        pieces.append(text[at:keep])
        at = keep
    return "".join(pieces), max(0, len(text) - at)


_KEYS = ("key", "signature", "auth")
"""In the name of a header or of a query's parameter: what it holds is for us and the API alone."""


def configured_secrets(settings: Settings) -> set[str]:
    """What no log line may show, wherever it turns up."""
    found = set(_of_url(settings.server.http_client.proxy))
    for entries in settings.entries.values():
        for entry in entries.values():
            found.update(_of_entry(entry))
    return found - {""}


def _of_entry(entry: Entry) -> Iterator[str]:
    for name, value in entry.headers:
        if _telling(name):
            yield from _of_credentials(value)
    yield from _of_url(entry.target)
    for oidc in (entry.backend_oidc, entry.sasl_oidc):
        yield oidc.client_secret
        yield oidc.private_key


def _of_credentials(value: str) -> Iterator[str]:
    """A header's value, the credentials without their scheme, and the password that Basic only wraps (RFC 7617)."""
    scheme, _, credentials = value.partition(" ")
    yield value
    yield credentials
    if scheme.lower() == "basic":
        try:
            yield base64.b64decode(credentials, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            pass  # not what RFC 7617 describes; the text itself is taken out all the same


def _of_url(url: str) -> Iterator[str]:
    parts = urlsplit(url)
    yield parts.password or ""
    for name, value in parse_qsl(parts.query):
        if _telling(name) and "{{" not in value:
            yield value


def _telling(name: str) -> bool:
    return is_secret_name(name) or any(key in name.lower() for key in _KEYS)

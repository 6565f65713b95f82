"""What is taken out of every text before it reaches a log: the one place that knows what a secret looks like.

Secrets come into log lines by two ways: as the value of a field whose name says so, and inside texts that others
wrote (an error that quotes a URL, a body that echoes a request). The first is settled by `names_secret`, the second
by the shapes below and by the literal secrets of the configuration. When in doubt more is taken out, never less.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Iterable

REDACTED = "<redacted>"

SHORTEST_LITERAL = 6
"""A configured secret shorter than this would shred ordinary texts; it is only found by its shape."""

LOOK_AHEAD = 4000
"""Characters of a text that are searched. What is shown is less, so a secret that begins in sight is seen whole."""

_PARTS = ("password", "passwd", "passphrase", "secret", "token", "authorization", "cookie", "credential",
          "privatekey", "apikey", "keymaterial", "assertion", "authheader", "bearer")
_WHOLE = frozenset({"auth", "pass", "pwd", "resp", "jwt", "jwk", "pem", "otp", "signature", "initialresponse"})
_HARMLESS_ENDS = ("endpoint", "uri", "url", "type", "file", "count", "method", "ttl", "expires", "expiry", "age",
                  "status", "field")


@lru_cache(maxsize=512)
def names_secret(name: str) -> bool:
    """Whether a field of this name holds a secret. A lookup's `key` does not: socketmap_table(5) uses the word so."""
    plain = name.lower().replace("_", "").replace("-", "").replace(".", "")
    if plain in _WHOLE:
        return True
    return any(part in plain for part in _PARTS) and not plain.endswith(_HARMLESS_ENDS)


_QUOTE = r"""(?:\\*["']|%22|%27)"""
_EQUALS = r"(?:=>?|:|%3[ad])"
_STRONG = r"(?:password|passwd|passphrase|pwd|secret|api[_-]?key|private[_-]?key|assertion|credential)\w{0,16}"
_HEADER = r"(?:authorization|cookie)2?"
_WEAK = r"(?:token|jwt)"
_NAMED = rf"(?:{_STRONG}|{_HEADER}|{_WEAK})"

# One capturing group an alternative: what stays. What the alternative matches after it goes.
_SHAPES = re.compile(
    "|".join((
        r"(-----BEGIN [^-\n]{0,40}-----).*?(?=-----END|\Z)",
        # user:password@ of a URL, also with a password that should have been percent-encoded (RFC 3986, 3.2.1)
        r"(://)[^\s/?#]*(?=@)",
        r"(://(?!\[)[^\s/?#@:]{0,64}:)(?!\d{0,5}(?:[/?#\s]|\Z))[^\s@]{1,256}(?=@)",
        # JSON Web Tokens and other base64url objects; SASL messages of XOAUTH2 and OAUTHBEARER
        r"()(?-i:eyJ)[\w-]{8,}(?:\.[\w-]*)*",
        r"()(?-i:dXNlcj1|bixhPX|biws)[A-Za-z0-9+/=]{12,}",
        # "name": "value", 'name': 'value', ('name', 'value'), name="value", also escaped once more
        rf"""({_NAMED}{_QUOTE}?\s*(?:{_EQUALS}|(?<=["']),)\s*\\*")(?:[^"\\]|\\.)*""",
        rf"""({_NAMED}{_QUOTE}?\s*(?:{_EQUALS}|(?<=["']),)\s*\\*')(?:[^'\\]|\\.)*""",
        rf"({_HEADER}{_QUOTE}?\s*{_EQUALS}\s*)[^\r\n]+",
        rf"""({_STRONG}{_QUOTE}?\s*{_EQUALS}\s*(?:%22|%27)?)[^\s&"'<>]+""",
        rf"""({_WEAK}{_QUOTE}?\s*(?:=>?|%3d)\s*(?:%22|%27)?)[^\s&"'<>]+""",
        rf"""({_WEAK}(?:{_QUOTE}\s*(?::|%3a)\s*(?:%22|%27)?))[^\s&"'<>]+""",
        rf"({_WEAK}\s*:\s*)[A-Za-z0-9._~+/=-]{{16,}}",
        r"(\bresp=)\S+",
        r"""((?:^|[?&])code=)[^\s&"'<>]+""",
        # Authorization's credentials wherever they turn up (RFC 7617, RFC 6750); a challenge's words are none
        r"(\b(?:bearer|basic|digest|negotiate)(?:\s|%20)+)(?!(?:token|realm|error|auth\w*)\b)[A-Za-z0-9._~+/=-]+",
    )),
    re.IGNORECASE | re.DOTALL)

# A text without any of these words matches none of the shapes; looking for them is far cheaper.
_HINTS = ("://", "eyj", "token", "pass", "pwd", "secret", "bearer", "basic", "authorization", "cookie", "key",
          "assertion", "credential", "jwt", "resp=", "code=", "-----begin", "digest", "negotiate", "dxnlcj1",
          "bixhpx", "biws")

# Session ids, numbers, host names, addresses with a port: most values are of this kind.
_PLAIN = re.compile(r"[\w.-]*(?::\d{1,5})?|\[[0-9a-f:.]+\]:\d{1,5}", re.ASCII).fullmatch


class Redactor:
    """Takes secrets out of texts. `literals` are secrets known by value, such as a configuration's `client_secret`."""

    __slots__ = ("_literals",)

    def __init__(self, literals: Iterable[str] = ()) -> None:
        known = sorted({text for text in literals if len(text) >= SHORTEST_LITERAL}, key=len, reverse=True)
        self._literals = re.compile("|".join(map(re.escape, known))) if known else None

    def clean(self, text: str, keep: int) -> tuple[str, int]:
        """`text` without its secrets, and how many of its characters were left out at the end.

        Only what stands in the first `keep` characters is shown, `REDACTED` in each secret's place; `keep` is at
        most a quarter of LOOK_AHEAD.
        """
        if len(text) <= 40 and self._literals is None and "eyJ" not in text and _PLAIN(text):
            return text, 0
        head = text
        if len(text) > LOOK_AHEAD:
            # The end that a cut-off URL's password lacks, so that it is known for one.
            head = text[:LOOK_AHEAD] + "@"
        spans: list[tuple[int, int]] = []
        if self._literals is not None:
            spans += [match.span() for match in self._literals.finditer(head)]
        lowered = head.lower()
        for hint in _HINTS:
            if hint in lowered:
                for match in _SHAPES.finditer(head):
                    spans.append((match.end(match.lastindex or 0), match.end()))
                break
        if not spans:
            return (text, 0) if len(text) <= keep else (text[:keep], len(text) - keep)
        return _without(text, sorted(spans), keep)


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

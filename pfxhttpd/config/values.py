"""The forms of single values: durations, header lines, hosts and URLs.

A function named `..._error` returns what is wrong, or None. No message repeats a URL, which may contain a password.
"""

from __future__ import annotations

import ipaddress
import math
import re
from urllib.parse import urlsplit

from pfxhttpd.config.node import Node, shown

_UNITS = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")
_BARE = re.compile(r"[0-9]+(?:\.[0-9]+)?")

EXPECTED = 'a duration such as "500ms", "30s" or "1h30m" (a bare number is seconds)'


def seconds(value: str | int | float) -> float:
    """The duration in seconds. Raises ValueError, with a text for the administrator, when it is none."""
    if isinstance(value, str):
        text = value.strip()
        if _BARE.fullmatch(text):
            total = float(text)
        elif _WHOLE.fullmatch(text):
            total = math.fsum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
        else:
            raise ValueError(f"expected {EXPECTED}")
    else:
        try:
            total = float(value)
        except OverflowError:
            total = math.inf
    if not math.isfinite(total) or total < 0:
        raise ValueError(f"expected {EXPECTED}")
    return total


_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e]*")

OURS = frozenset(
    [
        "connection",
        "content-length",
        "expect",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ]
)
"""Fields that frame a message or belong to one connection: the transport's to set."""


def parse_header(line: str) -> tuple[str, str]:
    """Name and value. Raises ValueError, with a text that does not repeat the value."""
    name, colon, value = line.partition(":")
    name = name.strip(" \t")
    if not colon:
        raise ValueError("expected a header line, `Name: value`, but there is no colon")
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"{shown(name)} is no header name")
    if name.lower() in OURS:
        raise ValueError(f"{name} is not for the configuration to set")
    value = value.strip(" \t")
    if not _VALUE.fullmatch(value):
        raise ValueError(f"the value of {name} must be one line of printable ASCII")
    return name, value


def _name(line: Node) -> str:
    return line.value.partition(":")[0].strip(" \t").lower()


def is_login(line: Node) -> bool:
    """Whether this line is an Authorization header."""
    return _name(line) == "authorization"


def login_lines(entry: Node) -> list[Node]:
    """The Authorization headers among an entry's lines."""
    lines = entry.get("custom_headers")
    return [] if lines is None else [line for line in lines.value if is_login(line)]


def last_of_each(lines: list[Node]) -> list[Node]:
    """Without the lines that a later one of the same name replaces."""
    last = {_name(line): line for line in lines}
    return [line for line in lines if last[_name(line)] is line]


_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,254}}\Z){_LABEL}(?:\.{_LABEL})*\.?")
_NUMERIC = re.compile(r"(?:.*\.)?[0-9]+\.?")
_PLACEHOLDER = re.compile(r"\{\{.*?\}\}")
_UNPRINTABLE = re.compile(r"[^\x21-\x7e]")


def ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The host, with or without brackets, as an address; None when it is a name."""
    try:
        return ipaddress.ip_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
    except ValueError:
        return None


def host_error(host: str) -> str | None:
    """What keeps `host` from being a name or an address (RFC 1123; the underscore is tolerated)."""
    found = ip_address(host)
    if found is not None and not (found.version == 4 and host.startswith("[")):
        return None
    if not host.isascii():
        return "a host name must be ASCII (write an international name in its xn-- form)"
    if not _NAME.fullmatch(host) or _NUMERIC.fullmatch(host):
        return "neither a host name nor an IP address"
    return None


def _fault(url: str) -> str | None:
    scheme, colon, _rest = url.partition("://")
    if not colon or scheme.lower() not in ("http", "https"):
        return "expected a URL that begins with http:// or https://"
    if _UNPRINTABLE.search(url):
        return "a URL must be printable ASCII without blanks (write others as %XX)"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "the URL's host or port is not valid"
    if not host:
        return "the URL has no host"
    if port == 0:
        return "the URL's port must be from 1 to 65535"
    fault = host_error(f"[{host}]" if ":" in host else host)
    return f"the URL's host: {fault}" if fault else None


def target_error(url: str) -> str | None:
    """What keeps `url` from being a target. Placeholders are allowed after the host."""
    authority = re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)[0]
    if "{{" in authority:
        return "a placeholder cannot stand in the URL's host"
    return url_error(_PLACEHOLDER.sub("x", url))


def url_error(url: str) -> str | None:
    """What keeps `url` from being one that we ask: http or https, no user, no fragment."""
    fault = _fault(url)
    if fault:
        return fault
    parts = urlsplit(url)
    if "@" in parts.netloc:
        return "a URL must not hold a user or password (use http_auth_basic)"
    if "#" in url:
        return "a URL with a #fragment cannot be asked"
    return None


def proxy_error(url: str) -> str | None:
    """What keeps `url` from being a proxy: http or https, a user is allowed, a path is not."""
    fault = _fault(url)
    if fault:
        return fault
    parts = urlsplit(url)
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        return "a proxy's URL ends after the port"
    return None

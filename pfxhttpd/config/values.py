"""The syntax of single values: durations, header lines, host names, addresses and URLs.

A function named `..._error` returns what is wrong, or None. No message repeats a URL, which may contain a password.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from pfxhttpd.config.node import describe

_UNITS = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_NUMBER_AND_UNIT = re.compile(rf"({_NUMBER.pattern})(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")
_DURATION = re.compile(rf"(?:{_NUMBER_AND_UNIT.pattern})+")
_EXPECTED_DURATION = 'expected a duration such as "500ms", "30s" or "1h30m" (a bare number is seconds)'

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")

RESERVED_HEADERS = frozenset(
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
"""Header fields that frame a message or belong to one connection. Only the transport sets them."""

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"(?=.{{1,254}}\Z){_LABEL}(?:\.{_LABEL})*\.?")
_NUMERIC_HOST = re.compile(r"(?:.*\.)?[0-9]+\.?")
_PLACEHOLDER = re.compile(r"\{\{.*?\}\}")
_NOT_PRINTABLE_ASCII = re.compile(r"[^\x21-\x7e]")


def seconds(value: str | int | float) -> float:
    """A duration in seconds. Raises ValueError, with a text for the administrator, when the value is not one."""
    if isinstance(value, str):
        text = value.strip()
        if _NUMBER.fullmatch(text):
            total = float(text)
        elif _DURATION.fullmatch(text):
            total = math.fsum(float(number) * _UNITS[unit] for number, unit in _NUMBER_AND_UNIT.findall(text))
        else:
            raise ValueError(_EXPECTED_DURATION)
    else:
        try:
            total = float(value)
        except OverflowError:
            total = math.inf
    if not math.isfinite(total) or total < 0:
        raise ValueError(_EXPECTED_DURATION)
    return total


def parse_header(line: str) -> tuple[str, str]:
    """The name and the value of a header line. Raises ValueError, with a text that does not repeat the value."""
    name, colon, value = line.partition(":")
    name = name.strip(" \t")
    if not colon:
        raise ValueError("expected a header line, `Name: value`, but there is no colon")
    if not _HEADER_NAME.fullmatch(name):
        raise ValueError(f"{describe(name)} is no header name")
    if name.lower() in RESERVED_HEADERS:
        raise ValueError(f"{name} cannot be configured, the HTTP client sets it")
    value = value.strip(" \t")
    if not _HEADER_VALUE.fullmatch(value):
        raise ValueError(f"the value of {name} must be one line of printable ASCII")
    return name, value


def otlp_headers(given: Mapping[str, str] | str) -> tuple[tuple[str, str], ...]:
    """Header fields as a mapping or as a text `name=value,name=value` (OpenTelemetry's "Specifying headers via environment
    variables"). Raises ValueError, with a text that does not repeat a value."""
    if isinstance(given, str):
        pairs = []
        for item in filter(None, (item.strip() for item in given.split(","))):
            name, equals, value = item.partition("=")
            if not equals:
                raise ValueError("expected name=value,name=value, but there is a name without =")
            pairs.append((name, unquote(value.strip())))
    else:
        pairs = list(given.items())
    for name, _ in pairs:
        if ":" in name:
            raise ValueError(f"{describe(name)} is no header name")
    return tuple(parse_header(f"{name}: {value}") for name, value in pairs)


def otlp_url(endpoint: str, insecure: bool) -> str:
    """The URL of a collector that is given as a URL or as host:port; "" is the default of OpenTelemetry."""
    if not endpoint:
        return "http://localhost:4318"
    if "://" in endpoint:
        return endpoint.rstrip("/")
    return f"{'http' if insecure else 'https'}://{endpoint}"


def ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The host, with or without brackets, as an address; None when it is a name."""
    try:
        return ipaddress.ip_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
    except ValueError:
        return None


def host_error(host: str) -> str | None:
    """Why `host` is neither a host name nor an address (RFC 1123 section 2.1; the underscore is tolerated)."""
    address = ip_address(host)
    if address is not None and not (address.version == 4 and host.startswith("[")):
        return None
    if not host.isascii():
        return "a host name must be ASCII (write an international name in its xn-- form)"
    if not _HOST_NAME.fullmatch(host) or _NUMERIC_HOST.fullmatch(host):
        return "neither a host name nor an IP address"
    return None


def target_error(url: str) -> str | None:
    """Why `url` cannot be a target. Placeholders are allowed after the host."""
    authority = re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)[0]
    if "{{" in authority:
        return "a placeholder cannot stand in the URL's host"
    return url_error(_PLACEHOLDER.sub("x", url))


def url_error(url: str) -> str | None:
    """Why `url` cannot be requested: only http and https are, and a user or a fragment is not allowed."""
    error = _http_url_error(url)
    if error:
        return error
    if "@" in urlsplit(url).netloc:
        return "a URL must not hold a user or password (use http_auth_basic)"
    if "#" in url:
        return "a URL must not have a #fragment"
    return None


def proxy_error(url: str) -> str | None:
    """Why `url` cannot be a proxy: only http and https can, and a path is not allowed, but a user is."""
    error = _http_url_error(url)
    if error:
        return error
    parts = urlsplit(url)
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        return "a proxy's URL ends after the port"
    return None


def _http_url_error(url: str) -> str | None:
    scheme, colon, _ = url.partition("://")
    if not colon or scheme.lower() not in ("http", "https"):
        return "expected a URL that begins with http:// or https://"
    if _NOT_PRINTABLE_ASCII.search(url):
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
    in_brackets = parts.netloc.rpartition("@")[2].startswith("[")
    error = host_error(f"[{host}]" if in_brackets else host)
    return f"the URL's host: {error}" if error else None

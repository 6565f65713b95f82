"""Hosts and URLs as a configuration may name them. Each function returns what is wrong, or None; none repeats a URL,
which may hold a password."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,254}}\Z){_LABEL}(?:\.{_LABEL})*\.?")
_NUMERIC = re.compile(r"(?:.*\.)?[0-9]+\.?")
_PLACEHOLDER = re.compile(r"\{\{.*?\}\}")
_UNPRINTABLE = re.compile(r"[^\x21-\x7e]")


def address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The host, with or without brackets, as an address; None when it is a name."""
    try:
        return ipaddress.ip_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
    except ValueError:
        return None


def host_fault(host: str) -> str | None:
    """What keeps `host` from being a name or an address (RFC 1123; the underscore is tolerated)."""
    found = address(host)
    if found is not None and not (found.version == 4 and host.startswith("[")):
        return None
    if not host.isascii():
        return "a host name must be ASCII (write an international name in its xn-- form)"
    if not _NAME.fullmatch(host) or _NUMERIC.fullmatch(host):
        return "neither a host name nor an IP address"
    return None


def _fault(url: str) -> str | None:
    scheme, colon, rest = url.partition("://")
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
    fault = host_fault(f"[{host}]" if ":" in host else host)
    return f"the URL's host: {fault}" if fault else None


def target_fault(url: str) -> str | None:
    """What keeps `url` from being a target. Placeholders are allowed after the host."""
    authority = re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)[0]
    if "{{" in authority:
        return "a placeholder cannot stand in the URL's host"
    return plain_fault(_PLACEHOLDER.sub("x", url))


def plain_fault(url: str) -> str | None:
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


def proxy_fault(url: str) -> str | None:
    """What keeps `url` from being a proxy: http or https, a user is allowed, a path is not."""
    fault = _fault(url)
    if fault:
        return fault
    parts = urlsplit(url)
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        return "a proxy's URL ends after the port"
    return None

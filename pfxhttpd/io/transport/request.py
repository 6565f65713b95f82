"""A prepared request in its wire format (RFC 9112 section 3), rendered once and sent many times."""

from __future__ import annotations

from collections.abc import Mapping

from requests import PreparedRequest, exceptions
from requests.structures import CaseInsensitiveDict
from urllib3.util import parse_url

_FRAMING = ("content-length", "transfer-encoding", "connection")
"""Headers that the transport itself sets; those of the caller are left out."""


class RenderedRequest(PreparedRequest):
    """A prepared request with its head rendered, to be sent many times with different bodies.

    Set `body` for each. After a change of `method`, `url` or `headers`, call `render`. `head` is everything up to
    Content-Length; `origin` is scheme, host (an IPv6 address without its brackets) and port.
    """

    head: bytes = b""
    origin: tuple[str, str, int] = ("", "", 0)

    @classmethod
    def from_request(cls, request: PreparedRequest) -> RenderedRequest:
        made = cls()
        made.__dict__.update(request.__dict__)
        made.render()
        return made

    def render(self) -> None:
        """Raises `requests.exceptions.InvalidHeader` for a line break or NUL in the request line or a header."""
        url = parse_url(self.url or "")
        port = url.port or (443 if url.scheme == "https" else 80)
        self.origin = (url.scheme or "http", (url.host or "").strip("[]"), port)
        self._authority = f"{url.host}:{url.port}" if url.port else url.host or ""
        self.head = self._render_head(self.path_url, {})

    def with_header(self, name: str, value: str) -> RenderedRequest:
        """A copy that has one more header field, or another value of it. Only ASCII without line breaks is allowed."""
        made = RenderedRequest()
        made.__dict__.update(self.__dict__)
        made.headers = CaseInsensitiveDict(self.headers or {})
        if name in made.headers:
            made.headers[name] = value
            made.render()
        else:
            made.headers[name] = value
            made.head = self.head + f"{name}: {value}\r\n".encode("ascii")
        return made

    def proxy_head(self, more: Mapping[str, str]) -> bytes:
        """The head for a proxy, with the whole URL in the request line (RFC 9112 section 3.2.2). `more` are headers."""
        return self._render_head(f"{self.origin[0]}://{self._authority}{self.path_url}", more)

    def _render_head(self, target: str, more: Mapping[str, str]) -> bytes:
        headers = {**(self.headers or {}), **more}
        lines = [f"{self.method} {target} HTTP/1.1"]
        if not any(name.lower() == "host" for name in headers):
            lines.append(f"Host: {self._authority}")
        lines += [f"{_text(name)}: {_text(value)}" for name, value in headers.items() if name.lower() not in _FRAMING]
        head = "\r\n".join([*lines, ""])
        if head.count("\r") != len(lines) or head.count("\n") != len(lines) or "\0" in head:
            raise exceptions.InvalidHeader("a header of the request holds a line break")
        return head.encode("latin-1")


def _text(value: str | bytes) -> str:
    """A header's name or value, one character for each byte to be sent. What is not ASCII is sent as UTF-8."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if value.isascii() else value.encode("utf-8", "surrogateescape").decode("latin-1")

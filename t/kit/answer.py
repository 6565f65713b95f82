"""What the test backend is told to answer, and what it saw: plain values, so that they travel between processes."""

from __future__ import annotations

import dataclasses
import enum
import gzip
import json as json_module
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit


class Unset(enum.Enum):
    """No JSON to send; None would be `null`. An Enum, since its members stay themselves when pickled."""

    UNSET = "unset"


UNSET = Unset.UNSET


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the backend received it. `connection` counts the backend's accepted connections from 1."""

    method: str
    target: str
    version: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    connection: int
    peer: str = ""
    """Common name of the TLS client certificate, or ""."""
    server_name: str = ""
    """The name that the client asked for by SNI, or ""."""

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        """The query's parameters, percent-decoded; of a repeated one the last."""
        pairs = parse_qs(urlsplit(self.target).query, keep_blank_values=True)
        return {name: values[-1] for name, values in pairs.items()}

    def header(self, name: str) -> str | None:
        """The header's value, several joined by ", " in order; None when it was not sent."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        return ", ".join(values) if values else None

    @property
    def content(self) -> bytes:
        """The body with its Content-Encoding undone."""
        return gzip.decompress(self.body) if self.header("content-encoding") == "gzip" else self.body

    def json(self) -> Any:
        return json_module.loads(self.content)

    def fields(self) -> dict[str, Any]:
        """The query's parameters and the members of a JSON object in the body."""
        found: dict[str, Any] = dict(self.query)
        try:
            document = json_module.loads(self.content)
        except (ValueError, OSError):
            return found
        if isinstance(document, dict):
            found.update(document)
        return found


@dataclass(frozen=True, slots=True)
class Answer:
    """One response, or one way not to give one.

    The order of events: wait for `hold` to be released and for `delay` seconds; `interim` responses; the head;
    the body. `drop` closes before a byte is sent, `silent` sends nothing and keeps the connection open until the
    client leaves. `cut` closes after so many bytes of the body. `then` is what follows a whole response.
    """

    status: int = 200
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = ()
    json: Any = UNSET
    body: bytes = b""
    fill: bool = False
    """Strings in `json` are templates: "{key}" becomes the request's field `key`."""
    framing: str = "length"
    """"length" (Content-Length), "chunked", or "close" (the end of the connection ends the body)."""
    chunk: int = 1000
    gzip: bool = False
    interim: Sequence[int] = ()
    raw: bytes | None = None
    """Sent instead of a response, as it is; what `then` says follows."""
    trailing: bytes = b""
    """Sent after the response, on the same connection."""
    trailing_after: float = 0.0
    """Seconds between the response and `trailing`; 0 sends both in one piece."""
    hold: str = ""
    delay: float = 0.0
    trickle: float = 0.0
    """Seconds of pause before each byte that is sent."""
    trickle_from: str = "head"
    """"head": the pause holds from the first byte; "body": the head is sent at once."""
    cut: int | None = None
    drop: bool = False
    silent: bool = False
    then: str = "keep"
    """"keep", "close" (without having said so), "announce" (Connection: close, then close) or "reset" (RST)."""

    def replace(self, **changes: Any) -> Answer:
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True, slots=True)
class Keyed:
    """An answer per value of one field of the request (a JSON member or a query parameter)."""

    table: Mapping[str, Answer]
    otherwise: Answer = Answer(json={"result": None})
    name: str = "key"


@dataclass(frozen=True, slots=True)
class Series:
    """One answer per request, in order; the last one stays."""

    answers: tuple[Answer, ...] = field(default=())


Rule = Answer | Keyed | Series | Callable[[Request], Answer]

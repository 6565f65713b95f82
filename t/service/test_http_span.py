"""What the span of a request to the backend says of its target."""

from __future__ import annotations

import pytest
from requests import Request, Session

from pfxhttpd.config.settings import SOCKET_MAP, Entry
from pfxhttpd.io.transport.request import RenderedRequest
from pfxhttpd.service.backend import http_span


@pytest.mark.parametrize(
    ("target", "path", "place", "url"),
    [
        ("https://api.example", "/", ("api.example", 443), "https://api.example"),
        ("http://api.example:81/v1/map?token=x", "/v1/map", ("api.example", 81), "http://api.example:81/v1/map"),
        ("http://[::1]/v1", "/v1", ("::1", 80), "http://[::1]/v1"),
        ("http://api.example/{{ .Key }}/x?a={{ .Key }}", "/{{ .Key }}/x", ("api.example", 80), None),
        ("http://api.example/x?a={{ .Key }}", "/x", ("api.example", 80), "http://api.example/x"),
        ("http://api.example?a=/b", "/", ("api.example", 80), "http://api.example"),
    ],
)
def test_the_target_without_what_is_secret(target: str, path: str, place: tuple[str, int], url: str | None) -> None:
    entry = Entry(SOCKET_MAP, "m", target, method="GET")
    prepared = Session().prepare_request(Request("GET", target.partition("{{")[0]))
    name, attributes = http_span(entry, RenderedRequest.from_request(prepared))
    assert name == f"GET {path}" and attributes["url.template"] == path
    assert (attributes["server.address"], attributes["server.port"]) == place
    assert attributes.get("url.full") == url

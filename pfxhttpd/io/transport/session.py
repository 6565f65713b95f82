"""A `requests.Session` that has one way out and goes there once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from requests import Response, Session
from requests.adapters import BaseAdapter


class DirectSession(Session):
    """Sends everything by one adapter, follows no redirect whatever its caller says, and neither reads the environment
    nor `~/.netrc`. The stock session looks for the next redirect even when it is not to follow it, and fails on the
    Location of a hostile server (a `ValueError` for "http://["); that, and choosing an adapter, takes it a tenth of a
    lookup's time, too.
    """

    def __init__(self, adapter: BaseAdapter) -> None:
        super().__init__()
        self.trust_env = False
        self._adapter = adapter

    def get_adapter(self, url: str | bytes) -> BaseAdapter:
        return self._adapter

    def resolve_redirects(self, *args: Any, **more: Any) -> Iterator[Response]:
        return iter(())

    def close(self) -> None:
        self._adapter.close()

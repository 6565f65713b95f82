"""Fixtures that load a text."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from pfxhttpd.config.errors import ConfigError
from pfxhttpd.config.load import Loaded, load_text

LISTEN = """\
server:
  listen:
    - {kind: socket_map, name: demo, type: tcp, address: 127.0.0.1, port: 23450}
"""
"""Three lines that a test's own sections can follow."""


@pytest.fixture
def accepted() -> Callable[..., Loaded]:
    """Loads a text that must be valid. One without a `server` gets `LISTEN`."""

    def load(text: str, format: str = "yaml", environ: Mapping[str, str] | None = None, file: str = "/x/f") -> Loaded:
        if format == "yaml" and not text.startswith("server"):
            text = LISTEN + text
        return load_text(text, file, format, environ or {})

    return load


@pytest.fixture
def refused() -> Callable[..., list[str]]:
    """Loads a text that must not be valid. Returns the problems as lines without the file's name (f)."""

    def load(text: str, format: str = "yaml", environ: Mapping[str, str] | None = None, file: str = "f") -> list[str]:
        if format == "yaml" and not text.startswith("server"):
            text = LISTEN + text
        with pytest.raises(ConfigError) as caught:
            load_text(text, file, format, environ or {})
        return [str(problem).removeprefix("f:") for problem in caught.value.problems]

    return load

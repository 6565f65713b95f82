"""What several tests of `io` need: a cache process with a client, and a directory that can be a chroot."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.cache_process import KEY, CacheProcess

from pfxhttpd.io import jail
from pfxhttpd.io.cache import client
from pfxhttpd.io.cache.client import CacheClient


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[CacheProcess]:
    with CacheProcess(tmp_path / "cache") as started:
        yield started


@pytest.fixture
def caller(cache: CacheProcess) -> Iterator[CacheClient]:
    made = CacheClient(cache.directory, KEY)
    yield made
    made.close()


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that are not about time: a machine that is busy otherwise changes nothing."""
    for limit in ("CALL_TIMEOUT", "PUT_TIMEOUT"):
        monkeypatch.setattr(client, limit, 5.0)


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory that can be a chroot for any user."""
    directory = Path(tempfile.mkdtemp(dir="/tmp"))
    directory.chmod(0o755)
    (directory / "etc").mkdir()
    for name in jail.identity.JAIL_FILES:
        (directory / name).write_text("")
    yield directory
    shutil.rmtree(directory)

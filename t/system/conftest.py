"""What the system tests share: a backend per module, and the promise that no input ends a worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kit.backend import Backend
from kit.site import Site


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    with Backend() as started:
        yield started


@pytest.fixture
def same_workers(site: Site) -> Iterator[None]:
    """The workers after the test are the processes that they were before it, and the log holds no traceback."""
    before = site.daemon.workers()
    assert before, f"no worker among {site.daemon.children()}"
    yield
    site.daemon.check_log()
    assert site.daemon.workers() == before

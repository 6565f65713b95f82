"""What the system tests share: backends, servers, and the promise that no input ends a worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from kit.backend import Backend
from kit.daemon import Daemon
from kit.needs import needs
from kit.nginx import Nginx
from kit.site import Site

_failed = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.failed:
        item.stash[_failed] = True
    return report


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    with Backend() as started:
        yield started


@pytest.fixture(scope="session")
def nginx() -> Iterator[Nginx]:
    needs("nginx")
    with Nginx() as started:
        yield started


class Serve:
    """`serve(config)` starts a daemon; after a test that passed, each still running has to stop as it should."""

    def __init__(self) -> None:
        self.daemons: list[Daemon] = []

    def __call__(self, config: Mapping[str, Any] | str, **more: Any) -> Daemon:
        self.daemons.append(Daemon(config, **more))
        return self.daemons[-1]


@pytest.fixture
def serve(request: pytest.FixtureRequest) -> Iterator[Serve]:
    started = Serve()
    try:
        yield started
        if not request.node.stash.get(_failed, False):
            for daemon in started.daemons:
                daemon.stop()
    finally:
        for daemon in started.daemons:
            daemon.destroy()


@pytest.fixture
def same_workers(site: Site) -> Iterator[None]:
    """The workers after the test are the processes that they were before it, and the log holds no traceback."""
    before = site.daemon.workers()
    assert before, f"no worker among {site.daemon.children()}"
    yield
    site.daemon.check_log()
    assert site.daemon.workers() == before

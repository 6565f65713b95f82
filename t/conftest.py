"""Puts the package and the test equipment (`kit`) on the path, whatever directory pytest was started in.

Also: a failing test shows the logs of the daemons it used; tests marked `alone` run last and with nothing beside them;
and a run that is ended by TERM, as by a cancelled CI job, tears its fixtures down like one that is interrupted from the
keyboard. Both signals are handled explicitly, since a shell's background command starts with INT ignored.
"""

from __future__ import annotations

import contextlib
import os
import posix
import signal
import socket
import sys
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

HERE = Path(__file__).resolve().parent
for directory in (HERE, HERE.parent):
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))

from kit.daemon import EXECUTE, Daemon  # noqa: E402
from kit.examples import examples  # noqa: E402  found on the path that was set just now
from kit.exclusive import TestLock  # noqa: E402

LOG_TAIL = 200

COVERAGE = "COVERAGE_PROCESS_CONFIG"
"""The variable by which coverage measures the programs that a process starts; set when pytest runs with --cov."""

MEASURED = ("test_metrics", "test_otlp_metrics", "test_signals")
"""The system tests whose servers are measured. Measuring nearly doubles a server's processor time, and these tests
execute most of what the unit tests do not. The others go without, so what is reported is a lower bound."""

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("pfxhttpd", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("pfxhttpd")

_lock = TestLock(HERE / "kit" / "exclusive.py")


def pytest_configure() -> None:
    # On a busy machine an example may take many times as long as the first time, which is no failure.
    most = examples(hypothesis.settings.default.max_examples)
    hypothesis.settings.register_profile("busy-machine", deadline=None, max_examples=most)
    hypothesis.settings.load_profile("busy-machine")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    # With --reruns, a process asks another one about each test (pytest-rerunfailures). Of two small messages in a row, the
    # second would wait 40 ms for the acknowledgement of the first.
    if isinstance(sock := getattr(getattr(session.config, "failures_db", None), "sock", None), socket.socket):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _runs_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


def _order(item: pytest.Item) -> tuple[bool, bool, bool]:
    """Files are given to the processes in this order: those first that wait most, then those that load the machine, which
    few others have to bear by then, and those last that end soon, so that no process is idle for long in the end."""
    return _runs_alone(item), "system" not in item.path.parts, item.get_closest_marker("load") is not None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_order)
    # What a test forks is not measured: to write the data of a process takes a second. By now coverage has been started,
    # which patches os._exit to do that.
    os._exit = posix._exit


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Waits until the test may run. First of its kind, so that no time limit counts the wait."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_lock.exclusive() if _runs_alone(item) else _lock.shared())
        if not _is_measured(item):
            stack.enter_context(_without_coverage())
        if not _children_are_measured(item):
            stack.enter_context(pytest.MonkeyPatch.context()).delenv(COVERAGE, raising=False)
        if COVERAGE in os.environ or item.get_closest_marker("executed"):
            # Coverage is started with the interpreter.
            stack.enter_context(pytest.MonkeyPatch.context()).setenv(EXECUTE, "yes")
        return (yield)


def _is_unit_test(item: pytest.Item) -> bool:
    """Whether it is none of the tests of the system, the documents and the tools."""
    return "system" not in item.path.parts and item.path.parent != HERE


def _is_measured(item: pytest.Item) -> bool:
    """Whether coverage measures the test itself. Property tests take long and execute what other tests execute."""
    return _is_unit_test(item) and "fuzz" not in item.path.parts and item.path.stem != "test_properties"


def _children_are_measured(item: pytest.Item) -> bool:
    """Whether coverage measures the programs that the test starts. Servers under load, which nginx answers, are not."""
    if item.get_closest_marker("unmeasured"):
        return False
    return _is_unit_test(item) or (item.path.stem in MEASURED and "nginx" not in getattr(item, "fixturenames", ()))


@contextlib.contextmanager
def _without_coverage() -> Iterator[None]:
    # Not by stopping and starting coverage: each start patches os._exit once more, so that a forked child would write its
    # data as often as there were starts.
    trace, trace_of_threads = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)
    try:
        yield
    finally:
        sys.settrace(trace)
        threading.settrace(trace_of_threads)


def _daemons(value: Any, depth: int = 2) -> Iterator[Any]:
    """The `kit.daemon.Daemon`s in a fixture's value: itself, or the members of a tuple or of a small object."""
    if isinstance(value, Daemon):
        yield value
    elif depth:
        members = (
            value if isinstance(value, (tuple, list)) else vars(value).values() if hasattr(value, "__dict__") else ()
        )
        for member in members:
            yield from _daemons(member, depth - 1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.failed and "system" in item.path.parts:
        for name, value in getattr(item, "funcargs", {}).items():
            for daemon in _daemons(value):
                report.sections.append((f"log of {name}", "\n".join(daemon.log.lines()[-LOG_TAIL:])))
    return report

"""Puts the package and the test equipment (`kit`) on the path, whatever directory pytest was started in.

Also: a failing test shows the logs of the daemons it used, and a run that is told to end (TERM, as by a cancelled
CI job) tears its fixtures down like one that is interrupted from the keyboard. Both are asked for by name, since a
shell's background command starts with INT ignored.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
for place in (HERE, HERE.parent):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))

LOG_TAIL = 200


def pytest_configure() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)


def _daemons(value: Any, depth: int = 2) -> Iterator[Any]:
    """The `kit.daemon.Daemon`s in a fixture's value: itself, or the members of a tuple or of a small object."""
    from kit.daemon import Daemon

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

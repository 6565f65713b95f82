"""An exclusive test has the machine for itself, and is not kept waiting by shared ones that come later."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from kit.exclusive import TestLock


@pytest.fixture
def lock(tmp_path: Path) -> Callable[[], TestLock]:
    """Makes the lock of one more process: flock(2) tells open files apart, not processes."""
    paths = tmp_path / "queue", tmp_path / "running"
    for path in paths:
        path.touch()
    return lambda: TestLock(*paths)


class Waiter:
    """A thread that enters and leaves; `entered` is set in between."""

    def __init__(self, context: AbstractContextManager[None]) -> None:
        self._context = context
        self.entered = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self._context:
            self.entered.set()

    def join(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()


def test_shared_ones_run_side_by_side(lock: Callable[[], TestLock]) -> None:
    with lock().shared(), lock().shared():
        pass


def test_an_exclusive_one_waits_for_those_that_run_and_keeps_later_ones_out(lock: Callable[[], TestLock]) -> None:
    with lock().shared():
        exclusive = Waiter(lock().exclusive())
        assert not exclusive.entered.wait(0.2)
        later = Waiter(lock().shared())
        assert not later.entered.wait(0.2)
    exclusive.join()
    later.join()


def test_nothing_runs_beside_an_exclusive_one(lock: Callable[[], TestLock]) -> None:
    with lock().exclusive():
        others = [Waiter(lock().shared()), Waiter(lock().exclusive())]
        assert not any(each.entered.wait(0.1) for each in others)
    for each in others:
        each.join()

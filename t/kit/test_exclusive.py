"""An exclusive test has the machine for itself, and keeps nobody waiting while it waits for it."""

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
    path = tmp_path / "running"
    path.touch()
    return lambda: TestLock(path)


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


def test_an_exclusive_one_waits_for_those_that_run_and_lets_later_ones_pass(lock: Callable[[], TestLock]) -> None:
    with lock().shared():
        exclusive = Waiter(lock().exclusive())
        assert not exclusive.entered.wait(0.2)
        later = Waiter(lock().shared())
        later.join()
        assert not exclusive.entered.is_set()
    exclusive.join()


def test_nothing_runs_beside_an_exclusive_one(lock: Callable[[], TestLock]) -> None:
    with lock().exclusive():
        others = [Waiter(lock().shared()), Waiter(lock().exclusive())]
        assert not any(each.entered.wait(0.1) for each in others)
    for each in others:
        each.join()

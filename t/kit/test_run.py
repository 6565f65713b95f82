"""t/run and .ci/run: the second is nothing but the first, and what is missing fails where it has to."""

from __future__ import annotations

import os

import pytest

from kit.daemon import TREE
from kit.needs import needs


def test_ci_runs_the_tests_and_nothing_else() -> None:
    lines = [line for line in (TREE / ".ci" / "run").read_text().splitlines() if line and not line.startswith("#")]
    assert lines == ['exec "$(dirname "$0")/../t/run"']


def test_what_is_missing_fails_where_it_must_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.delenv("PFXHTTPD_TEST_QUICK", raising=False)
    with pytest.raises(pytest.fail.Exception, match="missing here: no-such-program, exim"):
        monkeypatch.delenv("PFXHTTPD_TEST_EXIM", raising=False)
        needs("python3", "no-such-program", "exim")
    monkeypatch.delenv("CI")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(pytest.skip.Exception, match="missing here: no-such-program"):
        needs("no-such-program")


def test_a_quick_run_passes_over_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("PFXHTTPD_TEST_QUICK", "yes")
    with pytest.raises(pytest.skip.Exception, match="missing here: no-such-program"):
        needs("no-such-program")

"""t/run and .ci/run: free of what shellcheck knows to be mistakes, and the second nothing but the first."""

from __future__ import annotations

import os
import subprocess

import pytest

from kit.daemon import TREE
from kit.needs import needs

SCRIPTS = (TREE / "t" / "run", TREE / ".ci" / "run")


@pytest.mark.parametrize("script", SCRIPTS, ids=[str(path.relative_to(TREE)) for path in SCRIPTS])
def test_scripts_are_clean(script):
    needs("shellcheck")
    assert os.access(script, os.X_OK)
    checked = subprocess.run(["shellcheck", str(script)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_ci_runs_the_tests_and_nothing_else():
    lines = [line for line in SCRIPTS[1].read_text().splitlines() if line and not line.startswith("#")]
    assert lines == ['exec "$(dirname "$0")/../t/run"']


def test_what_is_missing_fails_where_it_must_be(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="missing here: no-such-program, exim"):
        monkeypatch.delenv("PFXHTTPD_TEST_EXIM", raising=False)
        needs("python3", "no-such-program", "exim")
    monkeypatch.delenv("CI")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(pytest.skip.Exception, match="missing here: no-such-program"):
        needs("no-such-program")

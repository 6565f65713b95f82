"""Nothing that the server does after its descent asks for a file that the jail lacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kit.needs import needs

pytestmark = pytest.mark.unmeasured

ROOT = Path(__file__).resolve().parents[2]
EXERCISES = Path(__file__).with_name("preload_exercises.py")
HOSTS = "127.0.0.1 localhost xn--bcher-kva.jail.test\n"
"""The jail's etc/hosts, with the name that the exercises look up."""


def run_jailed(root: str) -> dict[str, object]:
    """What the exercises found, in a fresh interpreter."""
    environ = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", str(EXERCISES), root],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return json.loads(done.stdout)


def test_after_preload_no_module_turns_up_late() -> None:
    assert run_jailed("-") == {"failed": {}, "late": []}


def test_everything_works_in_a_jail_with_three_files(tmp_path: Path) -> None:
    needs("root")
    tmp_path.chmod(0o755)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hosts").write_text(HOSTS)
    (tmp_path / "etc/nsswitch.conf").write_text("hosts: files dns\n")
    (tmp_path / "etc/resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    (tmp_path / "tmp").mkdir()  # for the manager's socket: the server's runtime directory
    os.chown(tmp_path / "tmp", 65534, 65534)
    assert run_jailed(str(tmp_path)) == {"failed": {}, "late": []}

"""What a test needs of the machine: programs, root, IPv6. Whether a lack fails or skips is decided here alone.

As root on Debian, where `t/run` installs everything, and under CI, a lack is a failure: a suite that skipped what
it could not find would say nothing. Elsewhere, and under `t/run --quick`, which installs no Debian package, the test
is skipped, and pytest's summary names the reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kit import ports

DIRECTORIES = ("/usr/local/sbin", "/usr/sbin", "/sbin", str(Path(sys.executable).parent))
"""Administrators' programs, which are on no user's PATH, and those of the virtual environment."""


def strict() -> bool:
    """Whether a missing component is a failure."""
    if os.environ.get("PFXHTTPD_TEST_QUICK"):
        return False
    return bool(os.environ.get("CI")) or (os.geteuid() == 0 and Path("/etc/debian_version").exists())


def program(name: str) -> str | None:
    """The path of a program, searched for on PATH and in DIRECTORIES; None when it is not there."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *DIRECTORIES]))


def node_modules() -> Path:
    """The directory of the Node packages that `t/run` installs; without it, where `npm ci` in t/kit/oidc puts them."""
    return Path(os.environ.get("PFXHTTPD_TEST_NODE_MODULES") or Path(__file__).parent / "oidc/node_modules")


NODE_VERSION = (20, 12)
"""The first that oidc-provider 9 runs on; Debian 13 has a later one, Debian 12 an earlier one."""


def _node_version() -> tuple[int, ...]:
    node = program("node")
    if node is None:
        return ()
    version = subprocess.run([node, "--version"], capture_output=True, text=True).stdout
    return tuple(map(int, version.strip().removeprefix("v").split(".")))


def _php_has_sqlite() -> bool:
    php = program("php")
    return (
        php is not None and "pdo_sqlite" in subprocess.run([php, "-m"], capture_output=True, text=True).stdout.split()
    )


def _has(what: str) -> bool:
    if what == "root":
        return os.geteuid() == 0
    if what == "ipv6":
        return ports.has_ipv6()
    if what == "exim":
        path = os.environ.get("PFXHTTPD_TEST_EXIM", "")
        return bool(path) and os.access(path, os.X_OK)
    if what == "oidc-provider":
        return (node_modules() / what).is_dir() and _node_version() >= NODE_VERSION
    if what == "php":
        return _php_has_sqlite()
    return program(what) is not None


def needs(*components: str) -> None:
    """Fails or skips the test unless every component is there: "root", "ipv6", "exim", "oidc-provider", "php" or a program's name."""
    missing = [what for what in components if not _has(what)]
    if not missing:
        return
    more = {"oidc-provider": " (on Node.js 20.12 or later)", "php": " (with pdo_sqlite)"}
    missing = [what + more.get(what, "") for what in missing]
    message = f"missing here: {', '.join(missing)} (t/run as root on Debian installs what tests need)"
    if strict():
        pytest.fail(message, pytrace=False)
    pytest.skip(message)

"""Directories that another user than root can reach, unlike pytest's own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534


@contextmanager
def reachable() -> Iterator[Path]:
    """A new directory of root's in /tmp that everybody can enter; removed at the end."""
    directory = Path(tempfile.mkdtemp(dir="/tmp", prefix="pfxhttpd-test-"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)

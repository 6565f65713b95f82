"""Which backend serves a scene."""

from __future__ import annotations

from pathlib import Path

from .nginx import Nginx, find_nginx
from .server import ScriptServer


def fixed_backend(directory: Path) -> Nginx | ScriptServer:
    """A plain HTTP backend with a fixed answer: nginx where it is installed, else backend.py."""
    return Nginx(directory) if find_nginx() else script_backend(directory)


def script_backend(directory: Path, *, delay: float = 0.0, echo: bool = False) -> ScriptServer:
    """backend.py: it answers after `delay` seconds; with `echo` its answer contains the key."""
    return ScriptServer(directory, "backend.py", delay, "echo" if echo else "fixed")

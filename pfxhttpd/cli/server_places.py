"""The runtime directories in which a running server may be found."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pfxhttpd.cli import CommandError, UsageError
from pfxhttpd.config.node import Node
from pfxhttpd.io import control

SERVICE_USERS = ("pfxhttp", "pfxhttpd")
"""The names that packages give the user of the service."""

_TITLE = "pfxhttpd: master "
_LISTENING = 0x10000
"""The flag __SO_ACCEPTCON in /proc/net/unix."""


@dataclass(frozen=True, slots=True)
class Place:
    """A runtime directory. `user` may own it besides root and our own user; `pid` is that of the server, 0 if unknown."""

    directory: str
    user: int | None = None
    pid: int = 0


def named(path: str) -> list[Place]:
    """The places that `--control` stands for: a runtime directory, a control socket, or the places of a pid file.

    Raises `CommandError`.
    """
    try:
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode):
            return _of_pid_file(path)
    except FileNotFoundError:
        return [Place(os.path.dirname(path) if path.endswith(".sock") else path)]
    except OSError as error:
        raise CommandError(f"--control {path}: {error.strerror}", os.EX_NOPERM) from None
    directory = path if stat.S_ISDIR(status.st_mode) else os.path.dirname(os.path.abspath(path))
    return [Place(directory, os.stat(directory).st_uid)]


def _of_pid_file(path: str) -> list[Place]:
    try:
        with open(path, "rb") as file:
            text = file.read(32).strip()
    except OSError as error:
        raise CommandError(f"--control {path}: {error.strerror}", os.EX_NOPERM) from None
    if not text.isdigit():
        raise UsageError(f"--control {path}: expected a runtime directory, a control socket or a pid file")
    return [Place(directory, pid=int(text)) for directory in _listening(text.decode())]


def configured(root: Node | None, environ: Mapping[str, str]) -> list[Place]:
    """The runtime directory of a server that starts with this configuration and environment."""
    written = root.scalar("server", "runtime_directory") if root else None
    named = written if isinstance(written, str) else environ.get("PFXHTTP_SERVER_RUNTIME_DIRECTORY", "")
    return [Place(control.directory(named, environ))]


def usual(root: Node | None, environ: Mapping[str, str]) -> Iterator[Place]:
    """Where a server may be that another environment or another user has started."""
    yield from configured(None, environ)
    yield Place(control.directory("", environ))
    yield Place(control.SYSTEM_DIRECTORY)
    user = os.geteuid()
    yield from map(Place, control.private_directories(user))
    if user == 0:
        for service in _service_users(root):
            for directory in control.private_directories(service):
                yield Place(directory, service)


def _service_users(root: Node | None) -> Iterator[int]:
    written = root.scalar("server", "run_as_user") if root else None
    for name in (written, *SERVICE_USERS):
        if isinstance(name, str) and name:
            try:
                yield pwd.getpwnam(name).pw_uid
            except KeyError:
                continue


def of_processes(configuration: str) -> Iterator[Place]:
    """The places of the running masters whose title names this configuration file (an absolute path)."""
    for entry in os.listdir("/proc"):
        if entry.isdigit() and _title(entry) == _TITLE + configuration:
            for directory in _listening(entry):
                yield Place(directory, pid=int(entry))


def _title(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return os.fsdecode(file.read().rstrip(b"\0"))
    except OSError:
        return ""


def _listening(pid: str) -> list[str]:
    """The directories of the control sockets on which the process may listen (proc_net(5)).

    Only root and the process's own user see which sockets it has; for others these are all control sockets.
    """
    try:
        with open("/proc/net/unix", "rb") as file:
            lines = file.read().splitlines()[1:]
    except OSError:
        return []
    own = _sockets(pid)
    directories = []
    for line in lines:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and int(fields[3], 16) & _LISTENING and (own is None or fields[6] in own):
            directory, name = os.path.split(os.fsdecode(fields[7]))
            if name == control.SOCKET and directory.startswith("/"):
                directories.append(directory)
    return directories


def _sockets(pid: str) -> set[bytes] | None:
    """The inode numbers of the sockets that the process has open, None if they cannot be seen."""
    directory = f"/proc/{pid}/fd"
    found = set()
    try:
        for name in os.listdir(directory):
            kind, _, inode = os.readlink(os.path.join(directory, name)).partition(":")
            if kind == "socket":
                found.add(inode.strip("[]").encode())
    except OSError:
        return None
    return found

"""The control socket, by which `status`, `reload`, `stop` and `cache` find the running server and send it requests.

A request is one line of JSON, and so is its reply. The socket's mode lets only its owner and root connect. The peer's user
id is checked as well (unix(7), SO_PEERCRED), for systems that ignore a socket's mode.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import struct
from collections.abc import Mapping
from typing import Any

from pfxhttpd.io import SetupError

SYSTEM_DIRECTORY = "/run/pfxhttp"
SOCKET = "control.sock"
MAX_REQUEST = 4096
"""Bytes of a request."""

_CREDENTIALS = struct.Struct("3i")


class ControlError(Exception):
    """No server can be reached, or a message is not a request or a reply. The text is one line."""


def directory(configured: str, environ: Mapping[str, str]) -> str:
    """The runtime directory: as configured, else $RUNTIME_DIRECTORY, else /run/pfxhttp for root, else one of the user's
    own."""
    named = configured or environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if named:
        return named
    if os.geteuid() == 0 or os.access(SYSTEM_DIRECTORY, os.W_OK):
        return SYSTEM_DIRECTORY
    return os.path.join(environ.get("XDG_RUNTIME_DIR") or "/tmp", f"pfxhttp-{os.geteuid()}")


def make_directory(where: str, owner: tuple[int, int] | None = None) -> None:
    """Make the runtime directory (mode 0700) if it is not there; it then belongs to `owner` (user and group id).

    Raises `SetupError`, also when what is there belongs to somebody else.
    """
    try:
        if not os.path.isdir(where):
            os.makedirs(os.path.dirname(where), mode=0o755, exist_ok=True)
            os.mkdir(where, mode=0o700)
            if owner:
                os.chown(where, *owner)
        if os.stat(where).st_uid not in (0, os.geteuid(), *(owner or ())[:1]):
            raise SetupError(f"runtime directory {where}: belongs to somebody else")
    except OSError as error:
        raise SetupError(
            f"runtime directory {where}: {error.strerror or error}", error.errno == errno.EACCES
        ) from error


def bind(where: str, owner: tuple[int, int] | None = None) -> socket.socket:
    """The listening control socket in the directory `where`; it belongs to `owner`.

    Raises `SetupError`, also when a server answers there already.
    """
    path = os.path.join(where, SOCKET)
    try:
        if os.path.lexists(path):
            _remove_stale(path)
        control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            control.bind(path)
        finally:
            os.umask(mask)
        if owner:
            os.chown(path, *owner)
        control.listen(16)
        control.setblocking(False)
        return control
    except OSError as error:
        raise SetupError(f"control socket {path}: {error.strerror or error}", error.errno == errno.EACCES) from error


def _remove_stale(path: str) -> None:
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise SetupError(f"control socket {path}: there is another file at that path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            os.unlink(path)
            return
    raise SetupError(f"a server is running already: it answers on {path}")


def remove(where: str) -> None:
    """Remove the socket's file, if possible."""
    try:
        os.unlink(os.path.join(where, SOCKET))
    except OSError:
        pass  # outside the chroot, or in a directory of root's; the next start removes the stale file


def allowed(connection: socket.socket, owner: int) -> bool:
    """Whether the connection's peer is root or the user `owner`."""
    _, user, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return user in (0, owner)


def parse(line: bytes) -> dict[str, Any]:
    """Decode a request. Raises `ControlError` when it is none."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict):
        raise ControlError("a request is one line with a JSON object")
    return request


def encode(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def ask(where: str, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """Send a request to the server whose runtime directory is `where` and return its reply.

    `timeout` is in seconds. Raises `ControlError`.
    """
    path = os.path.join(where, SOCKET)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(path)
            connection.sendall(encode(request))
            with connection.makefile("rb") as answer:
                return parse(answer.readline())
    except TimeoutError as error:
        raise ControlError(f"the server on {path} did not answer within {timeout:g} s") from error
    except OSError as error:
        raise ControlError(f"no server answers on {path}: {error.strerror or error}") from error

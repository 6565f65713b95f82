"""The control socket, by which `status`, `reload`, `stop` and `cache` find the running server and send it requests.

A request is one line of JSON, and so is its reply. The socket's mode lets only its owner and root connect. The peer's user
id is checked as well (unix(7), SO_PEERCRED), for systems that ignore a socket's mode.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import struct
from collections.abc import Mapping
from typing import Any

from pfxhttpd.io import SetupError
from pfxhttpd.io.directory import Directory, Owner, acting_as, check, make

SYSTEM_DIRECTORY = "/run/pfxhttp"
SOCKET = "control.sock"
MAX_REQUEST = 4096
"""Bytes of a request."""

_CREDENTIALS = struct.Struct("3i")


class ControlError(Exception):
    """No server can be reached, or a message is not a request or a reply. The text is one line.

    `permission` is true if there may be a server and the operating system did not let us connect to it.
    """

    def __init__(self, text: str, permission: bool = False) -> None:
        super().__init__(text)
        self.permission = permission


def directory(configured: str, environ: Mapping[str, str]) -> str:
    """The runtime directory: as configured, else $RUNTIME_DIRECTORY, else /run/pfxhttp for root, else one of the user's
    own."""
    named = configured or environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if named:
        return named
    if os.geteuid() == 0 or os.access(SYSTEM_DIRECTORY, os.W_OK):
        return SYSTEM_DIRECTORY
    return _private_directory(environ.get("XDG_RUNTIME_DIR") or "/tmp", os.geteuid())


def private_directories(user: int) -> list[str]:
    """Where the runtime directory of a server may be that this user started without naming one (see `directory`)."""
    return [_private_directory(parent, user) for parent in (f"/run/user/{user}", "/tmp")]


def _private_directory(parent: str, user: int) -> str:
    return os.path.join(parent, f"pfxhttp-{user}")


def make_directory(path: str, owner: Owner | None = None, made: list[str] | None = None) -> None:
    """Make the runtime directory (mode 0700) if it does not exist. It then belongs to `owner`. What is made is added to
    `made`.

    Raises `SetupError`, also when the directory belongs to another user.
    """
    make("runtime directory", path, owner, made)
    try:
        with Directory(path) as runtime:
            if owner and owner[0] and runtime.exclusive and runtime.status.st_uid == 0:
                _take_over(runtime, owner)
    except OSError as error:
        raise _setup_error("runtime directory", path, error) from error


def check_directory(path: str, owner: Owner | None = None) -> None:
    """Raise the `SetupError` that `make_directory` would raise, as far as it can be seen without making anything."""
    check("runtime directory", path, owner)


def _take_over(runtime: Directory, owner: Owner) -> None:
    """Give a directory that an earlier run as root has left behind to the service user, who could not enter it.

    That is one of root's with mode 0700 in which there is nothing but sockets on which no process listens.
    """
    if stat.S_IMODE(runtime.status.st_mode) != 0o700:
        return
    _remove_stale(runtime)
    if runtime.remove_dead_sockets():
        runtime.give(owner)


def bind(path: str, owner: Owner | None = None) -> socket.socket:
    """The listening control socket in the runtime directory; it belongs to `owner`.

    Raises `SetupError`, also when a server listens there already.
    """
    try:
        with Directory(path) as runtime:
            # Root acts in a directory of its own only; elsewhere the service user could replace what root makes.
            as_root = runtime.exclusive
            with acting_as(None if as_root else owner):
                _remove_stale(runtime)
                control = _bind(runtime)
                if as_root and owner and owner[0] != os.geteuid():
                    runtime.give_socket(SOCKET, owner)
                control.listen(16)
            control.setblocking(False)
            return control
    except OSError as error:
        raise _setup_error("control socket", os.path.join(path, SOCKET), error) from error


def _bind(runtime: Directory) -> socket.socket:
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o177)
    try:
        runtime.bind(control, SOCKET)
    except OSError:
        control.close()
        raise
    finally:
        os.umask(umask)
    return control


def _remove_stale(runtime: Directory) -> None:
    """Remove the socket of a server that is gone. Raises `SetupError` if a server listens, `OSError`."""
    path = os.path.join(runtime.path, SOCKET)
    try:
        if not stat.S_ISSOCK(runtime.stat(SOCKET).st_mode):
            raise SetupError(f"control socket {path}: there is another file at that path")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            runtime.unlink(SOCKET)
            return
    raise SetupError(f"a server is running already: it answers on {path}")


def _setup_error(what: str, path: str, error: OSError) -> SetupError:
    return SetupError(f"{what} {path}: {error.strerror or error}", isinstance(error, PermissionError))


def remove(path: str) -> None:
    """Remove the socket's file, if possible."""
    try:
        with Directory(path) as runtime:
            runtime.unlink(SOCKET)
    except OSError:
        pass  # outside the chroot, or in a directory of root's; the next start removes the stale file


def allowed(connection: socket.socket, owner: int) -> bool:
    """Whether the connection's peer is root or the user `owner`."""
    return _peer_user(connection) in (0, owner)


def _peer_user(connection: socket.socket) -> int:
    _, user, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(user)


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


def ask(path: str, request: Mapping[str, Any], timeout: float, user: int | None = None) -> dict[str, Any]:
    """Send a request to the server whose runtime directory is `path` and return its reply.

    `timeout` is in seconds. Raises `ControlError`, also when another user than `user` may have made the directory or the
    socket: what such a server replies would be no more than that user's text.
    """
    name = os.path.join(path, SOCKET)
    try:
        with Directory(path) as runtime:
            server = runtime.status.st_uid
            if server not in (0, os.geteuid(), user) and not runtime.protected:
                raise ControlError(f"no server asked: any user could have made {path}, and it belongs to user {server}")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(name)
            user = _peer_user(connection)
            if user not in (0, os.geteuid(), server):
                raise ControlError(f"no server asked: a process of user {user} listens on {name}")
            connection.sendall(encode(request))
            with connection.makefile("rb") as answer:
                return parse(answer.readline())
    except TimeoutError as error:
        raise ControlError(f"the server on {name} did not answer within {timeout:g} s") from error
    except PermissionError as error:
        text = f"permission denied for {name}: root and the user that the server runs as may use it"
        raise ControlError(text, permission=True) from error
    except OSError as error:
        raise ControlError(f"no server answers on {name}: {error.strerror or error}") from error

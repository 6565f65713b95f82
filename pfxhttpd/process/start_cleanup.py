"""What a start that fails has to remove: the files and directories that it has made.

After the chroot and the drop of privileges, the server cannot reach or remove them any more, and to keep a directory open
would leave a way out of the chroot. So a helper process is forked before: it stays outside, with root's rights, and waits.
It removes the files if the start fails, and exits when the server serves. It holds no request and reads nothing but the
outcome. If the master is killed meanwhile, the helper does nothing: the next start replaces what is left.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress

from setproctitle import setproctitle

from pfxhttpd.io import directory, jail
from pfxhttpd.io.cache import directory as cache_directory
from pfxhttpd.process.child import Child, fork

HELPER_TIMEOUT = 5.0
"""Seconds that the helper may take to remove everything or to exit."""


class StartCleanup:
    """`made` are the directories that the start has made, and `made_inside` those of the cache: inside the chroot, if there
    is one. Each follows the one that contains it; `io.directory.make` adds to such a list."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.made_inside: list[str] = []
        self._files: list[Callable[[], object]] = []
        self._helper: Child | None = None

    def add(self, remove: Callable[[], object]) -> None:
        """Have `remove` called, before those that were added earlier, when the start has failed."""
        self._files.insert(0, remove)

    def fork_helper(self, chroot: str, cache: str, on_error: Callable[[str], None]) -> None:
        """To be called before this process enters `chroot`, "" for none, and drops its privileges; `cache` is the path that
        the cache's directory will have inside. `on_error` gets the place of a defect. Raises `OSError`."""

        def wait(channel: socket.socket) -> None:
            setproctitle("pfxhttpd: start")
            channel.setblocking(True)
            message = channel.recv(1)
            if message:
                self._remove(chroot, _last_directories(cache, message[0]))

        self._helper = fork("start", wait, lambda: (), on_error, lambda: None)

    def sockets(self) -> list[socket.socket]:
        """The connection to the helper, which no other child may keep."""
        return [self._helper.channel] if self._helper else []

    def served(self) -> None:
        """The server serves, and nothing is to be removed any more."""
        self._files, self.made, self.made_inside = [], [], []
        self._dismiss(b"")

    def failed(self) -> None:
        """Remove everything, unless the server has served."""
        if self._helper:
            self._dismiss(bytes([len(self.made_inside)]))
        else:
            self._remove("", self.made_inside)

    def _dismiss(self, message: bytes) -> None:
        """Send the helper a message, if any, then the end of file, and wait for its exit."""
        helper, self._helper = self._helper, None
        if helper is None:
            return
        with helper.channel as channel, suppress(OSError):  # it is gone, or stopped
            if message:
                channel.send(message)
            channel.shutdown(socket.SHUT_WR)
            channel.settimeout(HELPER_TIMEOUT)
            channel.recv(1)  # the end of file
            os.waitpid(helper.pid, 0)

    def _remove(self, chroot: str, made_inside: list[str]) -> None:
        for remove in self._files:
            remove()
        if not chroot:
            cache_directory.remove(made_inside)
        directory.remove(self.made)
        if chroot and made_inside:
            jail.enter(chroot)
            cache_directory.remove(made_inside)


def _last_directories(path: str, count: int) -> list[str]:
    """The last `count` directories of a path, each after the one that contains it."""
    found: list[str] = []
    for _ in range(count):
        found.insert(0, path)
        path = os.path.dirname(path)
    return found

"""The cache: one process that remembers for all workers, across reloads and their deaths (see `io.cache.client`).

It has a thread for each worker, and one that waits for the master's word. A defect in any of them ends the process: an
empty cache that answers is worth more than a full one that does not, and the master starts another.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from typing import NoReturn

from setproctitle import setproctitle

from pfxhttpd.io import SetupError
from pfxhttpd.io.cache.directory import remove_socket
from pfxhttpd.io.cache.server import CacheServer
from pfxhttpd.io.scoreboard import CacheRow
from pfxhttpd.process.child import GO, READY, error_location


def run(channel: socket.socket, directory: str, authkey: bytes, row: CacheRow, failed: Callable[[str], None]) -> None:
    """Serve the table until the master says so or is gone. `failed` is told what ends it before that."""
    setproctitle("pfxhttpd: cache")

    def give_up(mishap: threading.ExceptHookArgs) -> NoReturn:
        failed(error_location(mishap.exc_value or mishap.exc_type()))
        os._exit(os.EX_SOFTWARE)

    threading.excepthook = give_up
    try:
        server = CacheServer(directory, authkey, row.write)
    except SetupError as error:
        failed(str(error))
        os._exit(os.EX_UNAVAILABLE)
    threading.Thread(target=_watch, args=(channel, directory), daemon=True).start()
    channel.send(READY)
    server.serve_forever()


def _watch(channel: socket.socket, directory: str) -> None:
    """The channel's end of file is the end: what is remembered here is not worth a farewell."""
    channel.setblocking(True)
    try:
        while channel.recv(16) == GO:
            pass
    except ConnectionResetError:
        pass  # the master died without having heard that we are ready
    remove_socket(directory)
    os._exit(os.EX_OK)

"""The cache: one process that keeps answers for all workers, across reloads and their deaths (see `io.cache`).

It has a thread for each worker, and one that waits for the master's messages. A defect in any of them ends the process,
and the master starts another: an empty cache that answers is worth more than a full one that does not.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from setproctitle import setproctitle

from pfxhttpd.io import SetupError
from pfxhttpd.io.cache.directory import remove_socket
from pfxhttpd.io.cache.server import CacheServer
from pfxhttpd.io.scoreboard import Scoreboard
from pfxhttpd.process.child import READY, START, error_location
from pfxhttpd.process.liveness import HEARTBEAT_INTERVAL


def run(
    channel: socket.socket, directory: str, authkey: bytes, board: Scoreboard, on_error: Callable[[str], None]
) -> None:
    """Serve the table until the master closes the channel or is gone. `on_error` gets the reason of an earlier end."""
    setproctitle("pfxhttpd: cache")

    def exit_on_error(failure: threading.ExceptHookArgs) -> NoReturn:
        on_error(error_location(failure.exc_value or failure.exc_type()))
        os._exit(os.EX_SOFTWARE)

    threading.excepthook = exit_on_error
    try:
        server = CacheServer(directory, authkey, board.cache.write)
    except SetupError as error:
        on_error(str(error))
        os._exit(os.EX_UNAVAILABLE)
    threading.Thread(target=_watch, args=(channel, directory), daemon=True).start()
    threading.Thread(target=_beat, args=(server, board), daemon=True).start()
    channel.send(READY)
    server.serve_forever()


def _beat(server: CacheServer, board: Scoreboard) -> None:
    """Show a heartbeat as long as the table can be reached."""
    while True:
        server.await_table()
        board.beat("cache", time.monotonic())
        time.sleep(HEARTBEAT_INTERVAL)


def _watch(channel: socket.socket, directory: str) -> None:
    """Exit at the channel's end of file. Nothing has to be saved."""
    channel.setblocking(True)
    try:
        while channel.recv(16) == START:
            pass
    except ConnectionResetError:
        pass  # the master died before it had read that the cache is ready
    remove_socket(directory)
    os._exit(os.EX_OK)

"""The cache: one process that remembers for all workers, across reloads and their deaths (see `outside.store`)."""

from __future__ import annotations

import os
import signal
import socket
import threading

from setproctitle import setproctitle

from pfxhttpd.outside import store
from pfxhttpd.outside.scoreboard import StoreRow
from pfxhttpd.process.crew import GO, READY


def run(channel: socket.socket, directory: str, authkey: bytes, row: StoreRow) -> None:
    """Serve the table until the master says so or is gone. Raises `store.StoreError`."""
    setproctitle("pfxhttpd: cache")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    row.write(0, 0, 0, 0, 0)
    server = store.serve(directory, authkey, row.write)
    threading.Thread(target=_watch, args=(channel,), daemon=True).start()
    channel.send(READY)
    server.serve_forever()


def _watch(channel: socket.socket) -> None:
    """The channel's end of file is the end: what is remembered here is not worth a farewell."""
    channel.setblocking(True)
    while channel.recv(16) == GO:
        pass
    os._exit(os.EX_OK)

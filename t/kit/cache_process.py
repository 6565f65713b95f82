"""The cache process without the rest of the server, for tests of its clients."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from kit.proc import die_with_parent
from pfxhttpd.io.cache import directory as cache_directory
from pfxhttpd.io.cache.server import CacheServer
from pfxhttpd.io.scoreboard import CacheRow, Scoreboard

KEY = b"k" * 32


class CacheProcess:
    """`with CacheProcess(tmp_path) as cache: CacheClient(cache.directory, KEY)`; `row` shows what it holds.

    Constants of `io.cache.server` hold in the process as they are at `start`. Its threads are switched every
    `switch_interval` seconds, as often as possible unless said otherwise, so that races show.
    """

    def __init__(self, directory: Path, switch_interval: float = 1e-6) -> None:
        self.directory, self._switch_interval = str(directory), switch_interval
        self.row: CacheRow = Scoreboard().cache
        self.pid = 0
        cache_directory.make(self.directory)

    def start(self) -> None:
        """Returns when it listens."""
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                die_with_parent()
                threading.excepthook = lambda _: os._exit(1)
                sys.setswitchinterval(self._switch_interval)
                self.row.clear()
                server = CacheServer(self.directory, KEY, self.row.write)
                os.write(writing, b"ready")
                os.close(writing)
                server.serve_forever()
            finally:
                os._exit(1)
        os.close(writing)
        ready = os.read(reading, 8)
        os.close(reading)
        assert ready, "the cache process did not start"

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def pause(self) -> None:
        """Returns when it is stopped."""
        self.signal(signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def kill(self) -> None:
        if self.pid:
            self.signal(signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def __enter__(self) -> CacheProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

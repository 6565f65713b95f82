"""A log stream that all processes share: a pipe, terminal, file or stream socket that was open when the server started.

The stream's open file description (open(2)) may be shared with other programs, so its flags are left alone, and a write
that cannot block is made by other means: a description of our own, or a flag of the single write.

A line is at most PIPE_BUF bytes in one write, which a pipe takes whole or not at all (pipe(7)). A file on a full disk, or
a stream socket, may take only the beginning of a line. Then the next line, of whichever process, begins with a newline.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import select
import socket
import stat
import time
from collections.abc import Callable

_LOCK_TRIES, _LOCK_PAUSE = 20, 0.0001
"""How often the lock for a write is tried, and the seconds between two attempts."""
_NO_NOWAIT = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""Errors of a kernel (before Linux 6.4) or a stream that does not support RWF_NOWAIT."""


class StreamSink:
    """Writes lines to a descriptor, of which it keeps a duplicate."""

    __slots__ = ("_busy", "_descriptor", "_socket", "_torn", "_write")

    def __init__(self, descriptor: int) -> None:
        self._descriptor = -1
        self._socket: socket.socket | None = None
        self._torn = mmap.mmap(-1, 1)
        """Shared by all processes: not 0 while the stream ends with an incomplete line."""
        self._busy = False
        self._write: Callable[[bytes], int] = self._discard
        try:
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISFIFO(mode) or (stat.S_ISCHR(mode) and os.isatty(descriptor)):
                self._reopen(descriptor)
            elif stat.S_ISSOCK(mode):
                self._socket = socket.socket(fileno=os.dup(descriptor))
                self._descriptor = self._socket.fileno()
                self._write = self._write_socket
            else:
                self._descriptor = os.dup(descriptor)
                self._write = self._write_file
        except OSError:
            pass  # standard output was closed by whoever started us, who thereby asked for no log

    def _reopen(self, descriptor: int) -> None:
        """Open a non-blocking description of our own."""
        try:
            self._descriptor = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
            self._write = self._write_file
        except OSError:  # there is no /proc, or the pipe or terminal belongs to another user
            self._descriptor = os.dup(descriptor)
            self._write = self._write_nowait

    def _discard(self, text: bytes) -> int:
        return 0

    def _write_file(self, text: bytes) -> int:
        return os.write(self._descriptor, text)

    def _write_socket(self, text: bytes) -> int:
        return self._socket.send(text, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) if self._socket else 0

    def _write_nowait(self, text: bytes) -> int:
        """Write without blocking to a description that blocks: pwritev2(2) with RWF_NOWAIT."""
        try:
            return os.pwritev(self._descriptor, (text,), -1, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno not in _NO_NOWAIT:
                raise
            self._write = self._write_locked
            return self._write_locked(text)

    def _write_locked(self, text: bytes) -> int:
        """Ask whether the stream is writable, then write. The lock keeps our other processes from filling it in between."""
        if not self._lock():
            return 0
        try:
            poll = select.poll()
            poll.register(self._descriptor, select.POLLOUT)
            ready = poll.poll(0)
            # A pipe that is writable has space for PIPE_BUF bytes.
            return os.write(self._descriptor, text) if ready and ready[0][1] & select.POLLOUT else 0
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def _lock(self) -> bool:
        """Take the lock, which is held for microseconds unless its holder is stopped or blocked."""
        for _ in range(1 if self._busy else _LOCK_TRIES):
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, depending on the system (fcntl(2))
                time.sleep(_LOCK_PAUSE)
            else:
                self._busy = False
                return True
        self._busy = True
        return False

    def send(self, line: bytes, priority: int) -> bool:
        """Write a line, its newline included. Returns whether it was written; it is lost otherwise."""
        text = b"\n" + line if self._torn[0] else line
        try:
            written = self._write(text)
        except OSError:
            return False
        if written:
            self._torn[0] = text[written - 1] != 0x0A
        return written == len(text)

    def descriptors(self) -> tuple[int, ...]:
        """What has to stay open when a process closes the descriptors that it does not need."""
        return (self._descriptor,) if self._descriptor >= 0 else ()

    def close(self) -> None:
        """Close the duplicate. Lines sent later are lost."""
        self._write = self._discard
        descriptor, self._descriptor = self._descriptor, -1
        if self._socket:
            self._socket.close()
        elif descriptor >= 0:
            os.close(descriptor)

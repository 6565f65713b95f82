"""The log: where lines go, and what happens when they cannot.

Every process of the server writes to the same stream or syslog socket, each by itself. Nothing here waits and nothing
raises: mail is answered whether or not anybody reads the log. A line that cannot be written at once is lost and
counted, and the next one that gets through is preceded by one that tells how many are missing.

Whole lines: one line is one write of at most PIPE_BUF bytes (pipe(7)), and one datagram or one send on sockets.

Everything that the jail lacks is opened by `Journal.open`: the stream's own description, and /dev/log.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

from pfxhttpd.config.settings import Logging
from pfxhttpd.rules.log_line import Encoder, encoder
from pfxhttpd.rules.redact import Redactor

SYSLOG_SOCKET = "/dev/log"

_LEVELS = {"debug": ("DEBUG", "INFO", "ERROR"), "info": ("INFO", "ERROR"), "error": ("ERROR",), "none": ()}

FACILITIES = {
    "kern": 0,
    "user": 1,
    "mail": 2,
    "daemon": 3,
    "auth": 4,
    "syslog": 5,
    "lpr": 6,
    "news": 7,
    "uucp": 8,
    "cron": 9,
    "authpriv": 10,
    "ftp": 11,
    "local0": 16,
    "local1": 17,
    "local2": 18,
    "local3": 19,
    "local4": 20,
    "local5": 21,
    "local6": 22,
    "local7": 23,
}
"""Facility names and numbers, syslog(3)."""

_SEVERITIES = {"DEBUG": 7, "INFO": 6, "ERROR": 3}


class Sink(Protocol):
    """Where lines go."""

    def send(self, line: bytes, priority: int) -> bool:
        """Hands over one line, newline included; priority is syslog's. False: lost. Neither waits nor raises."""

    def descriptors(self) -> tuple[int, ...]:
        """What must stay open for this sink."""

    def close(self) -> None:
        """Gives the descriptors back; lines sent later are lost."""


class StreamSink:
    """A pipe, terminal, file or stream socket that was there when the process started."""

    __slots__ = ("_channel", "_descriptor", "_torn", "_write")

    def __init__(self, descriptor: int) -> None:
        self._descriptor = -1
        self._channel: socket.socket | None = None
        self._torn = False
        self._write: Callable[[bytes], int] = self._write_nowhere
        try:
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISFIFO(mode) or (stat.S_ISCHR(mode) and os.isatty(descriptor)):
                self._open_again(descriptor)
            elif stat.S_ISSOCK(mode):
                self._channel = socket.socket(fileno=os.dup(descriptor))
                self._descriptor = self._channel.fileno()
                self._write = self._write_socket
            else:
                self._descriptor = os.dup(descriptor)
                self._write = self._write_file
        except OSError:
            pass  # a closed standard output: every line is lost, and that is what whoever closed it asked for

    def _open_again(self, descriptor: int) -> None:
        """Opens a description of our own that does not block; the given one is shared with whoever started us."""
        try:
            self._descriptor = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
            self._write = self._write_file
        except OSError:  # no /proc, or somebody else's terminal or pipe
            self._descriptor = os.dup(descriptor)
            self._write = self._write_when_ready

    def _write_nowhere(self, text: bytes) -> int:
        return 0

    def _write_file(self, text: bytes) -> int:
        return os.write(self._descriptor, text)

    def _write_when_ready(self, text: bytes) -> int:
        waiting = select.poll()
        waiting.register(self._descriptor, select.POLLOUT)
        ready = waiting.poll(0)
        # A pipe that polls as writable takes PIPE_BUF bytes at once.
        return os.write(self._descriptor, text) if ready and ready[0][1] & select.POLLOUT else 0

    def _write_socket(self, text: bytes) -> int:
        return self._channel.send(text, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) if self._channel else 0

    def send(self, line: bytes, priority: int) -> bool:
        text = b"\n" + line if self._torn else line
        try:
            written = self._write(text)
        except OSError:
            return False
        if written:
            self._torn = written < len(text)
        return written == len(text)

    def descriptors(self) -> tuple[int, ...]:
        return (self._descriptor,) if self._descriptor >= 0 else ()

    def close(self) -> None:
        self._write = self._write_nowhere
        descriptor, self._descriptor = self._descriptor, -1
        if self._channel:
            self._channel.close()
        elif descriptor >= 0:
            os.close(descriptor)


class SyslogSink:
    """The datagram socket of the machine's syslog, connected while its path can be reached (RFC 3164, syslog(3))."""

    __slots__ = ("_path", "_socket")

    def __init__(self, path: str) -> None:
        """Connects; raises OSError when nothing listens at `path`."""
        self._path = path
        self._socket = self._connected()

    def _connected(self) -> socket.socket:
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            channel.connect(self._path)
        except OSError:
            channel.close()
            raise
        return channel

    def send(self, line: bytes, priority: int) -> bool:
        text = b"<%d>pfxhttpd[%d]: %s" % (priority, os.getpid(), line[:-1])
        try:
            self._socket.send(text, socket.MSG_NOSIGNAL)
            return True
        except BlockingIOError:
            return False
        except OSError:
            pass  # syslogd has been restarted; inside a jail there is no path to its new socket
        try:
            channel = self._connected()
            self._socket.close()
            self._socket = channel
            channel.send(text, socket.MSG_NOSIGNAL)
            return True
        except OSError:
            return False

    def descriptors(self) -> tuple[int, ...]:
        return (self._socket.fileno(),) if self._socket.fileno() >= 0 else ()

    def close(self) -> None:
        self._socket.close()


class Logger:
    """What the processes log to. `debug`, `info` and `error` take a message and fields, or are None below the level.

    Callers write `if log.info: log.info("New connection established", session=..., client=...)`: a disabled level
    costs one attribute test. Fields that are None are left out of the line.
    """

    __slots__ = (
        "_clock",
        "_encoder",
        "_facility",
        "_loser",
        "_lost",
        "_second",
        "_sink",
        "_stamp",
        "_stream",
        "_syslog",
        "_syslog_path",
        "_timed",
        "debug",
        "error",
        "info",
    )

    debug: Callable[..., None] | None
    info: Callable[..., None] | None
    error: Callable[..., None] | None

    def __init__(
        self,
        logging: Logging,
        stream: StreamSink,
        syslog: SyslogSink | None,
        syslog_path: str,
        clock: Callable[[], float],
        secrets: Iterable[str],
    ) -> None:
        self._stream, self._syslog, self._syslog_path, self._clock = stream, syslog, syslog_path, clock
        unreachable: OSError | None = None
        if logging.syslog and syslog is None:
            try:
                self._syslog = SyslogSink(syslog_path)
            except OSError as failure:
                unreachable = failure
        self._sink: Sink = self._syslog if logging.syslog and self._syslog else stream
        self._facility = FACILITIES.get(logging.syslog.lower(), FACILITIES["mail"]) * 8
        self._timed = not logging.use_systemd and self._sink is stream
        self._encoder: Encoder = encoder(logging.json, Redactor(secrets))
        self._second, self._stamp = -1, ""
        self._lost = self._loser = 0
        enabled = _LEVELS[logging.level]
        for level in _SEVERITIES:
            setattr(self, level.lower(), partial(self._log, level) if level in enabled else None)
        if unreachable and self.error:
            self.error("Cannot reach syslog, logging to standard output", path=syslog_path, error=unreachable)

    @classmethod
    def open(
        cls,
        logging: Logging,
        stream_fd: int = 1,
        clock: Callable[[], float] = time.time,
        secrets: Iterable[str] = (),
        syslog_path: str = SYSLOG_SOCKET,
    ) -> Logger:
        """Opens what `logging` asks for; to be called before the jail.

        `secrets` are texts that never show, such as the configuration's client secrets. When no syslog can be
        reached the stream is used, and a line there says so.
        """
        return cls(logging, StreamSink(stream_fd), None, syslog_path, clock, secrets)

    def with_settings(self, logging: Logging, secrets: Iterable[str] = ()) -> Logger:
        """A logger for new settings that shares what this one has open, so it works in the jail after a reload."""
        return Logger(logging, self._stream, self._syslog, self._syslog_path, self._clock, secrets)

    def descriptors(self) -> tuple[int, ...]:
        """What must stay open when a process closes what it does not need."""
        return self._stream.descriptors() + (self._syslog.descriptors() if self._syslog else ())

    def close(self) -> None:
        """Closes what is open, for this logger and all that share it."""
        self._stream.close()
        if self._syslog:
            self._syslog.close()

    def _log(self, level: str, msg: object, /, **fields: object) -> None:
        priority = self._facility + _SEVERITIES[level]
        stamp = self._time() if self._timed else ""
        if self._lost and not self._told(stamp):
            self._lost += 1
        elif not self._sink.send(self._encoder.encode(stamp, level, msg, fields), priority):
            self._count()

    def _told(self, stamp: str) -> bool:
        """Whether the loss could be told, or is another process's to tell: the one that this was forked from."""
        if self._loser == os.getpid():
            line = self._encoder.encode(stamp, "ERROR", "Log lines were lost", {"count": self._lost})
            if not self._sink.send(line, self._facility + _SEVERITIES["ERROR"]):
                return False
        self._lost = 0
        return True

    def _count(self) -> None:
        self._lost += 1
        self._loser = os.getpid()

    def _time(self) -> str:
        """Local time with milliseconds and offset (RFC 3339). The part that lasts a second is kept for it."""
        now = self._clock()
        second = int(now)
        if second != self._second:
            parts = time.localtime(second)
            offset = parts.tm_gmtoff // 60
            sign = "-" if offset < 0 else "+"
            self._stamp = (
                f"{time.strftime('%Y-%m-%dT%H:%M:%S', parts)}.%03d{sign}{abs(offset) // 60:02d}:{abs(offset) % 60:02d}"
            )
            self._second = second
        return self._stamp % int((now - second) * 1000)

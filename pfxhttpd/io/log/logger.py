"""What the processes log to: levels, and the count of lines that were lost."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

from pfxhttpd.config.settings import Logging
from pfxhttpd.io.log.lost_lines import LostLines
from pfxhttpd.io.log.stream_sink import StreamSink
from pfxhttpd.io.log.syslog_sink import FACILITIES, SyslogSink
from pfxhttpd.rules.log_line import Encoder, encoder
from pfxhttpd.rules.redact import Redactor

SYSLOG_SOCKET = "/dev/log"

_LEVELS = {"debug": ("DEBUG", "INFO", "ERROR"), "info": ("INFO", "ERROR"), "error": ("ERROR",), "none": ()}
_SEVERITIES = {"DEBUG": 7, "INFO": 6, "ERROR": 3}
"""Numbers of syslog(3)."""


class Sink(Protocol):
    """Where lines go."""

    def send(self, line: bytes, priority: int) -> bool: ...


class Logger:
    """`debug`, `info` and `error` take a message and fields; each is None when its level is disabled.

    Callers write `if log.info: log.info("New connection established", session=..., client=...)`, so a disabled level
    costs one attribute test. Fields that are None are left out of the line.
    """

    __slots__ = (
        "_clock",
        "_encoder",
        "_facility",
        "_lost",
        "_lost_by",
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
        "lost_lines",
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
        lost_lines: LostLines,
    ) -> None:
        self.lost_lines = lost_lines
        """The lines that all processes have lost."""
        self._stream, self._syslog, self._syslog_path, self._clock = stream, syslog, syslog_path, clock
        unreachable: OSError | None = None
        if logging.syslog and syslog is None:
            try:
                self._syslog = SyslogSink(syslog_path)
            except OSError as error:
                unreachable = error
        self._sink: Sink = self._syslog if logging.syslog and self._syslog else stream
        self._facility = FACILITIES.get(logging.syslog.lower(), FACILITIES["mail"]) * 8
        self._timed = not logging.use_systemd and self._sink is stream
        self._encoder: Encoder = encoder(logging.json, Redactor(secrets))
        self._second, self._stamp = -1, ""
        self._lost = self._lost_by = 0
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
        """Open what `logging` asks for. To be called before the chroot.

        `secrets` are texts that never appear in a line, such as the configuration's client secrets. When syslog cannot
        be reached, the stream is used, and a line says so.
        """
        return cls(logging, StreamSink(stream_fd), None, syslog_path, clock, secrets, LostLines())

    def with_settings(self, logging: Logging, secrets: Iterable[str] = ()) -> Logger:
        """A logger for new settings that shares this one's sinks, so that a reload works inside a chroot."""
        return Logger(logging, self._stream, self._syslog, self._syslog_path, self._clock, secrets, self.lost_lines)

    def descriptors(self) -> tuple[int, ...]:
        """What has to stay open when a process closes the descriptors that it does not need."""
        return self._stream.descriptors() + (self._syslog.descriptors() if self._syslog else ())

    def close(self) -> None:
        """Close the sinks, of this logger and of all that share them."""
        self._stream.close()
        if self._syslog:
            self._syslog.close()

    def _log(self, level: str, msg: Any, /, **fields: object) -> None:
        priority = self._facility + _SEVERITIES[level]
        stamp = self._time() if self._timed else ""
        if self._lost and not self._report_loss(stamp):
            self._lost += 1
            self.lost_lines.add()
        elif not self._sink.send(self._encoder.encode(stamp, level, msg, fields), priority):
            self._lost += 1
            self._lost_by = os.getpid()
            self.lost_lines.add()

    def _report_loss(self, stamp: str) -> bool:
        """Log how many lines were lost. Returns false if that line is lost as well.

        A count that was inherited at the fork is the parent's to report, and is forgotten here.
        """
        if self._lost_by == os.getpid():
            line = self._encoder.encode(stamp, "ERROR", "Log lines were lost", {"count": self._lost})
            if not self._sink.send(line, self._facility + _SEVERITIES["ERROR"]):
                return False
        self._lost = 0
        return True

    def _time(self) -> str:
        """Local time with milliseconds and offset (RFC 3339). All but the milliseconds is kept for the same second."""
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

"""The metrics process: serves metrics and the pages for health checks by HTTP, and nothing that mail depends on.

It asks the master for a snapshot when one is wanted, at most once a second, so no number of scrapes makes the master or
the workers do more. It has the lowest priority of all our processes, and a thread for each connection (`io.metrics`).
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import select
import socket
import threading
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from requests import Session
from setproctitle import setproctitle

from pfxhttpd.config.settings import Observability
from pfxhttpd.io.log import Logger
from pfxhttpd.io.metrics.exposition import Metric, RoleUsage, exposition, families
from pfxhttpd.io.metrics.server import NOT_FOUND, HttpServer, Request, Response
from pfxhttpd.io.metrics.usage import usage
from pfxhttpd.io.scoreboard import Scoreboard
from pfxhttpd.process.child import METRICS_WANTED, READY, RETIRE, error_location
from pfxhttpd.process.generation import MetricsPort
from pfxhttpd.process.metrics_sender import MetricsSender
from pfxhttpd.service.log_limit import MinuteLimit

MIN_AGE = 1.0
"""Seconds for which a snapshot is used before another one is asked for."""
MASTER_SHARE = 0.05
"""Part of the master's time that snapshots may take. One that took long, since there are many workers and entries, is used
for longer."""
SNAPSHOT_TIMEOUT = 3.0
"""Seconds that a request waits for a snapshot."""
MAX_TEXTS = 8
"""Texts of one snapshot that are kept, for clients that want them in several formats."""
TICK = 0.5
"""Seconds between looks at connections that are open for too long."""
NICENESS = 10
"""What is added to the nice value (nice(2)), so that workers go first."""

_MAX_MESSAGE = 64
_NO_ANSWER = Response(HTTPStatus.SERVICE_UNAVAILABLE, b"the master process does not respond\n")


class Snapshots:
    """The latest snapshot. Threads wait for it; the main thread brings it."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._changed = threading.Condition()
        self._latest: Mapping[str, Any] | None = None
        self._taken_at = self._asked_at = float("-inf")
        self._max_age = MIN_AGE

    def latest(self) -> Mapping[str, Any] | None:
        """A snapshot that is about as old as MIN_AGE at most; None if the master does not respond in time."""
        with self._changed:
            wanted_at = time.monotonic()
            if self._taken_at > wanted_at - self._max_age:
                return self._latest
            if self._asked_at < max(self._taken_at, wanted_at - SNAPSHOT_TIMEOUT):
                self._asked_at = wanted_at
                self._channel.send(METRICS_WANTED)
            if not self._changed.wait_for(lambda: self._taken_at > wanted_at - self._max_age, SNAPSHOT_TIMEOUT):
                return None
            return self._latest

    def bring(self, snapshot: Mapping[str, Any]) -> None:
        """The master has sent this snapshot."""
        with self._changed:
            self._latest, self._taken_at = snapshot, time.monotonic()
            self._max_age = max(MIN_AGE, snapshot["took"] / MASTER_SHARE)
            self._changed.notify_all()


class Pages:
    """The pages, by their paths. Called by the threads of the server."""

    def __init__(self, settings: Observability, snapshots: Snapshots, logger: Logger) -> None:
        self._settings, self._snapshots, self._log = settings, snapshots, logger
        self._refused = MinuteLimit()
        credentials = settings.prometheus_http_auth_basic
        self._authorization = base64.b64encode(credentials.encode()) if credentials else b""
        self._usage = RoleUsages()
        self._lock = threading.Lock()
        self._shown: Mapping[str, Any] | None = None
        self._collected: list[Metric] = []
        self._written: dict[str, Response] = {}
        """The last snapshot that was shown, its metrics, and their text by the Accept header field."""

    def respond(self, request: Request) -> Response:
        """The response to a request."""
        settings = self._settings
        try:
            if request.path == settings.prometheus_path:
                return self._metrics(request)
            if request.path == settings.health_path:
                return Response(HTTPStatus.OK, b"ok\n")
            if request.path == settings.ready_path:
                return self._readiness()
        except Exception as error:  # a defect of ours costs one response; without a message it would never be found
            if self._log.error:
                self._log.error("Internal error", process="metrics", error=error_location(error))
            return Response(HTTPStatus.INTERNAL_SERVER_ERROR, b"internal error\n")
        return NOT_FOUND

    def _metrics(self, request: Request) -> Response:
        if not self._is_authorized(request):
            if self._log.info and self._refused.passes(request.peer):
                self._log.info("Metrics refused", client=request.peer, reason="wrong or missing credentials")
            challenge = {"WWW-Authenticate": 'Basic realm="pfxhttpd metrics", charset="UTF-8"'}
            return Response(HTTPStatus.UNAUTHORIZED, b"credentials are required\n", headers=challenge)
        snapshot = self._snapshots.latest()
        if snapshot is None:
            return _NO_ANSWER
        accept = request.headers.get("accept", "")
        with self._lock:  # all requests for the same snapshot get the same text
            if snapshot is not self._shown or len(self._written) >= MAX_TEXTS:
                self._written.clear()
            if snapshot is not self._shown:
                usage = self._usage.of(snapshot) if self._settings.prometheus_runtime_metrics else None
                self._shown, self._collected = snapshot, list(families(snapshot, usage))
            if accept not in self._written:
                text, media_type = exposition(self._collected, accept)
                self._written[accept] = Response(HTTPStatus.OK, text, media_type)
            return self._written[accept]

    def _is_authorized(self, request: Request) -> bool:
        """The comparison takes the same time wherever the first difference is (RFC 7617; RFC 9110 section 11.1)."""
        if not self._authorization:
            return True
        scheme, _, given = request.headers.get("authorization", "").strip().partition(" ")
        equal = hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._authorization)
        return scheme.lower() == "basic" and equal

    def _readiness(self) -> Response:
        snapshot = self._snapshots.latest()
        if snapshot is None:
            return _NO_ANSWER
        reason: str = snapshot["not_ready"]
        return Response(HTTPStatus.SERVICE_UNAVAILABLE if reason else HTTPStatus.OK, f"{reason or 'ready'}\n".encode())


class RoleUsages:
    """What the processes of each role use. Processor time never goes back."""

    def __init__(self) -> None:
        self._processor: dict[str, float] = {}

    def of(self, snapshot: Mapping[str, Any]) -> Mapping[str, RoleUsage]:
        """The sums over the processes of a snapshot; empty if /proc cannot be read."""
        found: dict[str, list[Any]] = {}
        for role, pid in snapshot["processes"]:
            used = usage(pid)
            if used is not None:
                found.setdefault(role, []).append(used)
        ended, sums = snapshot["processor_of_ended"], {}
        for role in {**found, **ended} if found else ():
            each = found.get(role, [])
            processor = sum(used.processor for used in each) + ended.get(role, 0.0)
            # A process may have ended since the snapshot was taken; its time is in the next one.
            self._processor[role] = processor = max(processor, self._processor.get(role, 0.0))
            files = [used.files for used in each]
            known = None if None in files else sum(number for number in files if number is not None)
            sums[role] = RoleUsage(len(each), sum(used.memory for used in each), processor, known)
        return sums


class MetricsProcess:
    """`port` is None if nothing is served."""

    def __init__(
        self,
        channel: socket.socket,
        port: MetricsPort | None,
        settings: Observability,
        board: Scoreboard,
        logger: Logger,
        collector: Session | None = None,
    ) -> None:
        """`collector` is for requests to the collector if metrics are to be sent."""
        self._channel, self._board = channel, board
        self._snapshots = Snapshots(channel)
        self._server: HttpServer | None = None
        if port is not None:
            self._server = HttpServer(port.sock, port.tls, Pages(settings, self._snapshots, logger).respond)
        self._sender: MetricsSender | None = None
        if collector is not None:
            self._sender = _sender(settings, self._snapshots, collector, logger)
        self._leaving = self._retiring = False

    def run(self) -> None:
        """Serve until the master says so, and then those clients that are connected, or until the master is gone."""
        setproctitle("pfxhttpd: metrics")
        os.nice(NICENESS)
        self._channel.send(READY)
        if self._sender is not None:
            self._sender.start()
        while not self._leaving and not (self._retiring and not self._busy):
            now = time.monotonic()
            self._board.beat("metrics", now)
            poll = select.poll()
            poll.register(self._channel, select.POLLIN)
            if self._server is not None:
                self._server.expire(now)
                if self._server.accepting and not self._retiring:
                    poll.register(self._server.listener, select.POLLIN)
            for fd, _ in poll.poll(TICK * 1000):
                if fd == self._channel.fileno():
                    self._read_channel()
                elif self._server is not None:
                    self._server.accept()

    @property
    def _busy(self) -> bool:
        return self._server is not None and self._server.busy

    def _read_channel(self) -> None:
        try:
            message, descriptors, _, _ = socket.recv_fds(self._channel, _MAX_MESSAGE, 1)
        except BlockingIOError:
            return
        except OSError:
            message, descriptors = b"", []
        for descriptor in descriptors:
            with open(descriptor, "rb") as file:
                file.seek(0)
                self._snapshots.bring(json.load(file))
        self._retiring = self._retiring or message == RETIRE
        self._leaving = not message


def _sender(settings: Observability, snapshots: Snapshots, collector: Session, logger: Logger) -> MetricsSender:
    from pfxhttpd.io.otlp.metric_exporter import MetricExporter  # needs packages that are optional

    usages = RoleUsages() if settings.prometheus_runtime_metrics else None
    return MetricsSender(
        MetricExporter(settings, collector),
        snapshots.latest,
        lambda snapshot: families(snapshot, usages.of(snapshot) if usages else None),
        settings.otel_exporter_otlp_endpoint,
        logger,
    )

"""A worker: a synchronous process that takes a connection, answers its request, and takes the next.

    start     forked by the master, with its pool's listeners and ready queue
    wait      its services are built; it waits for the master's START
    serve     takes connections on which something was received; keeps the last one until other work shows up
    leave     told by the master, by SIGTERM, or by the master's death: parks what it holds, and exits

It never waits for a client. New and ready connections wake it by EPOLLEXCLUSIVE, which wakes one sleeper per arrival.
So a worker that wakes takes one of everything it was woken for before it looks at the connection that it holds, and
parks what it cannot serve now. Then nothing is left waiting while another worker sleeps (epoll_ctl(2)).

It parks a connection before it takes another one, so that a worker that is killed takes one request with it at most.
"""

from __future__ import annotations

import random
import select
import signal
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pfxhttpd.config.settings import Settings
from pfxhttpd.io.handoff import Connection, Receiver, unpack
from pfxhttpd.io.log import Logger
from pfxhttpd.process import services
from pfxhttpd.process.acceptor import RETRY_INTERVAL, Acceptor, LimitLog
from pfxhttpd.process.child import DRAIN, MAX_REQUESTS, READY, START
from pfxhttpd.process.connection_handler import ANSWERED, OUTDATED, ConnectionHandler, Outcome
from pfxhttpd.process.context import WorkerContext
from pfxhttpd.process.liveness import HEARTBEAT_INTERVAL

if TYPE_CHECKING:
    from pfxhttpd.io.otlp.tracer import Tracer

FLUSH_DELAY = 0.01
"""Seconds without work after which pending writes go to the cache."""

CROWD_TURNS = 8
"""Connections that a worker takes from its pool's ready queue, while others wait there, before it looks at listeners and
messages again. It saves a system call for each. New connections and messages wait for so many requests at most."""
CROWD_TIME = 0.02
"""Seconds after which it looks in any case, so that they never wait for several requests that take long."""
MAX_EVENTS = 16
"""Events that one look returns at most. By default there is space for 1023, which costs an allocation of 12 kB each time."""

_EXCLUSIVE = select.EPOLLIN | select.EPOLLEXCLUSIVE


class Worker:
    def __init__(self, context: WorkerContext, settings: Settings, tls: ssl.SSLContext, logger: Logger) -> None:
        self._context, self._log = context, logger
        self._limiter = LimitLog()
        built = services.build(context, settings, tls, logger)
        self._transport, self._cache, self._status = built.transport, built.cache, built.status
        self._tracer, self._collector = built.tracer, settings.server.observability.otel_exporter_otlp_endpoint
        self._epoll = select.epoll()
        self._handler = ConnectionHandler(context, settings, built.by_kind, self._epoll, logger)
        self._acceptor = Acceptor(self._epoll, _EXCLUSIVE, context.board, context.metrics.listeners, logger)
        listeners = {listener.endpoint: listener for listener in settings.server.listen}
        self._acceptor.replace(
            [
                (sock, (listeners[endpoint].kind, listeners[endpoint].name, endpoint))
                for endpoint, sock in context.listeners.items()
            ],
            logger,
        )
        self._receiver = Receiver(context.ready)
        self._had_turn = False
        self._in_crowd = 0
        """How many more connections are taken from the ready queue without a look at anything else."""
        self._look_at = 0.0
        """When to look at everything again all the same (monotonic seconds)."""
        self._idle_timeout = settings.server.client_idle_timeout
        self._leaving = self._draining = False
        limit = context.pool.max_requests
        self._last_request = limit + random.randrange(limit // 10 + 1) if limit else 0

    # -- life ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """From start to exit."""
        self._status.show_idle()
        signals = self._take_signals()
        channel = self._context.channel
        self._controls: dict[int, Callable[[], None]] = {
            channel.fileno(): self._read_channel,
            signals.fileno(): self._leave,
        }
        try:
            channel.send(READY)
        except OSError:
            return
        channel.setblocking(True)
        if channel.recv(16) != START:
            return
        channel.setblocking(False)
        for fd in self._controls:
            self._epoll.register(fd, select.EPOLLIN)
        self._epoll.register(self._receiver.fileno(), _EXCLUSIVE)
        self._context.row.idle()
        while not self._leaving:
            self._turn()
        self._hand_over()

    def _take_signals(self) -> socket.socket:
        """SIGTERM retires this worker alone; other signals are for the master."""
        reader, self._signal_writer = socket.socketpair()
        for end in (reader, self._signal_writer):
            end.setblocking(False)
        signal.set_wakeup_fd(self._signal_writer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, _ignore)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGTTIN, signal.SIGTTOU):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return reader

    def _read_channel(self) -> None:
        try:
            message = self._context.channel.recv(16)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        self._draining = message == DRAIN
        if message != START:
            self._leave()

    def _leave(self) -> None:
        self._leaving = True
        self._context.row.leaving()

    def _hand_over(self) -> None:
        """Park everything that this worker was woken for and has not served; no other worker is woken for it."""
        self._handler.release()
        for fd in self._shared(self._epoll.poll(0)):
            self._park_next(fd)
        while self._draining and (received := self._receive()):
            self._handler.park(*received)
        self._cache.flush()
        self._transport.close()
        if self._tracer is not None:
            self._tracer.close()
            self._count_losses(self._tracer)

    # -- one turn -----------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Wait for something, take it, serve one request."""
        handler = self._handler
        if self._acceptor.paused:
            self._update_acceptor()
        if self._in_crowd and handler.active_at < self._look_at and self._is_crowded():
            handler.release()
            if received := self._receive():
                self._in_crowd -= 1
                handler.take(*received)
                self._after(handler.serve())
                return
        self._in_crowd = 0
        if handler.has_request:
            events: Sequence[tuple[int, int]] = self._epoll.poll(0, MAX_EVENTS)
        else:
            events = self._wait()
            if len(events) == 1 and events[0][0] == handler.fd:
                self._after(handler.serve())  # the usual case: the client that this worker keeps has sent a request
                return
        if shared := self._shared(events):
            handler.release()
            *others, last = shared
            for fd in others:
                self._park_next(fd)
            if arrival := self._next(last):
                handler.take(*arrival)
                self._had_turn = True
                self._after(handler.serve())
                self._in_crowd = CROWD_TURNS if self._is_crowded() else 0
                self._look_at = handler.active_at + CROWD_TIME
        elif handler.has_request:
            self._after(handler.answer())
        elif any(fd == handler.fd for fd, _ in events):
            self._after(handler.serve())
        elif not events:
            self._maintain()

    def _is_crowded(self) -> bool:
        """Whether so many connections wait in the ready queue that there is one left for this worker, although the figure
        is a little old and each of the others may have taken one since."""
        return self._context.pool_row.waiting > self._context.pool.max_workers

    def _wait(self) -> Sequence[tuple[int, int]]:
        """Wait for work, behind the other workers if this one has just had a turn."""
        if not self._handler.watched:
            events = self._epoll.poll(0, MAX_EVENTS)
            if events:
                return events
            self._handler.watch()
        self._status.show_idle()
        if self._had_turn:
            self._requeue()
        return self._epoll.poll(self._timeout(), MAX_EVENTS)

    def _maintain(self) -> None:
        """Nothing has happened for as long as `_timeout` said."""
        now = time.monotonic()
        self._context.row.beat(now)
        self._cache.flush()
        self._transport.expire(now)
        self._handler.close_if_idle()
        if self._tracer is not None:
            self._count_losses(self._tracer)

    def _after(self, outcome: Outcome) -> None:
        """What has to be done after a look at the connection, once its client has the reply."""
        if self._tracer is not None and self._tracer.sampled:
            self._tracer.finish()
            self._count_losses(self._tracer)
        if outcome is ANSWERED:
            if self._context.row.count_request() == self._last_request:
                self._send(MAX_REQUESTS)
            if self._cache.pending:
                self._cache.flush_if_due()
        elif outcome is OUTDATED and not self._leaving:
            # The next generation serves; the message to leave is on its way.
            self._context.channel.setblocking(True)
            self._read_channel()

    def _count_losses(self, tracer: Tracer) -> None:
        """Count the spans that could not be sent, and log it once a minute for all workers together."""
        lost = self._context.board.lost_traces.add(*tracer.take_losses(), time.monotonic())
        if lost and self._log.error:
            self._log.error(
                "Traces cannot be sent",
                collector=self._collector,
                reason=tracer.problem or "the queue is full",
                spans=lost.spans,
                requests=lost.requests,
            )

    def _requeue(self) -> None:
        """Wait behind the other sleepers: the kernel wakes the first of them, and that should be one without a
        connection. So with no more connections than workers, each soon has a worker that keeps it."""
        self._had_turn = False
        self._epoll.unregister(self._receiver.fileno())
        self._epoll.register(self._receiver.fileno(), _EXCLUSIVE)
        self._acceptor.requeue()

    def _shared(self, events: Sequence[tuple[int, int]]) -> list[int]:
        """The descriptors that this worker was woken for together with others, the ready queue last: the connection that
        comes from there has waited longest. Messages and signals are handled here."""
        queue, listeners = [], []
        for fd, _ in events:
            if fd == self._receiver.fileno():
                queue.append(fd)
            elif fd in self._acceptor:
                listeners.append(fd)
            elif fd in self._controls:
                self._controls[fd]()
        return listeners + queue

    def _next(self, fd: int) -> tuple[int, Connection] | None:
        """The next connection from one of the `_shared` descriptors; None if there is none."""
        if fd != self._receiver.fileno():
            return self._accept(fd)
        received = self._receive()
        if received is None:
            self._had_turn = True  # perhaps woken to look at the listeners again, see `_requeue`
        return received

    def _park_next(self, fd: int) -> None:
        if arrival := self._next(fd):
            self._handler.park(*arrival)

    def _receive(self) -> tuple[int, Connection] | None:
        """The next connection of the pool's ready queue."""
        receiver = self._receiver
        received = receiver.receive()
        if receiver.lost:
            self._context.row.count_taken(receiver.lost)
            receiver.lost = 0
        if received is None:
            return None
        self._context.row.count_taken()
        fd, message = received
        return fd, unpack(message)

    def _accept(self, fd: int) -> tuple[int, Connection] | None:
        if self._may_accept():
            return self._acceptor.accept(fd)
        self._acceptor.update(allowed=False)
        return None

    def _may_accept(self) -> bool:
        """Nothing is accepted while the pool's queue is full, or the server holds all the connections that it may."""
        context = self._context
        if context.pool_row.waiting >= context.pool.max_queue:
            return False
        if context.board.connections >= context.max_connections:
            context.board.declined = True
            return self._limiter.reached("all", context.max_connections, self._log)
        return True

    def _update_acceptor(self) -> None:
        """Accepting is paused; see whether it is possible again."""
        self._acceptor.update(self._may_accept())

    def _timeout(self) -> float:
        """Seconds to wait at most."""
        if self._cache.pending:
            return FLUSH_DELAY
        timeout = RETRY_INTERVAL if self._acceptor.paused else HEARTBEAT_INTERVAL
        if self._transport.idle_timeout < timeout and self._transport.open_connections:
            timeout = self._transport.idle_timeout
        if self._idle_timeout < timeout:
            timeout = self._handler.idle_time_left(timeout)
        return timeout

    def _send(self, message: bytes) -> None:
        try:
            self._context.channel.send(message)
        except OSError:
            pass  # the master is gone, and the channel's end of file will report it


def _ignore(*_: object) -> None:
    """Signals arrive through the wakeup descriptor, which needs a handler to be set."""

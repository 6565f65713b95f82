"""A worker: one synchronous process that takes a client, answers what it asks, and takes the next.

    born      forked by the master, with its pool's listeners and ready queue
    ready     its sessions and templates are made; it waits for the master's word
    serving   takes clients that have something to say; keeps the last one until other work shows up
    leaving   told so by the master, by SIGTERM, or by the master's death: parks what it holds, and goes

It never waits for a client. New connections and ready clients are woken for with EPOLLEXCLUSIVE, which wakes one
sleeper per arrival; so the one that wakes takes one of everything it was woken for, before it looks at the client in
hand, and parks what it cannot serve now. Nothing is then left waiting while another worker sleeps (epoll_ctl(2)).
"""

from __future__ import annotations

import random
import select
import signal
import socket
import ssl
import time
from collections.abc import Callable

from pfxhttpd.config.settings import Settings
from pfxhttpd.io import listen
from pfxhttpd.io.handoff import Connection, Receiver
from pfxhttpd.io.log import Logger
from pfxhttpd.process.child import DRAIN, GO, MAX_REQUESTS, READY
from pfxhttpd.process.connection_handler import ConnectionHandler, Outcome
from pfxhttpd.process.context import WorkerContext, WorkerStatus
from pfxhttpd.process.services import Services
from pfxhttpd.service import log_context

CROWDED_PAUSE = 0.2
"""Seconds between looks at the queue and the number of connections while either is at its limit and nothing is accepted."""
FLUSH_PAUSE = 0.01
"""Seconds of silence after which what is to be remembered goes to the cache."""

_EXCLUSIVE = select.EPOLLIN | select.EPOLLEXCLUSIVE


class Worker:
    def __init__(self, post: WorkerContext, settings: Settings, context: ssl.SSLContext, logger: Logger) -> None:
        self._post, self._log = post, logger
        self._titles = WorkerStatus(post, settings)
        equipment = Services(post, settings, context, self._titles, logger)
        self._transport, self._memory = equipment.transport, equipment.memory
        self._epoll = select.epoll()
        self._hand = ConnectionHandler(post, settings, equipment.services, self._epoll, logger)
        self._listeners = {listener.endpoint: listener for listener in settings.server.listen}
        self._doors = {sock.fileno(): (sock, where) for where, sock in post.listeners.items()}
        self._door_open = self._crowded = False
        self._receiver = Receiver(post.ready)
        self._sated = False
        self._leaving = self._dissolving = False
        most = post.pool.max_requests
        self._tired_at = most + random.randrange(most // 10 + 1) if most else 0

    # -- life ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """From ready to gone."""
        self._titles.rest()
        waking = self._take_signals()
        channel = self._post.channel
        self._orders: dict[int, Callable[[], None]] = {channel.fileno(): self._obey, waking.fileno(): self._leave}
        try:
            channel.send(READY)
        except OSError:
            return
        channel.setblocking(True)
        if channel.recv(16) != GO:
            return
        channel.setblocking(False)
        for fd in self._orders:
            self._epoll.register(fd, select.EPOLLIN)
        self._epoll.register(self._receiver.fileno(), _EXCLUSIVE)
        self._post.row.idle()
        while not self._leaving:
            self._turn()
        self._go()

    def _take_signals(self) -> socket.socket:
        """SIGTERM retires this worker alone; the others are the master's business."""
        heard, written = socket.socketpair()
        for end in (heard, written):
            end.setblocking(False)
        self._signal_end = written
        signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, _noted)
        for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGTTIN, signal.SIGTTOU):
            signal.signal(ignored, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return heard

    def _obey(self) -> None:
        try:
            order = self._post.channel.recv(16)
        except BlockingIOError:
            return
        except OSError:
            order = b""
        self._dissolving = order == DRAIN
        if order != GO:
            self._leave()

    def _leave(self) -> None:
        self._leaving = True
        self._post.row.leaving()

    def _go(self) -> None:
        """Take along nothing: what this worker was woken for would otherwise wait for nobody."""
        for fd, client in self._arrivals(self._epoll.poll(0)):
            self._hand.park(fd, client)
        while self._dissolving and (waiting := self._receiver.receive()):
            self._post.row.count_taken()
            self._hand.park(*waiting)
        self._hand.release()
        self._memory.flush()
        self._transport.close()

    # -- one turn -----------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Wait for something, take it, serve one request."""
        self._update_listeners()
        hand = self._hand
        more = hand.more
        events = self._epoll.poll(0) if more or not hand.watched else ()
        if not events and not more:
            events = self._sleep()
        arrivals = self._arrivals(events)
        if arrivals:
            hand.release()
            first, *others = arrivals
            for fd, client in others:
                hand.park(fd, client)
            hand.take(*first)
            self._sated = True
            self._note(hand.serve())
        elif more:
            self._note(hand.step())
        elif any(fd == hand.fd for fd, _ in events):
            self._note(hand.serve())
        elif not events:
            self._memory.flush()
            self._transport.expire(time.monotonic())
            hand.close_if_idle()

    def _sleep(self) -> list[tuple[int, int]]:
        """Nothing is to be done: show it, and wait, behind the others if this worker has just had its share."""
        self._hand.watch()
        self._titles.rest()
        if self._sated:
            self._queue_up()
        return self._epoll.poll(self._patience())

    def _note(self, outcome: Outcome) -> None:
        """What is owed after a look at the client, and after its answer."""
        if outcome is Outcome.ANSWERED:
            row = self._post.row
            row.count_request()
            if row.requests == self._tired_at:
                self._tell(MAX_REQUESTS)
            self._memory.tend()
        elif outcome is Outcome.OUTDATED and not self._leaving:
            # The next generation serves; the word to leave is on its way.
            self._post.channel.setblocking(True)
            self._obey()

    def _queue_up(self) -> None:
        """Go behind the other sleepers: the kernel wakes the first, and that is to be one with nobody in hand. So, with
        no more clients than workers, each client soon has a worker that keeps it."""
        self._sated = False
        for fd in (self._receiver.fileno(), *(self._doors if self._door_open else ())):
            self._epoll.unregister(fd)
            self._epoll.register(fd, _EXCLUSIVE)

    def _arrivals(self, events: list[tuple[int, int]]) -> list[tuple[int, Connection]]:
        """One client of everything shared that this worker was woken for."""
        arrivals = []
        for fd, _ in events:
            if fd == self._receiver.fileno():
                taken = self._receiver.receive()
                if taken:
                    self._post.row.count_taken()
                    arrivals.append(taken)
            elif fd in self._doors:
                accepted = self._accept(*self._doors[fd])
                if accepted:
                    arrivals.append(accepted)
            elif fd in self._orders:
                self._orders[fd]()
        return arrivals

    def _patience(self) -> float | None:
        """Seconds to sleep at most; for ever when there is nothing to let go of."""
        waits = [wait for wait in (self._hand.patience(),) if wait is not None]
        if not self._door_open:
            waits.append(CROWDED_PAUSE)  # nobody wakes a worker to tell that the queue or the server has room again
        if self._memory.pending:
            waits.append(FLUSH_PAUSE)
        if self._transport.next_expiry is not None:
            waits.append(self._transport.next_expiry)
        return max(0.0, min(waits)) if waits else None

    # -- the doors ----------------------------------------------------------------------------------------------

    def _update_listeners(self) -> None:
        """Accept nothing while the pool's queue is full or the server holds all the connections it may."""
        post = self._post
        if self._crowded:
            self._crowded = post.board.connections >= post.max_connections
        opened = not self._crowded and post.pool_row.waiting < post.pool.max_queue
        if opened is self._door_open:
            return
        self._door_open = opened
        for fd in self._doors:
            if opened:
                self._epoll.register(fd, _EXCLUSIVE)
            else:
                self._epoll.unregister(fd)

    def _accept(self, door: socket.socket, where: str) -> tuple[int, Connection] | None:
        self._crowded = self._post.board.connections >= self._post.max_connections
        if self._crowded:
            return None
        try:
            sock, address = door.accept()
        except OSError:
            return None
        sock.setblocking(False)
        listener = self._listeners[where]
        client = Connection(listener.kind, listener.name, where, listen.peer_name(sock, address), time.monotonic())
        if self._log.info:
            self._log.info("New connection established", **log_context.fields(client), listener=listener.name)
        return sock.detach(), client

    def _tell(self, word: bytes) -> None:
        try:
            self._post.channel.send(word)
        except OSError:
            pass  # the master is gone, and the channel's end of file will say so


def _noted(*_: object) -> None:
    """Signals arrive through the wakeup descriptor; a handler has to exist for that."""

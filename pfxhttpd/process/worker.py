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

import os
import random
import select
import signal
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Callable, Mapping

from requests import Session
from setproctitle import setproctitle

from pfxhttpd.config.settings import DOVECOT_SASL, POLICY_SERVICE, SOCKET_MAP, Entry, Pool, Settings
from pfxhttpd.exchange.breaker import Rule
from pfxhttpd.outside import handoff, listen
from pfxhttpd.outside.handoff import Client, Inbox
from pfxhttpd.outside.journal import Journal
from pfxhttpd.outside.scoreboard import PoolRow, Scoreboard, WorkerRow, padded
from pfxhttpd.outside.store import Store
from pfxhttpd.outside.transport.adapter import Transport
from pfxhttpd.process.crew import DISSOLVE, GO, READY, TIRED, whereabouts
from pfxhttpd.service import trace
from pfxhttpd.service.backend import Backend, plain_target
from pfxhttpd.service.fuse import Fuse
from pfxhttpd.service.hangup import HangUp
from pfxhttpd.service.login import Logins
from pfxhttpd.service.memory import Memory
from pfxhttpd.service.policy import Checks
from pfxhttpd.service.socketmap import Lookups
from pfxhttpd.wire.malformed import Malformed

READ = 65536
PARKING_PATIENCE = 1.0
"""Seconds a worker waits for a parking process that takes nothing, before it lets go of a client instead."""
CROWDED_PAUSE = 0.2
"""Seconds between looks at the queue and the number of connections while either is at its limit and nothing is accepted."""
FLUSH_PAUSE = 0.01
"""Seconds of silence after which what is to be remembered goes to the cache."""
PROBE_GRACE = 10.0
"""Seconds past its timeout after which a probe counts as lost with its worker."""

_EXCLUSIVE = select.EPOLLIN | select.EPOLLEXCLUSIVE


@dataclass(frozen=True, slots=True)
class Post:
    """Where a worker stands: what it inherits from the master, and the name under which `ps` shows it."""

    title: str
    pool: Pool
    pool_row: PoolRow
    row: WorkerRow
    board: Scoreboard
    listeners: Mapping[str, socket.socket]
    ready: socket.socket
    parking: socket.socket
    channel: socket.socket
    max_connections: int
    generation: int
    targets: Mapping[str, int]
    store: Store


class _Titles:
    """The process title and the scoreboard's row, told by `Backend` what is being asked."""

    def __init__(self, post: Post, settings: Settings) -> None:
        self._row = post.row
        prefix = f"pfxhttpd: worker {post.title} "
        self._idle = prefix + "idle"
        self._shown = ""
        self._asking = {
            id(entry): (prefix + entry.name, padded(entry.name))
            for entries in settings.entries.values()
            for entry in entries.values()
        }

    def begin(self, entry: Entry, deadline: float) -> None:
        title, name = self._asking[id(entry)]
        self._row.busy(name, time.monotonic(), deadline)
        if self._shown is not title:
            self._shown = title
            setproctitle(title)

    def end(self) -> None:
        self._row.idle()

    def rest(self) -> None:
        """Nothing is to be done: show it."""
        if self._shown is not self._idle:
            self._shown = self._idle
            setproctitle(self._idle)


class Worker:
    def __init__(self, post: Post, settings: Settings, context: ssl.SSLContext, journal: Journal) -> None:
        server = settings.server
        self._post, self._settings, self._log = post, settings, journal
        self._titles = _Titles(post, settings)
        self._transport = Transport(
            context,
            idle=server.http_client.idle_connection_timeout,
            lines=max(1, server.http_client.max_idle_connections // post.pool.max_workers),
        )
        session = Session()
        session.trust_env = False
        session.mount("http://", self._transport)
        session.mount("https://", self._transport)
        backends = {
            kind: {
                name: Backend(entry, server, session, self._titles, self._fuse(entry)) for name, entry in entries.items()
            }
            for kind, entries in settings.entries.items()
        }
        self._memory = Memory(post.store, server.response_cache)
        self._services = {
            SOCKET_MAP: Lookups(backends[SOCKET_MAP], self._memory, server.socketmap_max_reply_size, journal),
            POLICY_SERVICE: Checks(backends[POLICY_SERVICE], self._memory, journal),
            DOVECOT_SASL: Logins(backends[DOVECOT_SASL], journal),
        }
        self._listeners = {listener.where: listener for listener in server.listen}
        self._doors = {sock.fileno(): (sock, where) for where, sock in post.listeners.items()}
        self._door_open = False
        self._crowded = False
        self._inbox = Inbox(post.ready)
        self._epoll = select.epoll()
        self._client: Client | None = None
        self._fd = -1
        self._watched = -1
        self._heard_at = 0.0
        self._leaving = self._dissolving = False
        most = post.pool.max_requests
        self._tired_at = most + random.randrange(most // 10 + 1) if most else 0

    def _fuse(self, entry: Entry) -> Fuse:
        post, breaker = self._post, self._settings.server.circuit_breaker
        rule = Rule(breaker.failures, breaker.cooldown, entry.timeout + PROBE_GRACE)
        probes = max(1, post.pool.max_workers // 2)
        return Fuse(post.board, post.targets[entry.target], rule, probes, plain_target(entry.target), self._log)

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
        self._epoll.register(self._inbox.fileno(), _EXCLUSIVE)
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
        self._dissolving = order == DISSOLVE
        if order != GO:
            self._leave()

    def _leave(self) -> None:
        self._leaving = True
        self._post.row.leaving()

    def _go(self) -> None:
        """Take along nothing: what this worker was woken for would otherwise wait for nobody."""
        for fd, client in self._arrivals(self._epoll.poll(0)):
            self._park(fd, client)
        while self._dissolving and (waiting := self._inbox.take()):
            self._post.row.took()
            self._park(*waiting)
        self._put_back()
        self._memory.flush()
        self._transport.close()

    # -- one turn -----------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Wait for something, take it, serve one request."""
        self._mind_doors()
        client = self._client
        again = client is not None and bool(client.unread) and not client.unsent and self._again
        if again or (client is not None and self._watched != self._fd):
            events = self._epoll.poll(0)
        else:
            events = ()
        if not events and not again:
            self._watch()
            self._titles.rest()
            if self._sated:
                self._queue_up()
            events = self._epoll.poll(self._patience())
        arrivals = self._arrivals(events)
        if arrivals:
            self._put_back()
            (self._fd, self._client), *others = arrivals
            for fd, other in others:
                self._park(fd, other)
            self._sated = True
            self._post.row.holds(1)
            self._again = bool(self._client.unread)
            self._heard_at = time.monotonic()
            self._serve()
        elif again:
            self._step()
        elif any(fd == self._fd for fd, _ in events):
            self._serve()
        elif not events:
            self._after_silence()

    _again = False
    """Whether the client in hand may have a whole request among what is unread."""
    _sated = False
    """Whether this worker has taken a client since it last slept."""

    def _queue_up(self) -> None:
        """Go behind the other sleepers: the kernel wakes the first, and that is to be one with nobody in hand. So, with
        no more clients than workers, each client soon has a worker that keeps it."""
        self._sated = False
        for fd in (self._inbox.fileno(), *(self._doors if self._door_open else ())):
            self._epoll.unregister(fd)
            self._epoll.register(fd, _EXCLUSIVE)

    def _arrivals(self, events: list[tuple[int, int]]) -> list[tuple[int, Client]]:
        """One client of everything shared that this worker was woken for."""
        arrivals = []
        for fd, _ in events:
            if fd == self._inbox.fileno():
                taken = self._inbox.take()
                if taken:
                    self._post.row.took()
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
        waits = []
        if not self._door_open:
            waits.append(CROWDED_PAUSE)  # nobody wakes a worker to tell that the queue or the server has room again
        if self._client is not None and self._client.kind != DOVECOT_SASL:
            waits.append(self._heard_at + self._settings.server.client_idle_timeout - time.monotonic())
        if self._memory.pending:
            waits.append(FLUSH_PAUSE)
        if self._transport.holds:
            waits.append(self._settings.server.http_client.idle_connection_timeout + 1)
        return max(0.0, min(waits)) if waits else None

    def _after_silence(self) -> None:
        self._memory.flush()
        now = time.monotonic()
        self._transport.expire(now)
        idle = self._settings.server.client_idle_timeout
        if self._client is not None and self._client.kind != DOVECOT_SASL and now - self._heard_at >= idle:
            self._close("idle for too long")

    # -- the doors ----------------------------------------------------------------------------------------------

    def _mind_doors(self) -> None:
        """Accept nothing while the pool's queue is full or the server holds all the connections it may."""
        post = self._post
        if self._crowded:
            self._crowded = post.board.held >= post.max_connections
        opened = not self._crowded and post.pool_row.waiting < post.pool.max_queue
        if opened is self._door_open:
            return
        self._door_open = opened
        for fd in self._doors:
            if opened:
                self._epoll.register(fd, _EXCLUSIVE)
            else:
                self._epoll.unregister(fd)

    def _accept(self, door: socket.socket, where: str) -> tuple[int, Client] | None:
        self._crowded = self._post.board.held >= self._post.max_connections
        if self._crowded:
            return None
        try:
            sock, address = door.accept()
        except OSError:
            return None
        sock.setblocking(False)
        listener = self._listeners[where]
        client = Client(listener.kind, listener.name, where, listen.label(sock, address), time.monotonic())
        if self._log.info:
            self._log.info("New connection established", **trace.fields(client), listener=listener.name)
        return sock.detach(), client

    # -- the client in hand -------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Have epoll tell when the client in hand has something to say, or takes more of its reply."""
        if self._client is None:
            return
        wanted = select.EPOLLOUT if self._client.unsent else select.EPOLLIN
        if self._watched != self._fd:
            self._epoll.register(self._fd, wanted)
            self._watched = self._fd
            self._wanted = wanted
        elif self._wanted != wanted:
            self._epoll.modify(self._fd, wanted)
            self._wanted = wanted

    _wanted = 0

    def _serve(self) -> None:
        """The client in hand has something to say: hear it, and answer it if it is a whole request."""
        client = self._client
        if client.unsent:
            self._write(b"")
            return
        if not self._again:
            try:
                data = os.read(self._fd, READ)
            except BlockingIOError:
                return
            except OSError as error:
                self._close(error.strerror or "connection lost")
                return
            if not data:
                self._close("in the middle of a request" if client.unread else "")
                return
            client.unread = client.unread + data if client.unread else data
        self._step()

    def _step(self) -> None:
        """Answer the next request among what is unread, if it is whole."""
        client, post = self._client, self._post
        if post.board.generation != post.generation:
            self._make_way()
            return
        listener = self._listeners.get(client.where)
        if listener is not None and listener.kind == client.kind:
            client.name = listener.name
        try:
            reply = self._services[client.kind].step(client)
        except Malformed as error:
            self._close(f"malformed request: {error}")
            return
        except HangUp as error:
            self._close(error.reason)
            return
        except Exception as error:  # no input may end a worker: a defect of ours costs one connection
            self._close(f"internal error: {whereabouts(error)}", error=True)
            return
        self._heard_at = time.monotonic()
        if reply is None:
            self._again = False
            return
        self._again = bool(client.unread)
        post.row.served()
        if post.row.requests == self._tired_at:
            self._tell(TIRED)
        self._write(reply)
        self._memory.tend()

    def _make_way(self) -> None:
        """The next generation serves, and what was asked since then is for it to answer: give back the client, and
        wait for the word to leave, which is on its way."""
        self._put_back()
        self._post.channel.setblocking(True)
        self._obey()

    def _write(self, reply: bytes) -> None:
        """One send per reply. What the client does not take now is kept, and it is not heard before it has."""
        client = self._client
        reply = client.unsent + reply
        try:
            sent = os.write(self._fd, reply) if reply else 0
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._close(error.strerror or "connection lost")
            return
        client.unsent = reply[sent:]

    def _put_back(self) -> None:
        """Other work goes first: the client in hand queues up behind it, or waits in parking until it speaks."""
        if self._client is None:
            return
        if self._watched == self._fd:
            self._epoll.unregister(self._fd)
        self._park(self._fd, self._client)
        self._let_go()

    def _park(self, fd: int, client: Client) -> None:
        message = client.pack()
        try:
            handoff.give(self._post.parking, fd, message)
        except OSError:
            writable = select.poll()
            writable.register(self._post.parking, select.POLLOUT)
            writable.poll(PARKING_PATIENCE * 1000)
            try:
                handoff.give(self._post.parking, fd, message)
            except OSError as error:
                if self._log.info:
                    reason = f"parking takes no client: {error.strerror}"
                    self._log.info("Connection closed", **trace.fields(client), reason=reason)
                os.close(fd)
                return
        self._post.row.gave()
        os.close(fd)

    def _close(self, reason: str, error: bool = False) -> None:
        """End the connection in hand; `reason` is "" when its client ended it, as it may."""
        say = self._log.error if error else self._log.info
        if say:
            given = {"reason": reason} if reason else {}
            say("Connection closed", **trace.fields(self._client), **given)
        os.close(self._fd)
        self._let_go()

    def _let_go(self) -> None:
        self._client = None
        self._fd = self._watched = -1
        self._again = False
        self._post.row.holds(0)

    def _tell(self, word: bytes) -> None:
        try:
            self._post.channel.send(word)
        except OSError:
            pass  # the master is gone, and the channel's end of file will say so


def _noted(*_: object) -> None:
    """Signals arrive through the wakeup descriptor; a handler has to exist for that."""


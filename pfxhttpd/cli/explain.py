"""`pfxhttpd query --explain`: makes the exchange with the backend in this process, and shows each part of it.

The request goes through the services of a worker (`process.services`), with the settings of the configuration file. So
no server needs to run, and what a running server has in its memory (response cache, circuit breakers, kept connections,
tokens) has no influence.
"""

from __future__ import annotations

import argparse
import getpass
import gzip
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from http.client import responses
from typing import TypeVar

from pfxhttpd.cli import CommandError, NoReplyError, configuration
from pfxhttpd.config.schema import did_you_mean
from pfxhttpd.config.settings import DOVECOT_SASL, SECTIONS, Entry, Logging, Observability, Pool, Settings
from pfxhttpd.io import tls
from pfxhttpd.io.backend_connection_limit import ConnectionLimit, lock_file
from pfxhttpd.io.cache.client import CacheClient
from pfxhttpd.io.handoff import Connection
from pfxhttpd.io.log import Logger
from pfxhttpd.io.scoreboard import Scoreboard
from pfxhttpd.io.scoreboard.entry_counters import EntryCounters
from pfxhttpd.io.transport.recorder import Exchange, RecordingTransport
from pfxhttpd.process import services
from pfxhttpd.process.capacity import targets_of
from pfxhttpd.process.context import ServiceContext
from pfxhttpd.process.metric_totals import ProcessMetrics
from pfxhttpd.rules.explanation import explain
from pfxhttpd.rules.known_secrets import (
    configured_secrets,
    entry_secrets,
    header_secrets,
    secret_forms,
    url_secrets,
    without_secrets,
)
from pfxhttpd.rules.redact import REDACTED, Redactor, is_secret_name
from pfxhttpd.rules.response import BackendResponse
from pfxhttpd.service import CloseConnection
from pfxhttpd.service.sasl import mechanisms
from pfxhttpd.wire.dovecot_lines import greeting
from pfxhttpd.wire.sanitize import clean

BODY_LIMIT = 1000
"""Characters of a body that are shown."""

_VERDICT_HEADERS = ("auth-status", "auth-user")
"""Headers of a response that are no secret although they look like one by their names."""

Received = TypeVar("Received")


class Explanation:
    """The client side of a connection to the services in this process: what `query` sends there is answered at once."""

    def __init__(self, settings: Settings, entry: Entry, secret: str, token: bool) -> None:
        """`secret` is the password of a login, or its token if `token` is true. Raises `SetupError`."""
        self._settings, self._entry, self._secret, self._token = settings, entry, secret, token
        self._log = os.memfd_create("log", os.MFD_CLOEXEC)
        self._counters = EntryCounters([(entry.kind, entry.name)])
        only = {kind: {entry.name: entry} if kind == entry.kind else {} for kind in SECTIONS}
        cache = replace(settings.server.response_cache, enabled=False)
        server = replace(settings.server, response_cache=cache, observability=Observability())
        logging = Logging(level="info", use_systemd=True)
        logger = Logger.open(logging, stream_fd=self._log, secrets={*configured_secrets(settings), secret})
        built = services.build(
            _context(entry, self._counters),
            replace(settings, entries=only, server=server),
            tls.context(server.tls),
            logger,
            RecordingTransport,
        )
        assert isinstance(built.transport, RecordingTransport)
        self._service, self._transport = built.by_kind[entry.kind], built.transport
        self._connection = Connection(entry.kind, entry.name, "", "query", time.monotonic())
        self._received = greeting(mechanisms(entry), os.getpid(), 1, "") if entry.kind == DOVECOT_SASL else b""

    def send(self, request: bytes) -> None:
        self._connection.unread += request

    def receive(self, parse: Callable[[bytes], Received | None]) -> Received:
        """What `parse` makes of the reply. Raises `NoReplyError`, and what `parse` raises."""
        while (reply := parse(self._received)) is None:
            try:
                answer = self._service.handle(self._connection)
            except CloseConnection as close:
                raise NoReplyError(f"the server would close the connection without a reply: {close.reason}") from None
            if answer is None:
                raise NoReplyError("the request is not complete")
            self._received += answer
        self._received = b""
        return reply

    def close(self) -> None:
        self._transport.close()
        os.close(self._log)

    def lines(self, user: str) -> Iterator[str]:
        """What has been sent and received, and what followed from it. `user` is that of a login."""
        exchanges, redact = self._transport.exchanges, self._redactor()
        for exchange in exchanges:
            yield from _exchange_lines(exchange, redact)
        last = exchanges[-1] if exchanges else None
        failures = [counts.error for _, _, counts in self._counters.changes() if counts.outcomes()["failed"]]
        if failures:
            yield f"Rule: {redact(failures[0])}; this is a failure of the backend, so the reply is temporary"
        elif self._token:
            yield "Rule: sasl_oidc_auth: the token decides, without a request to the backend"
        elif last is not None and last.response is not None:
            headers = {name.lower(): value for name, value in _texts(last.response.raw_headers)}
            response = BackendResponse(last.response.status_code, headers, last.response.body)
            yield f"Rule: {explain(self._entry, response, user, redact)}"
        log = os.pread(self._log, 65536, 0).decode("utf-8", "replace")
        yield from (f"Log: {clean(line)}" for line in log.splitlines())

    def _redactor(self) -> Callable[[str], str]:
        """Removes the secrets of the exchanges from a text: those that are known, and what looks like one."""
        secrets = entry_secrets(self._entry) | set(url_secrets(self._settings.server.http_client.proxy))
        secrets.add(self._secret)
        for exchange in self._transport.exchanges:
            for name, value in _headers(exchange.head):
                if is_secret_name(name, strict=True):
                    secrets.update(header_secrets(value))
        forms, shapes = secret_forms(secrets), Redactor()

        def redact(text: str) -> str:
            shown, left = shapes.redact(without_secrets(text, forms), BODY_LIMIT)
            return f"{shown}... ({left} more characters)" if left else shown

        return redact


def entry_of(options: argparse.Namespace, environ: Mapping[str, str], kind: str, name: str) -> tuple[Settings, Entry]:
    """The entry that answers for `name`, and the settings that it is in. Raises `ConfigError`, `CommandError`."""
    settings = configuration.settings(configuration.path(options, environ), options.format, environ)
    entries = settings.entries[kind]
    if name not in entries:
        text = f"{settings.source}: no entry {name} under {SECTIONS[kind]}{did_you_mean(name, entries)}"
        raise CommandError(text, os.EX_CONFIG)
    return settings, entries[name]


def introduction(settings: Settings) -> str:
    """Who has sent the request."""
    return (
        f"This command sends the request itself, as the user {_user()} and with the settings of {settings.source}."
        " It does not ask a running server."
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.geteuid())


class _NoCache(CacheClient):
    """A client of a cache that does not run, and is not waited for."""

    def __init__(self) -> None:
        super().__init__(os.devnull, b"")

    def connect(self, timeout: float) -> None:
        pass


def _context(entry: Entry, counters: EntryCounters) -> ServiceContext:
    """The context of a worker, with a scoreboard of its own."""
    board = Scoreboard()
    return ServiceContext(
        title="",
        pool=Pool(1, 1),
        row=board.worker(board.allocate_worker(0, 0, 1)),
        board=board,
        counters=counters,
        metrics=ProcessMetrics(),
        targets={target: index for index, target in enumerate(targets_of(entry))},
        cache=_NoCache(),
        connection_limit=ConnectionLimit(lock_file(), 1, 1),
    )


# The text


def _exchange_lines(exchange: Exchange, redact: Callable[[str], str]) -> Iterator[str]:
    scheme, host, port = exchange.origin
    through = f" through the proxy {exchange.proxy}" if exchange.proxy else ""
    yield f"Request to {scheme}://{f'[{host}]' if ':' in host else host}:{port}{through}:"
    request_line, *_ = exchange.head.decode("latin-1").split("\r\n")
    yield f"    {clean(redact(request_line))}"
    headers = [*_headers(exchange.head)]
    yield from _header_lines(headers, redact)
    yield from _body_lines(_plain(exchange.body, headers), redact)
    response = exchange.response
    if response is None:
        yield f"No response: {clean(redact(exchange.error))}"
    else:
        yield f"Response:\n    {response.status_code} {responses.get(response.status_code, '')}".rstrip()
        yield from _header_lines(_texts(response.raw_headers), redact)
        yield from _body_lines(response.body, redact)
    steps = [f"{name} {_milliseconds(seconds)}" for name, seconds in exchange.steps]
    yield f"Time: {', '.join(steps)}; {_milliseconds(sum(seconds for _, seconds in exchange.steps))} in all"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _headers(head: bytes) -> Iterator[tuple[str, str]]:
    """The header fields of a request's head, which is ours and well formed."""
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, colon, value = line.partition(": ")
        if colon:
            yield name, value


def _texts(headers: list[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.strip(b" \t").decode("latin-1")) for name, value in headers]


def _header_lines(headers: list[tuple[str, str]], redact: Callable[[str], str]) -> Iterator[str]:
    for name, value in headers:
        secret = is_secret_name(name, strict=True) and name.lower() not in _VERDICT_HEADERS
        yield f"    {clean(name)}: {REDACTED if secret else clean(redact(value))}"


def _plain(body: bytes, headers: list[tuple[str, str]]) -> bytes:
    """The body as it was before its compression."""
    return gzip.decompress(body) if ("Content-Encoding", "gzip") in headers and body else body


def _body_lines(body: bytes, redact: Callable[[str], str]) -> Iterator[str]:
    if body:
        yield ""
        yield from (f"    {clean(line)}" for line in redact(body.decode("utf-8", "replace")).splitlines())

"""`pfxhttpd query`: sends a running server one request, as Postfix does, and prints the reply.

It uses the same sockets and protocols as Postfix, so the reply is what Postfix gets. With --explain it makes the exchange
with the backend itself instead, and shows each part of it (`explain`).
"""

from __future__ import annotations

import argparse
import getpass
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TextIO, TypeVar

from pfxhttpd.cli import NoReplyError, UsageError, postfix_client, server_address
from pfxhttpd.cli.postfix_client import PERMANENT, Reply
from pfxhttpd.cli.server_address import Address
from pfxhttpd.config.settings import DOVECOT_SASL, POLICY_SERVICE, SOCKET_MAP
from pfxhttpd.wire import ProtocolError
from pfxhttpd.wire.sanitize import clean

PLAIN = "PLAIN"

Received = TypeVar("Received")

TIMEOUTS = {SOCKET_MAP: 100.0, POLICY_SERVICE: 100.0, DOVECOT_SASL: 10.0}
"""Seconds after which Postfix gives up (socketmap_table(5), smtpd_policy_service_timeout, xsasl_dovecot_server.c)."""


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print the reply. Returns what it means, as an exit code. Raises `CommandError`."""
    query = parse(options, sys.stdin)
    if options.explain:
        return explained(query, options, environ)
    if options.address:
        address = server_address.parse(options.address)
    else:
        address = server_address.configured(options, environ, query.kind, query.name)
    try:
        with Connection(address, options.timeout or TIMEOUTS[query.kind]) as connection:
            reply = query.exchange(connection)
    except ProtocolError as error:
        raise NoReplyError(f"{address} does not speak this protocol: {error}") from None
    print(clean(reply.text))
    return reply.exit_code


def explained(query: Query, options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Make the exchange with the backend here, and print each part of it before the reply. Raises `CommandError`,
    `ConfigError`, `SetupError`."""
    from pfxhttpd.cli import explain  # it needs the modules of the server

    settings, entry = explain.entry_of(options, environ, query.kind, query.name)
    print(explain.introduction(settings))
    explanation = explain.Explanation(settings, entry, query.secret, query.mechanism != PLAIN)
    try:
        try:
            reply = query.exchange(explanation)
        finally:
            for line in explanation.lines(query.user):
                print(line)
        print(f"Reply:\n{clean(reply.text)}")
        return reply.exit_code
    finally:
        explanation.close()


class Channel(Protocol):
    """What requests are sent to. Both methods raise `NoReplyError`, and `receive` also what `parse` raises."""

    def send(self, request: bytes) -> None: ...

    def receive(self, parse: Callable[[bytes], Received | None]) -> Received:
        """Read until `parse` returns a value for what was received."""


class Connection:
    """A connection to the server, and the time by which the whole exchange has to be over."""

    def __init__(self, address: Address, timeout: float) -> None:
        """Connect. `timeout` is in seconds. Raises `NoReplyError`."""
        self._address = address
        self._deadline = time.monotonic() + timeout
        try:
            self._socket = address.connect(timeout)
        except TimeoutError:
            raise NoReplyError(f"no connection to {address} within {timeout:g} s") from None
        except (OSError, ValueError) as error:
            raise NoReplyError(f"cannot connect to {address}: {getattr(error, 'strerror', None) or error}") from None

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, request: bytes) -> None:
        """Raises `NoReplyError`."""
        with self._before_deadline():
            self._socket.sendall(request)

    def receive(self, parse: Callable[[bytes], Received | None]) -> Received:
        """Read until `parse` returns a value for what was received. Raises `NoReplyError`, and what `parse` raises."""
        buffer = b""
        while (reply := parse(buffer)) is None:
            with self._before_deadline():
                try:
                    data = self._socket.recv(65536)
                except ConnectionResetError:  # how a SASL service closes a connection over TCP
                    data = b""
            if not data:
                raise NoReplyError(
                    f"{self._address} closed the connection without a reply; the log of the server has the reason"
                )
            buffer += data
        return reply

    @contextmanager
    def _before_deadline(self) -> Iterator[None]:
        remaining = self._deadline - time.monotonic()
        try:
            if remaining <= 0:
                raise TimeoutError
            self._socket.settimeout(remaining)
            yield
        except TimeoutError:
            raise NoReplyError(f"no reply from {self._address} in time") from None
        except OSError as error:
            raise NoReplyError(f"{self._address}: {error.strerror or error}") from None


@dataclass(frozen=True, slots=True)
class Query:
    """The kind and the name of the listener to ask, and the exchange with it. A login has a `user`, and a `secret`, which
    is a password with the `mechanism` PLAIN and otherwise a token."""

    kind: str
    name: str
    exchange: Callable[[Channel], Reply]
    user: str = ""
    secret: str = ""
    mechanism: str = PLAIN


def parse(options: argparse.Namespace, stdin: TextIO) -> Query:
    """The query that the arguments describe. Raises `UsageError` when they do not fit its kind."""
    arguments: list[str] = options.arguments
    if options.mechanism and options.sasl is None:
        raise UsageError("--mechanism needs --sasl")
    if options.explain and (options.address or options.timeout):
        raise UsageError("--explain asks no server, so --address and --timeout have no meaning with it")
    if options.policy is not None:
        attributes = _attributes(arguments)
        return Query(POLICY_SERVICE, options.policy, lambda connection: _ask_policy(connection, attributes))
    if options.sasl is not None:
        if len(arguments) != 1 or "\0" in arguments[0]:
            raise UsageError("query --sasl NAME takes one more argument, the user")
        user, mechanism = arguments[0], options.mechanism or PLAIN
        secret = _secret("Password" if mechanism == PLAIN else "Token", user, stdin)
        exchange = partial(_log_in, mechanism=mechanism, user=user, secret=secret)
        return Query(DOVECOT_SASL, options.sasl, exchange, user, secret, mechanism)
    if len(arguments) != 2:
        raise UsageError("query takes two arguments, MAP and KEY (quote a key that has spaces)")
    name, key = arguments
    if " " in name:
        raise UsageError("the name of a map has no spaces")
    return Query(SOCKET_MAP, name, lambda connection: _look_up(connection, name, key))


def _attributes(arguments: Sequence[str]) -> list[str]:
    for argument in arguments:
        if argument.find("=") < 1 or "\n" in argument or "\0" in argument:
            raise UsageError(f"{argument!r} is no attribute: expected name=value")
    if any(argument.startswith("request=") for argument in arguments):
        return list(arguments)
    return ["request=smtpd_access_policy", *arguments]  # Postfix sends it first in every request


def _secret(what: str, user: str, stdin: TextIO) -> str:
    """From a prompt without echo on a terminal, else the first line of standard input. ps(1) would show an argument."""
    if stdin.isatty():
        return getpass.getpass(f"{what} of {user}: ")
    line = stdin.readline()
    if not line:
        raise UsageError(f"no {what.lower()} on standard input")
    return line.removesuffix("\n")


def _look_up(connection: Channel, name: str, key: str) -> Reply:
    connection.send(postfix_client.socketmap_request(os.fsencode(name), os.fsencode(key)))
    return connection.receive(postfix_client.socketmap_reply)


def _ask_policy(connection: Channel, attributes: Sequence[str]) -> Reply:
    connection.send(postfix_client.policy_request([os.fsencode(attribute) for attribute in attributes]))
    return connection.receive(postfix_client.policy_reply)


def _log_in(connection: Channel, mechanism: str, user: str, secret: str) -> Reply:
    offered = connection.receive(postfix_client.sasl_greeting)
    if mechanism not in offered:
        return Reply(f"{mechanism} is not offered: MECH {' '.join(offered)}", PERMANENT)
    connection.send(postfix_client.sasl_request(mechanism, user, secret, os.getpid()))
    reply = connection.receive(postfix_client.sasl_reply)
    if mechanism == PLAIN or not reply.text.startswith("CONT "):
        return reply
    connection.send(postfix_client.SASL_ACKNOWLEDGEMENT)
    final = connection.receive(postfix_client.sasl_reply)
    return Reply(f"{final.text} challenge={reply.text.removeprefix('CONT ')}", final.exit_code)

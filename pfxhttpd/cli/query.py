"""`pfxhttpd query`: asks a running server one question, the way Postfix would, and shows the reply.

It opens the same sockets and speaks the same protocols as Postfix does, so what it shows is what Postfix gets.
"""

from __future__ import annotations

import argparse
import getpass
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

from pfxhttpd.cli import configuration, postfix_client
from pfxhttpd.cli.postfix_client import FOUND, TEMPORARY, ServerReply
from pfxhttpd.config import values
from pfxhttpd.config.errors import ConfigError
from pfxhttpd.config.settings import DOVECOT_SASL, POLICY_SERVICE, SOCKET_MAP, Listener, Settings
from pfxhttpd.wire import ProtocolError
from pfxhttpd.wire.text import clean

USAGE = 64
CONFIGURATION = 78

PATIENCE = {SOCKET_MAP: 100.0, POLICY_SERVICE: 100.0, DOVECOT_SASL: 10.0}
"""Seconds after which Postfix gives up (socketmap_table(5), smtpd_policy_service_timeout, xsasl_dovecot_server.c)."""


USAGE_TEXT = """\
pfxhttpd query [--address WHERE] [--timeout DURATION] MAP KEY
       pfxhttpd query [--address WHERE] [--timeout DURATION] --policy NAME ATTRIBUTE=VALUE...
       pfxhttpd query [--address WHERE] [--timeout DURATION] --sasl NAME USER"""


class UsageError(Exception):
    """The command line, or the configuration it names, cannot tell whom to ask. `code` is the exit code."""

    def __init__(self, text: str, code: int = USAGE) -> None:
        super().__init__(text)
        self.code = code


class NoReplyError(Exception):
    """Nobody answered; Postfix would try again later."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server listens: a Unix socket's path, or a host and a port."""

    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"inet:[{self.host}]:{self.port}" if ":" in self.host else f"inet:{self.host}:{self.port}"

    def connect(self, timeout: float) -> socket.socket:
        """Raises OSError; TimeoutError is one."""
        if not self.path:
            return socket.create_connection((self.host, self.port), timeout)
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(timeout)
            connection.connect(self.path)
        except BaseException:
            connection.close()
            raise
        return connection


def patience(text: str) -> float:
    """An argparse type: a duration above zero, in seconds."""
    try:
        seconds = values.seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not seconds:
        raise argparse.ArgumentTypeError("no reply comes in no time")
    return seconds


def add(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "query",
        help="ask a running server one question, as Postfix would",
        usage=USAGE_TEXT,
        description="Asks a running server one question, as Postfix would, and prints the reply."
        " Exit code: 0 found, 1 not found, 75 temporary, 69 permanent.",
    )
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--policy", metavar="NAME", help="ask this policy service")
    kinds.add_argument(
        "--sasl",
        metavar="NAME",
        help="log USER in at this SASL service; the password comes from a prompt or standard input",
    )
    parser.add_argument(
        "--address", metavar="WHERE", help="unix:/path or inet:host:port, instead of the configuration's"
    )
    parser.add_argument(
        "--timeout",
        type=patience,
        metavar="DURATION",
        help="how long to wait for the reply (default: as long as Postfix does)",
    )
    parser.add_argument("words", nargs="*", metavar="WORD", help="MAP KEY, or attributes, or USER")
    parser.set_defaults(run=run)


def address(text: str) -> Address:
    """`unix:/path` or `inet:host:port`, the forms of main.cf. Raises Mistake."""
    kind, _, rest = text.partition(":")
    if kind == "unix" and rest:
        return Address(path=rest)
    host, _, port = rest.rpartition(":")
    if kind in ("inet", "tcp") and port.isascii() and port.isdigit() and int(port[:6]) in range(1, 65536):
        return Address(host=_reachable(host), port=int(port))
    raise UsageError(f"{text!r} is no address: unix:/path or inet:host:port is meant")


def _reachable(host: str, only_ipv6: bool = False) -> str:
    """Where a server that listens on `host` can be asked from its own machine."""
    host = host.removeprefix("[").removesuffix("]")
    if host in ("", "::", "0.0.0.0", "*"):
        return "::1" if only_ipv6 else "127.0.0.1"
    return host


def settings_of(options: argparse.Namespace, environ: Mapping[str, str]) -> Settings:
    """The configuration that the server runs with, as far as this user can read it. Raises Mistake."""
    try:
        return configuration.settings(configuration.path(options, environ), options.format, environ)
    except ConfigError as invalid:
        raise UsageError(f"{invalid}\npfxhttpd: --address asks without a configuration", CONFIGURATION) from None


def listening(settings: Settings, kind: str, name: str) -> Address:
    """The address of the listener that answers for `name`. Raises Mistake.

    Socket maps are chosen by the question, so any of their listeners will do and one of the same name is preferred;
    a policy or SASL service is chosen by its listener.
    """
    listeners = [listener for listener in settings.server.listen if listener.kind == kind]
    fitting = [listener for listener in listeners if listener.name == name]
    if kind == SOCKET_MAP:
        fitting += listeners
    if not fitting:
        raise UsageError(
            f"the configuration {settings.source} has no {kind} listener"
            + (f" named {name}" if listeners else "")
            + "; --address tells whom to ask",
            CONFIGURATION,
        )
    return _address_of(fitting[0])


def _address_of(listener: Listener) -> Address:
    if listener.systemd_socket_name:
        raise UsageError(
            f"systemd knows the address of the listener {listener.name}, the configuration does not;"
            " --address tells it",
            CONFIGURATION,
        )
    if listener.type == "unix":
        return Address(path=listener.address)
    return Address(host=_reachable(listener.address, listener.type == "tcp6"), port=listener.port)


class Conversation:
    """One connection and the moment when patience ends."""

    def __init__(self, where: Address, timeout: float) -> None:
        self._where = where
        self._end = time.monotonic() + timeout
        try:
            self._socket = where.connect(timeout)
        except TimeoutError:
            raise NoReplyError(f"no connection to {where} within {timeout:g} s") from None
        except (OSError, ValueError) as error:
            raise NoReplyError(f"cannot connect to {where}: {getattr(error, 'strerror', None) or error}") from None

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def say(self, question: bytes) -> None:
        with self._in_time():
            self._socket.sendall(question)

    def hear(self, take: Callable[[bytes], ServerReply | None]) -> ServerReply:
        """Reads until `take` makes a reply of what came. Raises Unanswered, and Malformed from `take`."""
        buffer = b""
        while (reply := take(buffer)) is None:
            with self._in_time():
                try:
                    data = self._socket.recv(65536)
                except ConnectionResetError:  # how a SASL service hangs up over TCP
                    data = b""
            if not data:
                raise NoReplyError(f"{self._where} closed the connection without a reply")
            buffer += data
        return reply

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        left = self._end - time.monotonic()
        try:
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            yield
        except TimeoutError:
            raise NoReplyError(f"no reply from {self._where} in time") from None
        except OSError as error:
            raise NoReplyError(f"{self._where}: {error.strerror or error}") from None


def ask_map(conversation: Conversation, name: str, key: str) -> ServerReply:
    conversation.say(postfix_client.socketmap_question(os.fsencode(name), os.fsencode(key)))
    return conversation.hear(postfix_client.socketmap_reply)


def ask_policy(conversation: Conversation, attributes: Sequence[str]) -> ServerReply:
    conversation.say(postfix_client.policy_question([os.fsencode(attribute) for attribute in attributes]))
    return conversation.hear(postfix_client.policy_reply)


def ask_login(conversation: Conversation, user: str, password: str) -> ServerReply:
    greeting = conversation.hear(postfix_client.sasl_greeting)
    if greeting.meaning != FOUND:
        return ServerReply(f"PLAIN is not offered: {greeting.text}", greeting.meaning)
    conversation.say(postfix_client.sasl_question(user, password, os.getpid()))
    return conversation.hear(postfix_client.sasl_reply)


def password_of(user: str, entry: TextIO) -> str:
    """Asked for without echo on a terminal, else the first line of standard input; never an argument, which ps shows."""
    if entry.isatty():
        return getpass.getpass(f"Password of {user}: ")
    line = entry.readline()
    if not line:
        raise UsageError("no password on standard input")
    return line.removesuffix("\n")


def checked_attributes(words: Sequence[str]) -> Sequence[str]:
    for word in words:
        if word.find("=") < 1 or "\n" in word or "\0" in word:
            raise UsageError(f"{word!r} is no attribute: name=value is meant")
    if not any(word.startswith("request=") for word in words):
        return ["request=smtpd_access_policy", *words]  # Postfix always says so first
    return words


@dataclass(frozen=True, slots=True)
class Question:
    """Which kind of listener is asked, under which name, and how."""

    kind: str
    name: str
    ask: Callable[[Conversation], ServerReply]


def question_of(options: argparse.Namespace, entry: TextIO) -> Question:
    """Raises Mistake when the words do not fit the kind of question."""
    words: list[str] = options.words
    if options.policy is not None:
        attributes = checked_attributes(words)
        return Question(POLICY_SERVICE, options.policy, lambda talk: ask_policy(talk, attributes))
    if options.sasl is not None:
        if len(words) != 1 or "\0" in words[0]:
            raise UsageError("query --sasl NAME takes one more word, the user")
        password = password_of(words[0], entry)
        return Question(DOVECOT_SASL, options.sasl, lambda talk: ask_login(talk, words[0], password))
    if len(words) != 2:
        raise UsageError("query takes two words, MAP and KEY (quote a key that has spaces)")
    if " " in words[0]:
        raise UsageError("the name of a map has no spaces")
    return Question(SOCKET_MAP, words[0], lambda talk: ask_map(talk, words[0], words[1]))


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    try:
        question = question_of(options, sys.stdin)
        where = (
            address(options.address)
            if options.address
            else listening(settings_of(options, environ), question.kind, question.name)
        )
        with Conversation(where, options.timeout or PATIENCE[question.kind]) as conversation:
            reply = question.ask(conversation)
    except UsageError as mistake:
        return _fail(str(mistake), mistake.code)
    except NoReplyError as unanswered:
        return _fail(str(unanswered), TEMPORARY)
    except ProtocolError as malformed:
        return _fail(f"{where} does not speak this protocol: {malformed}", TEMPORARY)
    print(clean(reply.text))
    return reply.meaning


def _fail(text: str, code: int) -> int:
    print(f"pfxhttpd: {text}", file=sys.stderr)
    return code

"""A small HTTP API behind pfxhttpd, to be read as an example of what to write.

It needs nothing but Python's standard library and runs alone, too:

    python3 demo_backend.py 23452
    curl --json '{"map": "demo_map", "key": "alice@example.com"}' http://127.0.0.1:23452/lookup

Three questions, each a POST with a JSON object, each answered with a JSON object:

    /lookup   {"map": ..., "key": ...}      200 {"data": {"result": ...}}   null where there is nothing
                                            200 {"error": ...}              the key can never be answered
    /policy   the attributes of             200 {"policy": {"result": ...}} an action of access(5)
              Postfix's policy protocol
    /login    {"username", "password", …}   200 and Auth-User               the password is right
                                            403 and Auth-Status             it is not

Everything else is an error status with {"error": ...}. What pfxhttpd makes of a status matters to an API's
author: 5xx, 408, 425 and 429 are temporary (the mail waits), any other unexpected status is permanent. That is why
"no such mailbox" is a 200 with null: 404 would mean that the API itself is not where it should be.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def hashed(password: str) -> bytes:
    """What is kept of a password. The salt is one for all because the table below is public anyway."""
    return hashlib.pbkdf2_hmac("sha256", password.encode(), b"demo", 20_000)


DOMAINS = {
    "example.com": "the first demo domain",
    "example.org": "the second demo domain",
}
MAILBOXES = {
    "alice@example.com": "example.com/alice/",
    "some one@example.com": "example.com/some.one/",
    "bob@example.org": "example.org/bob/",
}
ALIASES = {
    "postmaster@example.com": ["alice@example.com"],
    "team@example.com": ["alice@example.com", "bob@example.org"],
}
MAPS: Mapping[str, Mapping[str, Any]] = {
    "demo_map": MAILBOXES,
    "demo_domains": DOMAINS,
    "demo_aliases": ALIASES,
}
DOWN = {"outage@example.com"}
"""Keys and users that are answered as if the database were down."""
BROKEN = {"wrong@example.com": "this mailbox cannot be looked up"}
"""Keys whose answer is an error that asking again does not cure."""

BLOCKED_SENDERS = {"spammer@example.net": "REJECT Mail from this sender is not wanted"}
GREYLISTED_SENDERS = {"stranger@example.net"}
GREYLIST_SECONDS = 10.0

LOGINS = {
    "alice@example.com": hashed("wonderland"),
    "bob@example.org": hashed("builder"),
}
LOCKED = {"bob@example.org": "Account is locked"}

MAX_BODY = 1 << 20


class Problem(Exception):
    """A request that gets an error status and this text."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class Greylist:
    """Who was turned away when. A first attempt waits; the same one `seconds` later is let through.

    It forgets nothing until the process ends; one that is meant to last keeps its table in a database, with an end.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._first: dict[tuple[str, ...], float] = {}
        self._lock = threading.Lock()

    def must_wait(self, attempt: tuple[str, ...], now: float) -> bool:
        with self._lock:
            return now - self._first.setdefault(attempt, now) < self._seconds


def text_of(question: Mapping[str, Any], name: str) -> str:
    """The named field, which must be there and be a string."""
    value = question.get(name)
    if not isinstance(value, str):
        raise Problem(HTTPStatus.BAD_REQUEST, f"the field {name} is missing")
    return value


class Api(BaseHTTPRequestHandler):
    """One connection. It is kept open: a new one for every question would cost more than the answer."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an answer is one small packet, and nothing follows that could fill it
    wbufsize = -1  # head and body leave together
    timeout = 300  # seconds; longer than the client keeps an idle connection

    greylist: Greylist

    def version_string(self) -> str:
        return "demo-backend"

    def do_POST(self) -> None:
        try:
            question = self._question()
            path = self.path.partition("?")[0]
            match path:
                case "/lookup":
                    self._lookup(question)
                case "/policy":
                    self._policy(question)
                case "/login":
                    self._login(question)
                case _:
                    raise Problem(HTTPStatus.NOT_FOUND, f"there is nothing at {path}")
        except Problem as problem:
            self._answer({"error": problem.text}, problem.status)

    def _lookup(self, question: Mapping[str, Any]) -> None:
        name, key = text_of(question, "map"), text_of(question, "key")
        if name not in MAPS:
            raise Problem(HTTPStatus.NOT_FOUND, f"there is no map {name}")
        if key in DOWN:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "the database is down")
        if key in BROKEN:
            self._answer({"error": BROKEN[key]})
        else:
            self._answer({"data": {"result": MAPS[name].get(key.lower())}})

    def _policy(self, question: Mapping[str, Any]) -> None:
        sender = text_of(question, "sender").lower()
        attempt = (str(question.get("client_address")), sender, str(question.get("recipient")))
        if sender in BLOCKED_SENDERS:
            action = BLOCKED_SENDERS[sender]
        elif sender in GREYLISTED_SENDERS and self.greylist.must_wait(attempt, time.monotonic()):
            action = "DEFER_IF_PERMIT Greylisted, try again later"
        else:
            action = "DUNNO"  # no objection here; the restrictions that follow in main.cf decide
        self._answer({"policy": {"result": action}})

    def _login(self, question: Mapping[str, Any]) -> None:
        user, password = text_of(question, "username").lower(), text_of(question, "password")
        if user in DOWN:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "the database is down")
        right = hmac.compare_digest(hashed(password), LOGINS.get(user, b""))
        if not right:
            self._answer({"error": "refused"}, HTTPStatus.FORBIDDEN, {"Auth-Status": "Invalid username or password"})
        elif user in LOCKED:
            self._answer({"error": "refused"}, HTTPStatus.FORBIDDEN, {"Auth-Status": LOCKED[user]})
        else:
            self._answer({"account": user}, HTTPStatus.OK, {"Auth-User": user})

    def _question(self) -> dict[str, Any]:
        """The JSON object in the request's body, read whole, so that the connection can be used again."""
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            self.close_connection = True
            raise Problem(HTTPStatus.LENGTH_REQUIRED, "Content-Length is missing")
        if len(length) > 9 or int(length) > MAX_BODY:
            self.close_connection = True
            raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is too large")
        try:
            question = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            raise Problem(HTTPStatus.BAD_REQUEST, "the body is no JSON") from None
        if not isinstance(question, dict):
            raise Problem(HTTPStatus.BAD_REQUEST, "the body is no JSON object")
        return question

    def _answer(
        self, answer: Mapping[str, Any], status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None
    ) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """The base class's own errors (an unknown method, a broken request line) as JSON instead of HTML."""
        self.close_connection = True
        self._answer({"error": message or HTTPStatus(code).phrase}, HTTPStatus(code))

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing: pfxhttpd logs what it asks, and twice is noise in a demo."""


def server(port: int) -> ThreadingHTTPServer:
    """The API bound to a loopback port (0: any free one), not serving yet.

    Raises OSError when the port is taken."""
    handler = type("Api", (Api,), {"greylist": Greylist(GREYLIST_SECONDS)})
    ThreadingHTTPServer.allow_reuse_address = True
    return ThreadingHTTPServer(("127.0.0.1", port), handler)


def leave_with_parent() -> None:
    """Ends the process when standard input ends: whoever started it is gone, however that happened."""
    sys.stdin.buffer.read()
    os._exit(0)


def main(arguments: list[str]) -> int:
    """`demo_backend.py PORT [--child]`; a child prints `ready` once it is bound and leaves with its parent."""
    child = "--child" in arguments
    ports = [argument for argument in arguments if argument != "--child"]
    if len(ports) != 1 or not ports[0].isdigit():
        print("usage: demo_backend.py PORT", file=sys.stderr)
        return 64
    try:
        api = server(int(ports[0]))
    except (OSError, OverflowError) as error:
        print(f"cannot listen on 127.0.0.1:{ports[0]}: {error}", file=sys.stderr)
        return 69
    if child:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair: it may still have questions
        threading.Thread(target=leave_with_parent, daemon=True).start()
    try:
        with api:
            print("ready", flush=True)
            api.serve_forever()
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A small HTTP API for pfxhttpd, as an example of what to write.

It needs only Python's standard library, and can also run alone:

    python3 demo_backend.py 23452
    curl --json '{"map": "demo_map", "key": "alice@example.com"}' http://127.0.0.1:23452/lookup

There are three resources. Each request is a POST with a JSON object, and so is each response:

    /lookup   {"map": ..., "key": ...}      200 {"data": {"result": ...}}   null when there is no value
                                            200 {"error": ...}              a permanent error for this key
    /policy   the attributes of             200 {"policy": {"result": ...}} an action of access(5)
              Postfix's policy protocol
    /login    {"username", "password", …}   200 and Auth-User               the password is right
                                            403 and Auth-Status             it is not

Everything else is answered with an error status and {"error": ...}. The author of an API should know what pfxhttpd makes
of a status: 5xx, 408, 425 and 429 are temporary errors (the mail waits), any other unexpected status is a permanent error.
That is why "no such mailbox" is a 200 with null: 404 would mean that the URL is wrong.
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
    """The hash of a password. One salt for all is enough here, because the passwords are public anyway."""
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
"""Keys and users for which the API reports that its database is down."""
BROKEN = {"wrong@example.com": "this mailbox cannot be looked up"}
"""Keys whose lookup is a permanent error, and its text."""

BLOCKED_SENDERS = {"spammer@example.net": "REJECT Mail from this sender is not wanted"}
GREYLISTED_SENDERS = {"stranger@example.net"}
GREYLIST_SECONDS = 10.0

LOGINS = {
    "alice@example.com": hashed("wonderland"),
    "bob@example.org": hashed("builder"),
}
LOCKED = {"bob@example.org": "Account is locked"}

MAX_BODY = 1 << 20


class RequestError(Exception):
    """A request that is answered with this error status and text."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class Greylist:
    """The time of the first attempt of each sender. An attempt is accepted `seconds` after the first one.

    The table grows until the process ends. A real one would be in a database, and its rows would expire.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._first: dict[tuple[str, ...], float] = {}
        self._lock = threading.Lock()

    def must_wait(self, attempt: tuple[str, ...], now: float) -> bool:
        """Whether the attempt is too early. `now` is in seconds."""
        with self._lock:
            return now - self._first.setdefault(attempt, now) < self._seconds


def text_field(request: Mapping[str, Any], name: str) -> str:
    """The field of that name. Raises `RequestError` when it is missing or not a string."""
    value = request.get(name)
    if not isinstance(value, str):
        raise RequestError(HTTPStatus.BAD_REQUEST, f"the field {name} is missing")
    return value


class Api(BaseHTTPRequestHandler):
    """A client connection. It is kept open, because a new one for every request would cost more than the response."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a response is one small packet, and no further data could fill it
    wbufsize = -1  # head and body are sent together
    timeout = 300  # seconds; longer than the client keeps an idle connection

    greylist: Greylist

    def version_string(self) -> str:
        return "demo-backend"

    def do_POST(self) -> None:
        try:
            request = self._request()
            path = self.path.partition("?")[0]
            match path:
                case "/lookup":
                    self._lookup(request)
                case "/policy":
                    self._policy(request)
                case "/login":
                    self._login(request)
                case _:
                    raise RequestError(HTTPStatus.NOT_FOUND, f"there is nothing at {path}")
        except RequestError as error:
            self._respond({"error": error.text}, error.status)

    def _lookup(self, request: Mapping[str, Any]) -> None:
        name, key = text_field(request, "map"), text_field(request, "key")
        if name not in MAPS:
            raise RequestError(HTTPStatus.NOT_FOUND, f"there is no map {name}")
        if key in DOWN:
            raise RequestError(HTTPStatus.SERVICE_UNAVAILABLE, "the database is down")
        if key in BROKEN:
            self._respond({"error": BROKEN[key]})
        else:
            self._respond({"data": {"result": MAPS[name].get(key.lower())}})

    def _policy(self, request: Mapping[str, Any]) -> None:
        sender = text_field(request, "sender").lower()
        attempt = (str(request.get("client_address")), sender, str(request.get("recipient")))
        if sender in BLOCKED_SENDERS:
            action = BLOCKED_SENDERS[sender]
        elif sender in GREYLISTED_SENDERS and self.greylist.must_wait(attempt, time.monotonic()):
            action = "DEFER_IF_PERMIT Greylisted, try again later"
        else:
            action = "DUNNO"  # the restrictions that follow in main.cf decide
        self._respond({"policy": {"result": action}})

    def _login(self, request: Mapping[str, Any]) -> None:
        user, password = text_field(request, "username").lower(), text_field(request, "password")
        if user in DOWN:
            raise RequestError(HTTPStatus.SERVICE_UNAVAILABLE, "the database is down")
        right = hmac.compare_digest(hashed(password), LOGINS.get(user, b""))
        if not right:
            self._respond({"error": "refused"}, HTTPStatus.FORBIDDEN, {"Auth-Status": "Invalid username or password"})
        elif user in LOCKED:
            self._respond({"error": "refused"}, HTTPStatus.FORBIDDEN, {"Auth-Status": LOCKED[user]})
        else:
            self._respond({"account": user}, HTTPStatus.OK, {"Auth-User": user})

    def _request(self) -> dict[str, Any]:
        """The JSON object in the body. The whole body is read, so that the connection can be used again."""
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            self.close_connection = True
            raise RequestError(HTTPStatus.LENGTH_REQUIRED, "Content-Length is missing")
        if len(length) > 9 or int(length) > MAX_BODY:
            self.close_connection = True
            raise RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is too large")
        try:
            request = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            raise RequestError(HTTPStatus.BAD_REQUEST, "the body is no JSON") from None
        if not isinstance(request, dict):
            raise RequestError(HTTPStatus.BAD_REQUEST, "the body is no JSON object")
        return request

    def _respond(
        self, response: Mapping[str, Any], status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None
    ) -> None:
        body = json.dumps(response).encode()
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
        """Errors that the base class finds (an unknown method, an invalid request line), as JSON instead of HTML."""
        self.close_connection = True
        self._respond({"error": message or HTTPStatus(code).phrase}, HTTPStatus(code))

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing is logged here, because pfxhttpd logs its requests."""


def server(port: int) -> ThreadingHTTPServer:
    """The API, bound to a loopback port (0 means any free one) and not yet serving. Raises OSError."""
    handler = type("Api", (Api,), {"greylist": Greylist(GREYLIST_SECONDS)})
    ThreadingHTTPServer.allow_reuse_address = True
    return ThreadingHTTPServer(("127.0.0.1", port), handler)


def exit_with_parent() -> None:
    """End the process at the end of standard input, which comes when the parent has ended for whatever reason."""
    sys.stdin.buffer.read()
    os._exit(0)


def main(arguments: list[str]) -> int:
    """`demo_backend.py PORT [--child]`. It prints `ready` when it is bound. A child ends with its parent."""
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
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the parent may still send requests
        threading.Thread(target=exit_with_parent, daemon=True).start()
    try:
        with api:
            print("ready", flush=True)
            api.serve_forever()
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A daemon with SASL services, each on a TCP port and on a Unix socket; and what backends say of a login.

with Logins({"login": login(backend.url("/login"))}) as logins, logins.client("login") as client:
    assert client.plain("ann", "wonderland") == "OK\\t1\\tuser=ann"
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kit import ports
from kit.answer import Answer, Keyed
from kit.clients import Address, Sasl
from kit.configuration import configuration, listener
from kit.daemon import Daemon

RIGHT, WRONG = "wonderland", "mirror"
ACCOUNT = "account@example.test"
"""Whom the backend lets in with the right password, whatever the user called himself."""

REFUSALS: Mapping[str, Answer] = {
    WRONG: Answer(403, {"Auth-Status": "Invalid username or password"}),
    "423": Answer(423, {"Auth-Status": "Account is locked"}),
    "nobody": Answer(200, {"Auth-User": ""}),
    "forged": Answer(200, {"Auth-User": "account@example.test\tuser=admin"}),
}
"""Password -> an answer that means no, by the backend's own word."""

OUTAGES: Mapping[str, Answer] = {
    "500": Answer(500),
    "502": Answer(502, body=b"<h1>Bad Gateway</h1>"),
    "503": Answer(503, {"Auth-Status": "down for maintenance"}),
    "408": Answer(408),
    "425": Answer(425),
    "429": Answer(429, {"Auth-Status": "slow down", "Retry-After": "1"}),
    "401": Answer(401, {"WWW-Authenticate": "Basic"}),
    "401 with a reason": Answer(401, {"Auth-Status": "who are you?"}),
    "403 without a reason": Answer(403),
    "400 without a reason": Answer(400),
    "wrong URL": Answer(404, body=b"<h1>Not Found</h1>"),
    "empty reason": Answer(422, {"Auth-Status": " "}),
    "redirect": Answer(302, {"Location": "/login"}),
    "unexpected success": Answer(204, {"Auth-User": ACCOUNT}),
    "silence": Answer(silent=True),
    "hang-up": Answer(drop=True),
    "reset": Answer(drop=True, then="reset"),
    "garbage": Answer(raw=b"\0\0\0 no HTTP at all\r\n\r\n", then="close"),
    "cut": Answer(200, {"Auth-User": ACCOUNT}, body=b"0123456789", cut=5),
    "two accounts": Answer(200, (("Auth-User", "one"), ("auth-user", "two"))),
    "folded": Answer(raw=b"HTTP/1.1 200 OK\r\nAuth-User: one\r\n two\r\nContent-Length: 0\r\n\r\n", then="close"),
}
"""Password -> an answer, or the lack of one, from which nothing can be said of the user."""

ANSWERS = Keyed(
    {RIGHT: Answer(200, {"Auth-User": ACCOUNT}), "as given": Answer(200), **REFUSALS, **OUTAGES},
    otherwise=REFUSALS[WRONG], name="password",
)  # fmt: skip


def login(target: str, **more: Any) -> dict[str, Any]:
    """A SASL entry with a deadline that a test can wait for."""
    return {"target": target, "timeout": "500ms", **more}


class Logins:
    """`ports` and `sockets` are by the entry's name; the Unix sockets are open to every user.

    They are where `sockets` says, else in a directory of their own. A test that reloads changes a copy of `config` and
    hands it to `daemon.reload`.
    """

    def __init__(self, entries: Mapping[str, Any], sockets: Mapping[str, str] | None = None, **server: Any) -> None:
        names = [name for name in entries if name != "defaults"]
        self._directory = Path(tempfile.mkdtemp(prefix="logins-"))
        self._directory.chmod(0o755)
        self.ports = {name: ports.free() for name in names}
        self.sockets = {name: str(self._directory / name) for name in names} | dict(sockets or {})
        listeners = [listener("dovecot_sasl", name, port) for name, port in self.ports.items()]
        listeners += [listener("dovecot_sasl", name, address=path, mode="0666") for name, path in self.sockets.items()]
        self.config = configuration(*listeners, dovecot_sasl=entries, **server)
        self._start()

    def _start(self) -> None:
        try:
            self.daemon = Daemon(self.config)
        except BaseException:
            self._clear()
            raise
        self.log = self.daemon.log

    def restart(self) -> None:
        """Stops the daemon, which must go well, and starts another one in its place."""
        self.daemon.stop()
        self._start()

    def client(self, name: str, timeout: float = 10.0, *, unix: bool = False, handshake: bool = True) -> Sasl:
        """A connection to a service, with the handshake done unless told otherwise."""
        address: Address = self.sockets[name] if unix else ("127.0.0.1", self.ports[name])
        return Sasl(address, timeout, handshake)

    def __enter__(self) -> Logins:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        try:
            self.daemon.__exit__(kind, *rest)
        finally:
            self._clear()

    def _clear(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)

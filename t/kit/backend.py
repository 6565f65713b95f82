"""A programmable HTTP backend for tests: `with Backend() as b: b.answer("/map", Answer(json=...)); b.url("/map")`.

`Backend` runs the server in a process of its own, so that it does not share the interpreter lock with the test;
`ThreadBackend` runs it in this one, and so takes functions of the request as rules, too. Both have the methods
of `kit.server.Server`.
"""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import Any

from kit import proc
from kit.answer import Answer, Keyed, Request, Rule, Series
from kit.server import Server, ServerTls

HERE = Path(__file__).resolve().parent

__all__ = ["Answer", "Backend", "Keyed", "Request", "Rule", "Series", "ServerTls", "ThreadBackend"]


class _Addressed:
    """What both kinds of backend have: a place that URLs lead to, and shorthand for rules."""

    port: int

    def __init__(self, tls: ServerTls | None, host: str) -> None:
        self.scheme = "https" if tls else "http"
        self.host = f"[{host}]" if ":" in host else host

    def url(self, path: str = "/", host: str = "") -> str:
        """The absolute URL of a path; `host` names the loopback differently, as certificates need it."""
        return f"{self.scheme}://{host or self.host}:{self.port}{path}"


class ThreadBackend(_Addressed):
    """The server in threads of this process."""

    def __init__(self, tls: ServerTls | None = None, host: str = "127.0.0.1", record: bool = True) -> None:
        super().__init__(tls, host)
        self._server = Server(tls, host, record)
        self.port = self._server.port

    def __enter__(self) -> ThreadBackend:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    def answer(self, path: str, rule: Rule | None = None, **fields: Any) -> None:
        """Programs a path: with a rule, or with the fields of an Answer."""
        self._server.answer(path, Answer(**fields) if rule is None else rule)

    def __getattr__(self, method: str) -> Any:
        return getattr(self._server, method)


class Backend(_Addressed):
    """The server in a process of its own. Rules are values: Answer, Keyed, Series."""

    def __init__(self, tls: ServerTls | None = None, host: str = "127.0.0.1", record: bool = True) -> None:
        super().__init__(tls, host)
        self._directory = Path(tempfile.mkdtemp(prefix="backend-"))
        self._control = str(self._directory / "control")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kit.backend", self._control],
            cwd=HERE.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=proc.die_with_parent,
        )
        assert self._process.stdin and self._process.stdout
        pickle.dump({"tls": asdict(tls) if tls else None, "host": host, "record": record}, self._process.stdin)
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self.stop()
            raise RuntimeError("the test backend did not start; its error is on standard error")
        self.port = int(line)

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the process; without effect when it has ended."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                stream.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def answer(self, path: str, rule: Rule | None = None, **fields: Any) -> None:
        """Programs a path: with a rule, or with the fields of an Answer."""
        self._call("answer", path, Answer(**fields) if rule is None else rule)

    def requests(self, path: str | None = None) -> list[Request]:
        found: list[Request] = self._call("requests", path)
        return found

    def count(self, path: str | None = None) -> int:
        return int(self._call("count", path))

    def forget(self) -> None:
        self._call("forget")

    def wait_requests(self, number: int, path: str | None = None, timeout: float = 10.0) -> list[Request]:
        found: list[Request] = self._call("wait_requests", number, path, timeout)
        return found

    def connections(self) -> int:
        return int(self._call("connections"))

    def open_connections(self) -> int:
        return int(self._call("open_connections"))

    def wait_open_connections(self, number: int, timeout: float = 10.0) -> None:
        self._call("wait_open_connections", number, timeout)

    def release(self, gate: str) -> None:
        self._call("release", gate)

    def close_idle(self) -> None:
        self._call("close_idle")

    def _call(self, method: str, *arguments: Any) -> Any:
        with Client(self._control, "AF_UNIX") as connection:
            connection.send((method, arguments))
            outcome, value = connection.recv()
        if outcome == "raised":
            raise value
        return value


def _serve_control(server: Server, connection: Any) -> None:
    with connection:
        method, arguments = connection.recv()
        try:
            reply = ("returned", getattr(server, method)(*arguments))
        except (TimeoutError, LookupError, ValueError, TypeError) as error:
            reply = ("raised", error)
        connection.send(reply)


def _main(control: str) -> None:
    """The child: serves until the parent's end of standard input is closed."""
    options = pickle.load(sys.stdin.buffer)
    tls = ServerTls(**options["tls"]) if options["tls"] else None
    with Listener(control, "AF_UNIX", backlog=64) as listener:
        server = Server(tls, options["host"], options["record"])
        print(server.port, flush=True)
        while True:
            threading.Thread(target=_serve_control, args=(server, listener.accept()), daemon=True).start()


if __name__ == "__main__":
    _main(sys.argv[1])

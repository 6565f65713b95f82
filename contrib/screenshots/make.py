#!/usr/bin/env python3
"""Make the pictures of `pfxhttpd status` in five situations, as SVG files in this directory.

    PYTHONPATH=t contrib/screenshots/make.py

It brings about each situation with a real server and a real backend, runs `pfxhttpd status` on a terminal, and draws what it
has printed. Paths and ports of this machine are replaced by those of the examples. It needs a Python that has pfxhttpd's
dependencies and those of its tests, and `rich`, which draws.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from kit import daemon, ports, waiting
from kit.backend import Answer, Backend, Keyed
from kit.clients import Policy, Sasl, SocketMap
from kit.daemon import Daemon
from rich.ansi import AnsiDecoder
from rich.console import Console

HERE = Path(__file__).resolve().parent
COLUMNS, ROWS = 126, 50
FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
"""What is removed from a picture, so that it loads nothing from elsewhere; the font is the viewer's."""


class Site:
    """A server with a socket map, a policy service and logins, and its backend."""

    def __init__(self) -> None:
        self.backend = Backend()
        self.port = ports.free(3)
        self.well()
        self.daemon = Daemon(self._configuration())

    def _configuration(self) -> dict[str, object]:
        kinds = {"socket_map": "mailboxes", "policy_service": "greylist", "dovecot_sasl": "submission"}
        return {
            "server": {
                "listen": [
                    {"kind": kind, "name": name, "type": "tcp", "address": "127.0.0.1", "port": self.port + number}
                    for number, (kind, name) in enumerate(kinds.items())
                ],
                "worker_pool": {"max_workers": 4},
                "response_cache": {"enabled": True, "ttl": "1h"},
            },
            "socket_maps": {"mailboxes": {**self._target("/lookup"), "value_field": "result"}},
            "policy_services": {"greylist": {**self._target("/policy"), "value_field": "action"}},
            "dovecot_sasl": {"submission": self._target("/login")},
        }

    def _target(self, path: str) -> dict[str, str]:
        return {"target": self.backend.url(path), "http_auth_basic": "mx:secret"}

    def well(self) -> None:
        self.backend.answer("/lookup", Keyed({"alice@example.com": Answer(json={"result": "alice/"})}))
        self.backend.answer("/policy", json={"action": "DUNNO"})
        self.backend.answer("/login", status=200, headers={"Auth-User": "alice@example.com"})

    def ask(self, times: int) -> None:
        """So many requests of each kind, one after the other."""
        with SocketMap(self._address(0)) as maps, Policy(self._address(1)) as policies:
            for number in range(times):
                maps.ask("mailboxes", "alice@example.com" if number % 3 else "nobody@example.com")
                policies.ask(sender="bob@example.net", recipient="alice@example.com")
        for _ in range(times // 5):
            with Sasl(self._address(2)) as logins, contextlib.suppress(Exception):
                logins.plain("alice", "wonderland")

    def waiting_clients(self, stack: ExitStack, number: int) -> None:
        """So many clients, each of which has sent a lookup and waits for the reply."""
        for client in range(number):
            stack.enter_context(SocketMap(self._address(0))).send("mailboxes", f"user{client}@example.com")

    def _address(self, number: int) -> tuple[str, int]:
        return ("127.0.0.1", self.port + number)

    def status(self) -> str:
        """What `pfxhttpd status` prints on a terminal, with the places of the examples."""
        text = on_terminal(daemon.command(["--config", str(self.daemon.config_path), "status"]))
        for number in range(3):
            text = text.replace(f"127.0.0.1:{self.port + number}", f"127.0.0.1:{23450 + number}")
        text = re.sub(rf"127\.0\.0\.1(:| port ){self.backend.port}\b", r"127.0.0.1\g<1>8080", text)
        return text.replace(str(self.daemon.directory), "/etc/pfxhttp")

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        self.daemon.destroy()
        self.backend.stop()


def on_terminal(command: list[str]) -> str:
    """The output of a command whose standard output is a terminal of COLUMNS and ROWS."""
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = daemon.clean_environment({"TERM": "xterm-256color"})
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(command, stdout=inner, stderr=inner, env=environment):
        os.close(inner)
        output = b""
        with contextlib.suppress(OSError):  # how the outer end learns that the inner one is closed
            while data := os.read(outer, 65536):
                output += data
    os.close(outer)
    return output.decode().replace("\r\n", "\n")


def draw(text: str, name: str) -> None:
    """The text with its colours as NAME.svg. Lines are broken where a terminal breaks them."""
    console = Console(width=COLUMNS, record=True, file=io.StringIO(), color_system="standard", force_terminal=True)
    console.print("$ pfxhttpd status", highlight=False)
    for line in AnsiDecoder().decode(text):
        for part in line.divide(range(COLUMNS, len(line), COLUMNS)):
            console.print(part, no_wrap=True)
    svg = console.export_svg(title="pfxhttpd status", unique_id=name)
    (HERE / f"{name}.svg").write_text(FONTS.sub("", svg))


def all_is_well(site: Site) -> Iterator[str]:
    site.ask(30)
    yield "well"


def backend_down(site: Site) -> Iterator[str]:
    site.ask(10)
    site.backend.stop()
    site.ask(10)
    yield "backend-down"


def unauthorized(site: Site) -> Iterator[str]:
    for path in ("/lookup", "/policy", "/login"):
        site.backend.answer(path, status=401)
    site.ask(5)
    yield "unauthorized"


def workers_busy(site: Site) -> Iterator[str]:
    site.ask(5)
    site.backend.answer("/lookup", silent=True)
    with ExitStack() as stack:
        site.waiting_clients(stack, 30)
        waiting.until(lambda: re.search("been busy for [0-9]+ s", site.status()), "ten seconds", 30)
        yield "workers-busy"


def processes_died(site: Site) -> Iterator[str]:
    site.ask(5)
    for role in ("worker 2/4", "cache"):
        site.ask(1)
        os.kill(site.daemon.process_named(role), signal.SIGKILL)
        site.daemon.log.wait_for("replace|died|ended")
    waiting.until(lambda: len(site.daemon.workers()) == 4, "four workers")
    yield "processes-died"


SITUATIONS: tuple[Callable[[Site], Iterator[str]], ...] = (
    all_is_well,
    backend_down,
    unauthorized,
    workers_busy,
    processes_died,
)


def main() -> int:
    for situation in SITUATIONS:
        with Site() as site:
            for name in situation(site):
                text = site.status()
                print(text)
                draw(text, name)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""pfxhttpd as a server under measurement."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .build import Build
from .server import Server, free_port

KINDS = {"map": "socket_map", "policy": "policy_service", "sasl": "dovecot_sasl"}
"""The protocols' names in the benchmark, and the listeners' kinds in the configuration."""


class Pfxhttpd(Server):
    """One build's server, with a map, a policy service and a SASL service, each named `bench`.

    `ports` are those of its listeners by protocol, and `port` is the map's. `first_reply` is the time in seconds from the
    start of the process to the reply to the first lookup.
    """

    def __init__(
        self,
        build: Build,
        directory: Path,
        url: str,
        *,
        workers: int = 4,
        max_queue: int = 0,
        options: Mapping[str, Any] | None = None,
        entry: Mapping[str, Any] | None = None,
        launcher: list[str] | None = None,
    ) -> None:
        """`options` are added to the section `server`, `entry` to the map; max_queue 0 stands for the default.

        `launcher` replaces the interpreter and `-m pfxhttpd` in the command line.
        """
        self.build = build
        self.ports = {protocol: free_port() for protocol in KINDS}
        home = directory / f"{build.name}-{self.ports['map']}"
        (home / "run").mkdir(parents=True)
        pool = {"max_workers": workers} | ({"max_queue": max_queue} if max_queue else {})
        server = {
            "listen": [
                {"kind": KINDS[protocol], "name": "bench", "type": "tcp", "address": "127.0.0.1", "port": port}
                for protocol, port in self.ports.items()
            ],
            "worker_pool": pool,
            "runtime_directory": str(home / "run"),
            **(options or {}),
        }
        configuration = {
            "server": server,
            "socket_maps": {"bench": {"target": url, "value_field": "result", **(entry or {})}},
            "policy_services": {"bench": {"target": url, "value_field": "action"}},
            "dovecot_sasl": {"bench": {"target": url}},
        }
        self.file = home / "pfxhttp.json"
        self.file.write_text(json.dumps(configuration))
        command = build.command("--config", str(self.file), "run")
        if launcher:
            command[:3] = launcher
        started = time.monotonic()
        super().__init__(command, home / "log", environment=build.environment(), cwd=home)
        self.port = self.ports["map"]
        self._look_up_once()
        self.first_reply = time.monotonic() - started

    def _look_up_once(self) -> None:
        """Returns after the reply to a lookup. Raises `RuntimeError` if there is none within 20 seconds."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with self.connect() as client:
                    client.sendall(b"11:bench first,")
                    if client.recv(100):
                        return
            except OSError:
                time.sleep(0.002)
        log = self.log.read_text(errors="replace")
        self.stop()
        raise RuntimeError(f"{self.build.name} did not answer:\n{log}")

    def connect(self) -> socket.socket:
        """A new connection to the map's listener."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def roles(self) -> dict[int, str]:
        """The roles of its processes by process id. Raises `RuntimeError` if a child does not show one for 20 seconds."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            roles = {pid: role(pid) for pid in self.processes()}
            if list(roles.values()).count("master") == 1:
                return roles
            time.sleep(0.01)  # A child that has just been forked has the master's title.
        raise RuntimeError("a child process still has the title of the master")

    def reload(self) -> None:
        """Sends SIGHUP."""
        os.kill(self.process.pid, signal.SIGHUP)

    def generation(self) -> int:
        """The number of configurations that it has taken since its start, as `pfxhttpd status --json` reports it."""
        command = self.build.command("--config", str(self.file), "status", "--json")
        done = subprocess.run(
            command, env=self.build.environment(), cwd=self.file.parent, stdout=subprocess.PIPE, check=True
        )
        generation: int = json.loads(done.stdout)["generation"]
        return generation

    def command_time(self, *arguments: str) -> float:
        """The processor time in seconds of one command of the program, such as `status`, given this configuration."""
        command = self.build.command("--config", str(self.file), *arguments)
        process = subprocess.Popen(
            command, env=self.build.environment(), cwd=self.file.parent, stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}")
        return usage.ru_utime + usage.ru_stime


def role(pid: int) -> str:
    """What a process of pfxhttpd does, by its title: master, worker, parking or cache; "" if it has ended."""
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
    except OSError:
        return ""
    return title.removeprefix("pfxhttpd: ").partition(" ")[0]

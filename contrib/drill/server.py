"""The server under test, started from this tree as a user starts it, and what can be seen of its processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drill.backend import TIMEOUT
from drill.clients import Endpoints
from drill.invariants import FAILURE_ACTION

TREE = Path(__file__).resolve().parents[2]
USER = "nobody"
VARIANTS = 6
"""Number of variants of the configuration."""


def workers_of(variant: int) -> int:
    """How many workers the server has with that variant: those of the global pool, and the one of a listener's own."""
    return 6 - variant % 3 + variant % 2


def free_ports(count: int) -> list[int]:
    """Ports on loopback that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [sock.getsockname()[1] for sock in sockets]


def service_user() -> tuple[int, int]:
    """The ids of the user and the group that the server changes to, or of our own where it cannot."""
    if os.geteuid():
        return os.geteuid(), os.getegid()
    entry = pwd.getpwnam(USER)
    return entry.pw_uid, entry.pw_gid


@dataclass(frozen=True, slots=True)
class Process:
    """A process of the server. `role` is master, worker, parking or cache; `state` is that of proc(5)."""

    pid: int
    role: str
    state: str

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def memory(self) -> int:
        """The proportional set size in bytes: of each shared page the process's share."""
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
        return 0

    def limit_descriptors(self, number: int) -> None:
        """Set the soft limit on open files, if the process has not ended."""
        user, group = service_user()
        as_user: dict[str, Any] = {} if os.geteuid() else {"user": user, "group": group, "extra_groups": []}
        command = ["prlimit", "--pid", str(self.pid), f"--nofile={number}:"]
        subprocess.run(command, capture_output=True, check=False, **as_user)


class Server:
    """A server in `directory`, which has `log`, `run` and `service`, for the pid file and the Unix socket, in it."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self._configuration = directory / "pfxhttp.yml"
        self.directories = {"log": directory / "log", "run": directory / "run"}
        self.log, self.pid_file = self.directories["log"] / "server.log", directory / "service" / "server.pid"
        self._environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(TREE), **environment}
        self.backend_port, map_port, policy_port, sasl_port, self._further_port = free_ports(5)
        self.endpoints = Endpoints(map_port, str(directory / "service" / "map.sock"), policy_port, sasl_port)
        self._command = [sys.executable, "-m", "pfxhttpd", "--config", str(self._configuration)]
        self._process: subprocess.Popen[bytes] | None = None

    # Its life.

    async def start(self) -> None:
        """Start it and wait until it serves. Raises RuntimeError."""
        self.configure()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, "run", "--pidfile", str(self.pid_file)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._configuration.parent,
                env=self._environment, start_new_session=True,
            )  # fmt: skip
        give_up = time.monotonic() + 30
        while (await self.command("status"))[0] != os.EX_OK:
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"the server did not start:\n{self.log.read_text()}")
            await asyncio.sleep(0.1)

    async def stop(self) -> list[str]:
        """Stop it as a service manager does. Returns what it left behind, a line each."""
        assert self._process
        os.kill(self._process.pid, signal.SIGTERM)
        left = []
        try:
            code = await asyncio.wait_for(asyncio.to_thread(self._process.wait), 45)
            if code != 0:
                left.append(f"exit code {code} after SIGTERM")
        except TimeoutError:
            left.append("the master still runs 45 s after SIGTERM")
        await asyncio.sleep(1.5)  # in which a process that has no master any more may still end
        left += [f"process {process.pid} ({process.role})" for process in self.processes()]
        left += [f"file {path}" for path in (self.pid_file, Path(self.endpoints.map_socket)) if path.exists()]
        left += [f"file {path}" for path in sorted(self.directories["run"].rglob("*")) if not path.is_dir()]
        return left

    def kill(self) -> None:
        """End whatever still runs, at once."""
        if self._process:
            for process in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            self._process.kill()
            self._process.wait()

    # Its configuration.

    def configure(self, variant: int = 0) -> None:
        """Write its configuration. Variants differ in what a reload can change; each is valid."""
        listeners: list[dict[str, Any]] = [
            {"kind": "socket_map", "name": "users", "type": "tcp", "address": "127.0.0.1", "port": self.endpoints.map_port},
            {"kind": "socket_map", "name": "domains", "type": "unix", "address": self.endpoints.map_socket, "mode": "0600"},
            {"kind": "policy_service", "name": "checks", "type": "tcp", "address": "127.0.0.1", "port": self.endpoints.policy_port},
            {"kind": "dovecot_sasl", "name": "logins", "type": "tcp", "address": "127.0.0.1", "port": self.endpoints.sasl_port},
        ]  # fmt: skip
        if variant % 2:
            listeners.append({**listeners[0], "port": self._further_port, "worker_pool": {"max_workers": 1}})
        server: dict[str, Any] = {
            "listen": listeners,
            "runtime_directory": str(self.directories["run"]),
            "worker_pool": {"max_workers": 6 - variant % 3},
            "response_cache": {"enabled": True, "ttl": "5m"},
            "circuit_breaker": {"failures": 5 + variant, "cooldown": "1s"},
            "shutdown_timeout": "10s",
        }
        if os.geteuid() == 0:
            server["run_as_user"] = USER
        api = f"http://127.0.0.1:{self.backend_port}"
        entry = {"timeout": f"{TIMEOUT}s"}
        lookup = {**entry, "target": f"{api}/lookup", "value_field": "data.result"}
        lookup["payload"] = '{"map": "{{ .Name }}", "key": "{{ .Key }}"}'
        policy = {**entry, "target": f"{api}/policy", "value_field": "policy.result", "failure_action": FAILURE_ACTION}
        document = {
            "server": server,
            "socket_maps": {"users": lookup, "domains": lookup},
            "policy_services": {"checks": policy},
            "dovecot_sasl": {"logins": {**entry, "target": f"{api}/login"}},
        }
        self._configuration.write_text(json.dumps(document, indent=1))  # JSON is YAML

    def break_configuration(self, way: int) -> None:
        """Make the configuration one that no server can take."""
        text = self._configuration.read_text()
        ways = [
            text[: len(text) // 2],
            text.replace('"listen"', '"lisen"'),
            text.replace('"value_field"', '"value_filed"'),
            text.replace("127.0.0.1", "192.0.2.1", 1),
            "",
        ]
        self._configuration.write_text(ways[way % len(ways)])

    async def command(self, *arguments: str) -> tuple[int, str]:
        """Run a command of the program against this server. Returns its exit code and its output."""
        process = await asyncio.create_subprocess_exec(
            *self._command, *arguments,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            env=self._environment, cwd=self._configuration.parent,
        )  # fmt: skip
        try:
            output, _ = await asyncio.wait_for(process.communicate(), 60)
        except TimeoutError:
            process.kill()
            await process.wait()
            return os.EX_UNAVAILABLE, "no reply within 60 s"
        return process.returncode or 0, output.decode(errors="replace")

    # Its processes.

    def processes(self) -> list[Process]:
        """All of its session but zombies."""
        assert self._process
        found = []
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            try:
                state, _, _, session = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[:4]
                title = Path("/proc", name, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if int(session) == self._process.pid and state not in "ZX":
                words = title.removeprefix("pfxhttpd: ").split()
                role = "master" if int(name) == self._process.pid else words[0] if words else "other"
                found.append(Process(int(name), role, state))
        return found

    def of_role(self, role: str) -> list[Process]:
        return [process for process in self.processes() if process.role == role]

    def incomplete(self, variant: int) -> str:
        """What is wrong with the processes of a server that has that variant, "" for nothing."""
        processes = self.processes()
        stopped = [f"{process.role} {process.pid} is stopped" for process in processes if process.state == "T"]
        if stopped:
            return ", ".join(stopped)
        wanted = Counter(master=1, cache=1, parking=1, worker=workers_of(variant))
        there = Counter(process.role for process in processes)
        return "" if there == wanted else f"there are {dict(there)} instead of {dict(wanted)}"

    def resume(self) -> None:
        """Let all stopped processes go on."""
        for process in self.processes():
            if process.state == "T":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGCONT)

    def descriptor_limit(self) -> int:
        """The master's soft limit on open files."""
        assert self._process
        for line in Path(f"/proc/{self._process.pid}/limits").read_text().splitlines():
            if line.startswith("Max open files"):
                return int(line.split()[3])
        raise RuntimeError("the master has ended")

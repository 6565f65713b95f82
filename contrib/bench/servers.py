"""What is measured, and what it needs: processes started in sessions of their own, so that all of each can be found.

A server's `port` leads to it. `processor_time` and `memory` are sums over all its living processes.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TREE = HERE.parents[1]
TICKS = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as door:
        return door.getsockname()[1]


def wait_port(port: int, process: subprocess.Popen[Any], patience: float = 20.0) -> None:
    """Returns when something accepts on the port. Raises `RuntimeError`."""
    give_up = time.monotonic() + patience
    while time.monotonic() < give_up and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.01)
        else:
            return
    raise RuntimeError(f"nothing listens on port {port}: {process.args}")


class Server:
    """A process group under way. Environment variables that name proxies are kept from it."""

    alive: set[Server] = set()
    """All that have been started and not stopped."""

    def __init__(self, command: list[str], log: Path, **more: Any) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        environment["PYTHONPATH"] = str(TREE)
        self.log = log
        with log.open("ab") as sink:
            self.process = subprocess.Popen(
                command, stderr=sink, env=environment, start_new_session=True, **{"stdout": sink, **more}
            )
        self.pid = self.process.pid
        self.port = 0
        Server.alive.add(self)

    def members(self) -> list[int]:
        """The living processes of its session."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                if int(fields[3]) == self.pid and fields[0] != "Z":
                    found.append(int(entry.name))
        return found

    def processor_time(self) -> float:
        """Seconds of processor time used so far, user's and system's."""
        ticks = 0
        for pid in self.members():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / TICKS

    def memory(self) -> int:
        """Proportional set size in bytes: shared pages count in parts."""
        size = 0
        for pid in self.members():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    size += int(line.split()[1]) * 1024
        return size

    def stop(self) -> None:
        Server.alive.discard(self)
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                pass
        for pid in self.members():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                stream.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Elsewhere:
    """How much of the machine was used by somebody else, or not given to it by its host, while this context lasted."""

    share = 0.0
    """Of all processors' time."""

    def __enter__(self) -> Elsewhere:
        self._before = self._read()
        return self

    def __exit__(self, *_: object) -> None:
        (used, elapsed), (used_before, before) = self._read(), self._before
        self.share = max(0.0, used - used_before) / (elapsed - before)

    @staticmethod
    def _read() -> tuple[float, float]:
        """Seconds used by others, and seconds that there were, since some time in the past."""
        ticks = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        user, nice, system, idle, waiting, interrupts, soft, stolen = ticks
        ours = sum(server.processor_time() for server in Server.alive)
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
            usage = resource.getrusage(who)
            ours += usage.ru_utime + usage.ru_stime
        return (user + nice + system + stolen) / TICKS - ours, sum(ticks) / TICKS


class Own(Server):
    """A script beside this one, which prints its port and ends with its standard input."""

    def __init__(self, directory: Path, script: str, *arguments: object) -> None:
        command = [sys.executable, str(HERE / script), *map(str, arguments)]
        log = directory / f"{script}.log"
        super().__init__(command, log, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=directory)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{script} did not start; see {log}")
        self.port = int(line)


def backend(directory: Path, delay: float = 0.0, echo: bool = False) -> Server:
    """A plain-HTTP backend: nginx where it will do and is installed, else our own."""
    if not delay and not echo and shutil.which("nginx", path=SBIN):
        return Nginx(directory)
    return Own(directory, "backend.py", delay, "echo" if echo else "fixed")


def naive(directory: Path, kind: str, workers: int, url: str, ca: str = "") -> Server:
    return Own(directory, "naive.py", kind, workers, url, *([ca] if ca else []))


SBIN = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
NGINX = """\
daemon off; worker_processes 1; pid {home}/nginx.pid; error_log {home}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_timeout 3600; keepalive_requests 1000000000; default_type application/json;
    client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f;
    uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
    server {{
        listen 127.0.0.1:{port} {tls};
        location / {{ return 200 '{answer}'; }}
    }}
}}
"""


class Nginx(Server):
    """nginx with one fixed answer; with `certificate` and `key` (PEM files) over TLS."""

    def __init__(self, directory: Path, certificate: str = "", key: str = "") -> None:
        port = free_port()
        home = directory / f"nginx-{port}"
        home.mkdir()
        tls = f"ssl; ssl_certificate {certificate}; ssl_certificate_key {key}" if certificate else ""
        answer = '{"result": "found", "action": "DUNNO found"}'
        (home / "nginx.conf").write_text(NGINX.format(home=home, port=port, tls=tls, answer=answer))
        program = shutil.which("nginx", path=SBIN)
        super().__init__([program, "-p", str(home), "-c", str(home / "nginx.conf")], home / "log", cwd=home)
        self.port = port
        wait_port(port, self.process)


class Pfxhttpd(Server):
    """pfxhttpd with one map and one policy, both called `bench`; `port` is the map's, `policy_port` the policy's.

    `first_answer` is the seconds from the start of its process to the first answer to a lookup.
    """

    def __init__(
        self, directory: Path, url: str, workers: int = 4, level: str = "info", ca: str = "", queue: int = 0
    ) -> None:
        """`queue` is max_queue, 0 its default."""
        self.map_port, self.policy_port = free_port(), free_port()
        home = directory / f"pfxhttpd-{self.map_port}"
        (home / "run").mkdir(parents=True)
        ports = {"socket_map": self.map_port, "policy_service": self.policy_port}
        configuration = {
            "server": {
                "listen": [
                    {"kind": kind, "name": "bench", "type": "tcp", "address": "127.0.0.1", "port": port}
                    for kind, port in ports.items()
                ],
                "worker_pool": {"max_workers": workers, **({"max_queue": queue} if queue else {})},
                "logging": {"level": level},
                "runtime_directory": str(home / "run"),
                **({"tls": {"enabled": True, "root_ca": ca}} if ca else {}),
            },
            "socket_maps": {"bench": {"target": url, "value_field": "result"}},
            "policy_services": {"bench": {"target": url, "value_field": "action"}},
        }
        path = home / "pfxhttp.json"
        path.write_text(json.dumps(configuration))
        started = time.monotonic()
        super().__init__([sys.executable, "-m", "pfxhttpd", "--config", str(path), "run"], home / "log", cwd=home)
        self.port = self.map_port
        self._ask_once()
        self.first_answer = time.monotonic() - started

    def _ask_once(self) -> None:
        give_up = time.monotonic() + 20
        while time.monotonic() < give_up and self.process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=10) as client:
                    client.sendall(b"11:bench first,")
                    if client.recv(100):
                        return
            except OSError:
                time.sleep(0.002)
        raise RuntimeError(f"pfxhttpd did not answer; see {self.log}")

    def reload(self) -> None:
        os.kill(self.pid, signal.SIGHUP)

    def reloads(self) -> int:
        """How many reloads its log tells of."""
        return self.log.read_text(errors="replace").count('msg="Reload')


def certificate(directory: Path) -> tuple[str, str]:
    """Paths of a self-signed certificate for 127.0.0.1, which is its own CA, and of its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bench")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = directory / "certificate.pem", directory / "key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(paths[0]), str(paths[1])

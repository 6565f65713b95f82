"""A backend as fast as they come, for tests that need a load: nginx, with answers made of the request itself.

    /<token>/<key>  ->  {"result": "<token> <key>"}
    /fixed          ->  {"result": "fixed"}

It reads no file and writes none, and is one process, so that it ends with the test.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

from kit import ports, proc
from kit.needs import program
from kit.waiting import until

CONFIGURATION = """
daemon off;
master_process off;
worker_processes 1;
error_log stderr crit;
pid {directory}/pid;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    default_type application/json;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location = /fixed {{ return 200 '{{"result": "fixed"}}'; }}
        location ~ "^/(?<token>[a-z]+)/(?<key>.*)$" {{ return 200 '{{"result": "$token $key"}}'; }}
    }}
}}
"""


class Nginx:
    """Serves from construction until the context ends. The test has asked `needs("nginx")`."""

    def __init__(self) -> None:
        self.port = ports.free()
        self._directory = Path(tempfile.mkdtemp(prefix="nginx-"))
        path = self._directory / "nginx.conf"
        path.write_text(CONFIGURATION.format(directory=self._directory, port=self.port))
        nginx = program("nginx")
        assert nginx, "the test did not ask for what it needs"
        self._process = subprocess.Popen(
            [nginx, "-p", str(self._directory), "-e", "stderr", "-c", str(path)],
            stdin=subprocess.DEVNULL,
            preexec_fn=proc.die_with_parent,
        )
        try:
            until(self._serves, "nginx to serve")
        except BaseException:
            self.stop()
            raise

    def _serves(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"nginx ended with {self._process.returncode}; its error is on standard error")
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0):
                return True
        except ConnectionRefusedError:
            return False

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def map(self, token: str) -> dict[str, str]:
        """A socket map whose value is `<token> <key>`."""
        return {"target": self.url("/" + token + "/{{ .Key }}"), "method": "GET", "value_field": "result"}

    def fixed(self) -> dict[str, str]:
        """A socket map whose value is `fixed`, asked the usual way."""
        return {"target": self.url("/fixed"), "value_field": "result"}

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Nginx:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

"""nginx as the backend: it gives one fixed answer to every request and takes little processor time for it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .certificate import Certificate
from .server import Server, free_port

ANSWER = '{"result": "found", "action": "DUNNO found"}'
SEARCH_PATH = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
CONFIGURATION = """\
daemon off; worker_processes 1; pid {home}/nginx.pid; error_log {home}/error.log;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_timeout 3600; keepalive_requests 1000000000; default_type application/json;
    client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f;
    uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
    gzip on; gzip_min_length 1; gzip_types application/json; gzip_comp_level 1;
    server {{
        listen 127.0.0.1:{port} {tls};
        location / {{ return 200 '{answer}'; }}
    }}
}}
"""


def find_nginx() -> str | None:
    """The path of nginx, None where it is not installed."""
    return shutil.which("nginx", path=SEARCH_PATH)


class Nginx(Server):
    """With a certificate, over TLS. It compresses its answer for a client that accepts gzip."""

    def __init__(self, directory: Path, certificate: Certificate | None = None) -> None:
        program = find_nginx()
        if program is None:
            raise RuntimeError("nginx is not installed")
        port = free_port()
        home = directory / f"nginx-{port}"
        home.mkdir()
        tls = f"ssl; ssl_certificate {certificate.path}; ssl_certificate_key {certificate.key}" if certificate else ""
        file = home / "nginx.conf"
        file.write_text(CONFIGURATION.format(home=home, port=port, tls=tls, answer=ANSWER))
        super().__init__([program, "-p", str(home), "-c", str(file)], home / "log", cwd=home)
        self.port = port
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{port}/"
        self.wait_until_listening()

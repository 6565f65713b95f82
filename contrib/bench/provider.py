"""An OpenID provider in a thread of the benchmark, which gives everybody the same token for an hour."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

TOKEN = "x" * 400
"""About as long as a token of one of the usual providers."""


class Handler(BaseHTTPRequestHandler):
    """Answers GET with the discovery document, and POST with the token."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self._answer({"issuer": url, "token_endpoint": f"{url}/token"})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer({"access_token": TOKEN, "token_type": "Bearer", "expires_in": 3600})

    def _answer(self, document: dict[str, object]) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""


class Provider:
    """A context manager. `configuration_uri` is for the configuration of pfxhttpd."""

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        port = self._server.server_address[1]
        self.configuration_uri = f"http://127.0.0.1:{port}/.well-known/openid-configuration"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

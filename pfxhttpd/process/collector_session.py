"""How a process asks the collector for traces and metrics: like a backend, with the same TLS settings and proxy."""

from __future__ import annotations

import ssl

from requests import Session

from pfxhttpd.config.settings import Server
from pfxhttpd.io.transport.adapter import Transport
from pfxhttpd.io.transport.session import DirectSession
from pfxhttpd.service.backend import proxies_for


def collector_session(server: Server, tls: ssl.SSLContext) -> Session:
    """A session with a transport of its own, for one thread of one process."""
    session = DirectSession(Transport(tls))
    session.proxies = proxies_for(server.observability.otel_exporter_otlp_endpoint, server)
    return session

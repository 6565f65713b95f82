"""What traces and metrics need to be sent to a collector: a session, and the description of their origin."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.version import __version__ as sdk_version
from requests import PreparedRequest, RequestException, Response, Session

from pfxhttpd import __version__
from pfxhttpd.config.settings import Observability

TIMEOUT = 5.0
"""Seconds in which the collector has to take what it is sent, repetitions included."""


class CollectorSession(Session):
    """Sends requests to the collector by way of another session. `problem` is why the last one failed, "" if it did not."""

    def __init__(self, inner: Session) -> None:
        super().__init__()
        self.trust_env, self.proxies = False, inner.proxies
        self._inner = inner
        self.problem = ""

    def send(self, request: PreparedRequest, **options: Any) -> Response:
        try:
            response = self._inner.send(request, **options)
        except RequestException as error:
            self.problem = str(error) or type(error).__name__
            raise
        status = response.status_code
        self.problem = "" if 200 <= status <= 299 else f"it responded with status code {status}"
        if 300 <= status <= 399:
            raise RequestException(self.problem)  # the exporters would take it for a success
        return response


def exporter_options(settings: Observability, path: str, session: CollectorSession) -> dict[str, Any]:
    """The arguments for the exporters of the SDK. The path is that of the kind of data, such as "/v1/traces"."""
    return {
        "endpoint": settings.otel_exporter_otlp_endpoint.rstrip("/") + path,
        "headers": dict(settings.otel_exporter_otlp_headers),
        "timeout": TIMEOUT,
        "session": session,
    }


class _HashedResource(Resource):
    """The SDK asks for the hash once for each span, and makes it from the JSON of all attributes."""

    def __init__(self, attributes: dict[str, str | int]) -> None:
        super().__init__(attributes)
        self._hash = super().__hash__()

    def __hash__(self) -> int:
        return self._hash


def resource(settings: Observability) -> Resource:
    """What the data says of its origin. This does not look for plug-ins, whose files a chroot does not contain."""
    return _HashedResource(
        {
            "service.name": settings.otel_service_name,
            "service.version": settings.otel_service_version or __version__,
            "host.name": socket.gethostname(),
            "process.pid": os.getpid(),
            "telemetry.sdk.language": "python",
            "telemetry.sdk.name": "opentelemetry",
            "telemetry.sdk.version": sdk_version,
        }
    )


def silence_sdk() -> None:
    """Keep the SDK from writing about each failure to standard error."""
    logger = logging.getLogger("opentelemetry")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False

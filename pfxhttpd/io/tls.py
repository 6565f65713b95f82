"""The TLS settings: for connections to backends whom to trust, and our own certificate (RFC 8446, RFC 9525), and those of our own port.

All files are read here and now. OpenSSL would otherwise look certificates of the system's trust store up when it needs
them, and inside a chroot there is no store.
"""

from __future__ import annotations

import os
import re
import ssl
import time
from calendar import timegm
from collections.abc import Callable

from cryptography import x509

from pfxhttpd.config.settings import PrometheusTls, Tls
from pfxhttpd.io import SetupError

_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""The system's trust store as one file, on Debian, Fedora, SUSE and Alpine."""


_NOT_ENABLED = "server.tls.{} is not used, because server.tls.enabled is not true"
_METRICS = "server.observability.prometheus_tls"
_CERTIFICATE = re.compile(b"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_VERSIONS = {"TLS1.2": ssl.TLSVersion.TLSv1_2, "TLS1.3": ssl.TLSVersion.TLSv1_3}


class BackendContext(ssl.SSLContext):
    """A context that can say, for the messages of errors, which authorities are `trusted` and which client certificate is
    `sent`."""

    trusted: str = ""
    sent: str = ""


def context(tls: Tls) -> BackendContext:
    """The TLS context for all backends; TLS 1.2 at least. Raises `SetupError` with the exit code EX_CONFIG."""
    made = BackendContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.sent = f"sent was {tls.cert}" if tls.cert else "none is configured (server.tls.cert)"
    if not tls.enabled:
        _load_system_store(made)
        if tls.root_ca:
            made.trusted = f"{_NOT_ENABLED.format('root_ca')}; {made.trusted}"
        if tls.cert:
            made.sent = _NOT_ENABLED.format("cert")
        return made
    if tls.skip_verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    elif tls.root_ca:
        _load("server.tls.root_ca", tls.root_ca, lambda: made.load_verify_locations(cafile=tls.root_ca))
        made.trusted = f"trusted is {tls.root_ca}"
    else:
        _load_system_store(made)
    if tls.cert:
        _load("server.tls.cert", tls.cert, lambda: _load_certificate(made, tls.cert, tls.key, "server.tls"))
    return made


def server_context(tls: PrometheusTls) -> ssl.SSLContext:
    """The TLS context of the port that serves the metrics. Raises `SetupError` with the exit code EX_CONFIG."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = _VERSIONS[tls.min_tls_version]
    _load(f"{_METRICS}.cert", tls.cert, lambda: _load_certificate(made, tls.cert, tls.key, _METRICS))
    return made


def expiry(path: str) -> float | None:
    """When a PEM file with certificates expires (Unix time): the first of its certificates to do so that is still valid,
    else the last one that was. None if it cannot be read as one."""
    try:
        with open(path, "rb") as file:
            found = [x509.load_pem_x509_certificate(text) for text in _CERTIFICATE.findall(file.read())]
    except (OSError, ValueError):
        return None
    # The first name is that of cryptography 42 and newer. The second one is a time in UTC as well.
    ends = [getattr(each, "not_valid_after_utc", None) or each.not_valid_after for each in found]
    times = sorted(float(timegm(end.timetuple())) for end in ends)
    return next((end for end in times if end > time.time()), times[-1] if times else None)


def _load_certificate(made: ssl.SSLContext, cert: str, key: str, block: str) -> None:
    def refuse() -> str:
        raise SetupError(
            f"{block}.key: {key or cert}: the key is encrypted; store it without a passphrase",
            exit_code=os.EX_CONFIG,
        )

    made.load_cert_chain(cert, key or None, password=refuse)


def _load_system_store(made: BackendContext) -> None:
    candidates = (os.environ.get("SSL_CERT_FILE"), ssl.get_default_verify_paths().cafile, *_BUNDLES)
    bundle = next((path for path in candidates if path and os.path.isfile(path)), None)
    if bundle:
        _load("the system's trust store", bundle, lambda: made.load_verify_locations(cafile=bundle))
    else:
        made.load_default_certs()
    made.trusted = f"trusted is the system's store {bundle or ''}".rstrip()


def _load(what: str, path: str, load: Callable[[], None]) -> None:
    try:
        load()
    except ssl.SSLError as error:
        reason = f"no PEM file that can be used ({error.reason or error})"
        if error.reason == "KEY_VALUES_MISMATCH":
            reason = "the private key of server.tls.key does not belong to this certificate"
        raise SetupError(f"{what}: {path}: {reason}", exit_code=os.EX_CONFIG) from error
    except OSError as error:
        raise SetupError(f"{what}: {path}: {error.strerror}", exit_code=os.EX_CONFIG) from error

"""The TLS settings for connections to backends: whom to trust, and our own certificate (RFC 8446, RFC 9525).

All files are read here and now. OpenSSL would otherwise look certificates of the system's trust store up when it needs
them, and inside a chroot there is no store.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable

from pfxhttpd.config.settings import Tls
from pfxhttpd.io import SetupError

_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""The system's trust store as one file, on Debian, Fedora, SUSE and Alpine."""


_NOT_ENABLED = "server.tls.{} is not used, because server.tls.enabled is not true"


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
        _load("server.tls.cert", tls.cert, lambda: _load_client_certificate(made, tls))
    return made


def _load_client_certificate(made: ssl.SSLContext, tls: Tls) -> None:
    def refuse() -> str:
        raise SetupError(
            f"server.tls.key: {tls.key or tls.cert}: the key is encrypted; store it without a passphrase",
            exit_code=os.EX_CONFIG,
        )

    made.load_cert_chain(tls.cert, tls.key or None, password=refuse)


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

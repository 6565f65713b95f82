"""Whom we trust at the other end of a TLS connection, and who we say we are (RFC 8446, RFC 9525).

Everything is read here, at once: OpenSSL by itself looks certificates of the system's store up when it needs them,
and inside the jail there is no store to look in.
"""

from __future__ import annotations

import os
import ssl

from pfxhttpd.config.settings import Tls
from pfxhttpd.io import SetupError

_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Where Debian, Fedora, SUSE and Alpine keep the system's store as one file."""


def context(tls: Tls) -> ssl.SSLContext:
    """The TLS settings for all backends. TLS 1.2 at least. Raises `TrustError`."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if not tls.enabled:
        _trust_system(made)
        return made
    if tls.skip_verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    elif tls.root_ca:
        _load("server.tls.root_ca", tls.root_ca, lambda: made.load_verify_locations(cafile=tls.root_ca))
    else:
        _trust_system(made)
    if tls.cert:
        _load("server.tls.cert", tls.cert, lambda: _present(made, tls))
    return made


def _present(made: ssl.SSLContext, tls: Tls) -> None:
    def refuse() -> str:
        raise SetupError(f"server.tls.key: {tls.key or tls.cert}: the key is encrypted; store it without a passphrase")

    made.load_cert_chain(tls.cert, tls.key or None, password=refuse)


def _trust_system(made: ssl.SSLContext) -> None:
    paths = ssl.get_default_verify_paths()
    for bundle in (os.environ.get("SSL_CERT_FILE"), paths.cafile, *_BUNDLES):
        if bundle and os.path.isfile(bundle):
            _load("the system's trust store", bundle, lambda: made.load_verify_locations(cafile=bundle))
            return
    made.load_default_certs()


def _load(what: str, path: str, load: object) -> None:
    try:
        load()
    except ssl.SSLError as error:
        raise SetupError(f"{what}: {path}: no PEM file that can be used ({error.reason or error})") from error
    except OSError as error:
        raise SetupError(f"{what}: {path}: {error.strerror}") from error

"""What an error of TLS means, for the administrator of the two machines."""

from __future__ import annotations

import ssl

NO_TLS = "the port does not speak TLS (a target without TLS begins with http:)"
NO_HTTP = "the port speaks TLS (the target has to begin with https:)"
ALERT = b"\x15\x03"
"""The first bytes of an alert (RFC 8446 section 5.1), which some servers send to a client that does not speak TLS."""

_DEMANDED = "the server demands a client certificate"
_REFUSED = "the server does not accept our client certificate"
_VERSION = "the server does not speak TLS 1.2 or a later version"
_MEANINGS = {
    "WRONG_VERSION_NUMBER": NO_TLS,
    "HTTP_REQUEST": NO_TLS,
    "PACKET_LENGTH_TOO_LONG": NO_TLS,
    "RECORD_LAYER_FAILURE": NO_TLS,
    "UNEXPECTED_EOF_WHILE_READING": "the server closed the connection in the handshake",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": _DEMANDED,
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the server refuses the handshake, perhaps because it demands a client certificate",
    "TLSV1_ALERT_UNKNOWN_CA": _REFUSED,
    "SSLV3_ALERT_BAD_CERTIFICATE": _REFUSED,
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": _REFUSED,
    "SSLV3_ALERT_CERTIFICATE_REVOKED": _REFUSED,
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": _REFUSED,
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": _REFUSED,
    "TLSV1_ALERT_PROTOCOL_VERSION": _VERSION,
    "UNSUPPORTED_PROTOCOL": _VERSION,
}
"""OpenSSL's name of an error -> its meaning."""

_UNTRUSTED = frozenset({2, 18, 19, 20, 21})
"""The codes of X509_verify_cert(3) for a chain that leads to none of the trusted authorities."""


def tls_reason(error: ssl.SSLError, context: ssl.SSLContext) -> str:
    """What went wrong, with the setting that matters. `context` is one that `io.tls` has made, or any other."""
    if isinstance(error, ssl.SSLCertVerificationError):
        text = f"certificate verification failed: {error.verify_message}"
        return _with(text, context, "trusted") if error.verify_code in _UNTRUSTED else text
    name = error.reason or ""
    meaning = _MEANINGS.get(name)
    if meaning is None:
        return name or str(error)
    concerns_us = "client certificate" in meaning
    return _with(f"{meaning} ({name})" if meaning is not NO_TLS else meaning, context, "sent" if concerns_us else "")


def _with(text: str, context: ssl.SSLContext, attribute: str) -> str:
    """The text with what the context's attribute of that name says, if it has it."""
    more = getattr(context, attribute, "") if attribute else ""
    return f"{text}; {more}" if more else text

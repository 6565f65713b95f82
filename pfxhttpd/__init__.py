"""pfxhttpd: answers Postfix's socketmap, policy and SASL questions by asking an HTTP API."""

__version__ = "1.0.0"

"""The access token for the requests to a backend (RFC 6749 section 4.4). One worker fetches it and all workers use
it."""

from __future__ import annotations

import hashlib
import time

from pfxhttpd.config.settings import BackendOidc
from pfxhttpd.io.cache.documents import Document
from pfxhttpd.rules.client_authentication import bearer_token, token_form
from pfxhttpd.rules.response import BackendError
from pfxhttpd.service.oidc.provider import Provider
from pfxhttpd.service.oidc.shared_documents import SharedDocuments


class BackendToken:
    """The token for one provider, client and set of scopes."""

    def __init__(self, settings: BackendOidc, provider: Provider, shared: SharedDocuments) -> None:
        self._settings, self._provider, self._shared = settings, provider, shared
        self._name = _name(settings)
        self._document: Document | None = None

    def current(self, deadline: float) -> str:
        """The token to send. Raises `BackendError` if there is none at `deadline` (monotonic seconds).

        A token that need not be replaced costs one reading of the clock, and no call to the cache process.
        """
        document = self._document
        if document is not None and time.monotonic() < document.refresh_at:
            return document.text
        return self._get(deadline, 0.0)

    def replace(self, deadline: float) -> str:
        """A new token, because the backend has refused the current one. Raises `BackendError`."""
        refused, self._document = self._document, None
        if refused is None:
            return self._get(deadline, 0.0)
        self._shared.discard(self._name, refused)
        return self._get(deadline, refused.fetched_at)

    def _get(self, deadline: float, newer_than: float) -> str:
        document = self._shared.get(
            self._name, self._provider.name, lambda: self._fetch(deadline), deadline, newer_than
        )
        self._document = document
        return document.text

    def _fetch(self, deadline: float) -> Document:
        url = self._provider.discovery(deadline).token_endpoint
        if not url:
            raise BackendError("the provider's configuration names no token_endpoint")
        token = self._provider.post_form(url, token_form(self._settings), deadline, bearer_token)
        now = time.monotonic()
        return Document(token.value, now, now + token.refresh_after, now + token.lifetime)


def _name(settings: BackendOidc) -> str:
    """The name under which the token is shared by all entries with the same client, credentials and scopes."""
    parts = (
        settings.configuration_uri,
        settings.client_id,
        " ".join(settings.scopes),
        settings.auth_method,
        settings.client_secret,
        settings.private_key_file,
    )
    return "token " + hashlib.sha256("\0".join(parts).encode()).hexdigest()

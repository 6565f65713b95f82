"""The token that a backend's requests bear (RFC 6749 section 4.4): fetched by one worker, used by all, replaced in time."""

from __future__ import annotations

import hashlib
import time

from pfxhttpd.config.settings import BackendOidc
from pfxhttpd.io.cache.documents import Document
from pfxhttpd.rules.client_authentication import bearer_token, token_form
from pfxhttpd.rules.response import BackendError
from pfxhttpd.service.oidc.provider import Provider
from pfxhttpd.service.oidc.shared import SharedDocuments


class BackendToken:
    """The token of one provider, client and set of scopes."""

    def __init__(self, settings: BackendOidc, provider: Provider, shared: SharedDocuments) -> None:
        self._settings, self._provider, self._shared = settings, provider, shared
        self._name = _name(settings)
        self._document: Document | None = None

    def current(self, deadline: float) -> str:
        """The token to send now. Raises `BackendError` when there is none by `deadline` (monotonic seconds).

        A good token costs no more than a look at the clock.
        """
        document = self._document
        if document is not None and time.monotonic() < document.refresh_at:
            return document.text
        return self._get(deadline, 0.0)

    def replace(self, deadline: float) -> str:
        """Another token, since the backend does not take the current one. Raises `BackendError`."""
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
        token = self._provider.ask(url, token_form(self._settings), deadline, bearer_token)
        now = time.monotonic()
        return Document(token.value, now, now + token.refresh_after, now + token.lifetime)


def _name(settings: BackendOidc) -> str:
    """Under what the token is shared: by all that would get the same one with the same credentials."""
    parts = (
        settings.configuration_uri,
        settings.client_id,
        " ".join(settings.scopes),
        settings.auth_method,
        settings.client_secret,
        settings.private_key_file,
    )
    return "token " + hashlib.sha256("\0".join(parts).encode()).hexdigest()

"""Documents that all workers share through the cache process and that one worker fetches.

Each worker keeps copies, so that a document in use costs no call to the cache process. If the cache process does not
respond, the worker fetches the document itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Protocol

from pfxhttpd.io.cache.documents import Document, Offer
from pfxhttpd.rules.response import BackendError
from pfxhttpd.service.breaker import BreakerOpen
from pfxhttpd.wire.sanitize import one_line

POLL = 0.02
"""Seconds between checks for a document that another worker is fetching."""
LEASE_GRACE = 0.5
"""Seconds that the lease for a fetch lasts beyond the deadline of the fetch."""


class DocumentCache(Protocol):
    """The interface of `io.cache.client`. None means that the cache process did not respond."""

    def obtain_document(self, name: str, owner: str, lease: float, newer_than: float, since: float) -> Offer | None: ...

    def store_document(self, name: str, provider: str, document: Document) -> None: ...

    def fail_document(self, name: str, provider: str, error: str, timeout: bool) -> None: ...

    def discard_document(self, name: str, fetched_at: float) -> None: ...


Fetch = Callable[[], Document]
"""Fetches a new document from the provider. Raises `BackendError`."""


class SharedDocuments:
    """One worker's access to the shared documents."""

    def __init__(self, cache: DocumentCache, scope: str = "") -> None:
        """Documents are shared within a `scope`. A document that was fetched without verification of certificates
        must not be used by a configuration that requires it."""
        self._cache, self._scope = cache, scope
        self._owner = str(os.getpid())
        self._copies: dict[str, Document] = {}

    def _copy(self, name: str, now: float) -> Document | None:
        """This worker's copy, unless it should be fetched again."""
        document = self._copies.get(name)
        return document if document is not None and now < document.refresh_at else None

    def get(self, name: str, provider: str, fetch: Fetch, deadline: float, newer_than: float = 0.0) -> Document:
        """The document: this worker's copy, the shared one, or a new one.

        It was fetched after `newer_than`, which is in monotonic seconds like `deadline`. A document that cannot be
        fetched again is used until it expires. Raises `BackendError` if there is no document.
        """
        name, since = self._scope + name, time.monotonic()
        document = self._copy(name, since)
        if document is not None and document.fetched_at > newer_than:
            return document
        while True:
            offer = self._cache.obtain_document(
                name, self._owner, max(0.0, deadline - since) + LEASE_GRACE, newer_than, since
            )
            if offer is None:
                offer = Offer(self._copies.get(name), True)
            now = time.monotonic()
            document = offer.document
            usable = document is not None and now < document.expires_at and document.fetched_at > newer_than
            if document is not None and usable and now < document.refresh_at:
                return self._keep(name, document)
            if offer.leased:
                return self._fetch(name, provider, fetch, document if usable else None)
            if document is not None and usable:
                return self._keep(name, document)
            if offer.error:
                raise BackendError(offer.error, timeout=offer.timeout)
            if now >= deadline:
                raise BackendError("the provider timed out for another request", timeout=True)
            time.sleep(POLL)

    def discard(self, name: str, document: Document) -> None:
        """Remove this document, because it is not valid any more."""
        name = self._scope + name
        if self._copies.get(name) == document:
            del self._copies[name]
        self._cache.discard_document(name, document.fetched_at)

    def report(self, provider: str, error: BackendError) -> None:
        """Have `status` show the error of another request to the provider."""
        self._fail("", provider, error)

    def _fetch(self, name: str, provider: str, fetch: Fetch, previous: Document | None) -> Document:
        try:
            document = fetch()
        except BackendError as error:
            self._fail(name, provider, error)
            if previous is None:
                raise
            return previous
        self._cache.store_document(name, provider, document)
        return self._keep(name, document)

    def _fail(self, name: str, provider: str, error: BackendError) -> None:
        shown = "" if isinstance(error, BreakerOpen) else provider  # the error that opened the breaker says more
        self._cache.fail_document(name, shown, one_line(error.reason), error.timeout)

    def _keep(self, name: str, document: Document) -> Document:
        self._copies[name] = document
        return document

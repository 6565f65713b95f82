"""What the workers share of OpenID providers: discovery documents, key sets, and the tokens for backends.

It is a pure data structure in the cache process, like `io.cache.table`. When several workers need the same document,
the first one gets a lease and fetches it, and the others wait for the result, which may be a failure. A lease
expires, because its holder may have died.

The documents include secrets and are only given to workers. What `status` shows comes from `providers`, which contains
neither documents nor tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

MAX_DOCUMENTS = 1000
MAX_BYTES = 32 * 1024 * 1024


class Document(NamedTuple):
    """A text, with the times when it was fetched, when it should be fetched again and when it expires.

    The times are in monotonic seconds. `keys` is the number of keys in a key set, and -1 for other documents.
    """

    text: str
    fetched_at: float
    refresh_at: float
    expires_at: float
    keys: int = -1


class Offer(NamedTuple):
    """The reply to `obtain`. If `leased` is true, the caller must fetch the document and then call `store` or `fail`.

    `error` is the error of the last fetch if that failed after the caller began to wait, else "".
    """

    document: Document | None
    leased: bool
    error: str = ""
    timeout: bool = False


class ProviderState(NamedTuple):
    """The state of a provider for `status`. `keys` is -1 before the first key set; a time of 0.0 means never."""

    provider: str
    keys: int
    fetched_at: float
    error: str
    error_at: float


class _Entry:
    __slots__ = ("document", "error", "error_at", "lease", "timeout")

    def __init__(self) -> None:
        self.document: Document | None = None
        self.lease: tuple[str, float] | None = None
        self.error, self.error_at, self.timeout = "", 0.0, False


class Documents:
    """The documents by name, least recently used first, and the states of their providers."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._providers: OrderedDict[str, ProviderState] = OrderedDict()
        self._bytes = 0

    def obtain(self, name: str, owner: str, lease: float, newer_than: float, since: float, now: float) -> Offer:
        """The document, if it was fetched after `newer_than` and need not be fetched again; else a lease for `lease`
        seconds, unless another owner has one. `since` is the time when the caller began to wait."""
        entry = self._entries.get(name)
        if entry is None:
            entry = self._entries[name] = _Entry()
            self._shrink()
        self._entries.move_to_end(name)
        document = entry.document
        if document is not None and now >= document.expires_at:
            self._drop(entry)
            document = None
        if document is not None and now < document.refresh_at and document.fetched_at > newer_than:
            return Offer(document, False)
        if entry.error and entry.error_at >= since:
            return Offer(document, False, entry.error, entry.timeout)
        if entry.lease is not None and entry.lease[0] != owner and now < entry.lease[1]:
            return Offer(document, False)
        entry.lease = (owner, now + lease)
        return Offer(document, True)

    def store(self, name: str, provider: str, document: Document) -> None:
        """A fetch has succeeded. An older document never replaces a newer one."""
        entry = self._entries.setdefault(name, _Entry())
        entry.lease, entry.error = None, ""
        if entry.document is None or entry.document.fetched_at <= document.fetched_at:
            self._drop(entry)
            entry.document = document
            self._bytes += len(document.text)
        state = self._state(provider)
        keys = document.keys if document.keys >= 0 else state.keys
        self._show(state._replace(keys=keys, fetched_at=max(document.fetched_at, state.fetched_at)))
        self._shrink()

    def fail(self, name: str, provider: str, error: str, timeout: bool, now: float) -> None:
        """A fetch has failed, or, with an empty name, another request to the provider. With an empty provider, the
        error is not part of the provider's state."""
        if name:
            entry = self._entries.setdefault(name, _Entry())
            entry.lease, entry.error, entry.error_at, entry.timeout = None, error, now, timeout
        if provider:
            self._show(self._state(provider)._replace(error=error, error_at=now))

    def discard(self, name: str, fetched_at: float) -> None:
        """Remove the document that was fetched at that time, or an older one."""
        entry = self._entries.get(name)
        if entry is not None and entry.document is not None and entry.document.fetched_at <= fetched_at:
            self._drop(entry)

    def providers(self) -> list[ProviderState]:
        return list(self._providers.values())

    def _state(self, provider: str) -> ProviderState:
        return self._providers.get(provider, ProviderState(provider, -1, 0.0, "", 0.0))

    def _show(self, state: ProviderState) -> None:
        self._providers[state.provider] = state
        self._providers.move_to_end(state.provider)
        while len(self._providers) > MAX_DOCUMENTS:
            self._providers.popitem(last=False)

    def _drop(self, entry: _Entry) -> None:
        if entry.document is not None:
            self._bytes -= len(entry.document.text)
            entry.document = None

    def _shrink(self) -> None:
        while len(self._entries) > MAX_DOCUMENTS or (self._bytes > MAX_BYTES and len(self._entries) > 1):
            self._drop(self._entries.popitem(last=False)[1])

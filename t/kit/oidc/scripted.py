"""A provider that answers what a test says, and one worker's way to it: for answers that no honest provider gives.

with ScriptedProvider(key_set(KEY)) as provider:
    login = Worker().login(provider.settings(validation="jwks"))
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from kit.answer import Answer, Rule
from kit.backend import ThreadBackend
from kit.server import ServerTls
from pfxhttpd.config.settings import BackendOidc, SaslOidc, Tls
from pfxhttpd.io import tls
from pfxhttpd.io.cache.documents import Document, Documents, Offer
from pfxhttpd.io.oidc.endpoints import Endpoints
from pfxhttpd.io.transport.adapter import Transport
from pfxhttpd.io.transport.session import DirectSession
from pfxhttpd.rules.breaker import Outcome
from pfxhttpd.service.oidc.provider import Provider
from pfxhttpd.service.oidc.shared_documents import SharedDocuments
from pfxhttpd.service.oidc.validator import TokenValidator

DISCOVERY = "/.well-known/openid-configuration"


class ScriptedProvider(ThreadBackend):
    """Its documents are honest ones until a test replaces them with `answer`."""

    def __init__(self, keys: Any = None, certificate: ServerTls | None = None, issuer: str = "") -> None:
        super().__init__(certificate)
        self.issuer = issuer or self.url("")
        self.answer(DISCOVERY, json=self.discovery())
        self.answer("/jwks", json=keys or {"keys": []})

    def discovery(self, **changes: Any) -> dict[str, Any]:
        """The discovery document; None removes a member."""
        document = {
            "issuer": self.issuer,
            "token_endpoint": self.url("/token"),
            "introspection_endpoint": self.url("/introspect"),
            "userinfo_endpoint": self.url("/userinfo"),
            "jwks_uri": self.url("/jwks"),
            **changes,
        }
        return {name: value for name, value in document.items() if value is not None}

    @property
    def configuration_uri(self) -> str:
        return self.url(DISCOVERY)

    def settings(self, **more: Any) -> SaslOidc:
        return SaslOidc(enabled=True, configuration_uri=self.configuration_uri, client_id="us", **more)

    def backend_settings(self, **more: Any) -> BackendOidc:
        return BackendOidc(enabled=True, configuration_uri=self.configuration_uri, client_id="us", **more)

    def active(self, rule: Rule | None = None, **claims: Any) -> None:
        """What introspection answers: an active token with these claims, or whatever the rule says."""
        self.answer("/introspect", Answer(json={"active": True, **claims}) if rule is None else rule)


class LocalCache:
    """The cache process's documents, without the process. With `reachable` unset it does not answer."""

    def __init__(self) -> None:
        self.documents = Documents()
        self.reachable = True

    def obtain_document(self, name: str, owner: str, lease: float, newer_than: float, since: float) -> Offer | None:
        if not self.reachable:
            return None
        return self.documents.obtain(name, owner, lease, newer_than, since, time.monotonic())

    def store_document(self, name: str, provider: str, document: Document) -> None:
        if self.reachable:
            self.documents.store(name, provider, document)

    def fail_document(self, name: str, provider: str, error: str, timeout: bool) -> None:
        if self.reachable:
            self.documents.fail(name, provider, error, timeout, time.monotonic())

    def discard_document(self, name: str, fetched_at: float) -> None:
        if self.reachable:
            self.documents.discard(name, fetched_at)


class CountingBreaker:
    """A circuit breaker that never opens; `outcomes` has what it was told."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.keys: list[int] = []

    def acquire(self) -> int:
        return 0

    def record(self, decision: int, outcome: Outcome, timed_out: bool = False, key: int = 0) -> None:
        self.outcomes.append(outcome)
        self.keys.append(key)


class Worker:
    """One worker's session, copies and breaker; several share a `cache`."""

    def __init__(
        self, cache: LocalCache | None = None, trust: str = "", clock: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        context = tls.context(
            Tls(enabled=True, root_ca=trust, skip_verify=not trust)
        )  # reading the system's store takes long
        self.cache = cache or LocalCache()
        self.shared = SharedDocuments(self.cache)
        self.breaker = CountingBreaker()
        self._session = DirectSession(Transport(context))

    def provider(self, settings: SaslOidc | BackendOidc) -> Provider:
        return Provider(settings, Endpoints(self._session, {}), self.shared, self.breaker)

    def login(self, *settings: SaslOidc) -> TokenValidator:
        return TokenValidator([(each, self.provider(each)) for each in settings], self._clock)


def soon(seconds: float = 5.0) -> float:
    """A deadline that no honest answer needs."""
    return time.monotonic() + seconds

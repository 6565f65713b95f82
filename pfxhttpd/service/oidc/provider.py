"""One OpenID provider: its discovery document, its keys and its endpoints, with a circuit breaker for all of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Protocol, TypeVar
from urllib.parse import urlencode

from pfxhttpd.config.settings import DOVECOT_SASL, BackendOidc, Entry, SaslOidc
from pfxhttpd.io.cache.documents import Document
from pfxhttpd.io.oidc.assertion import KeyFileError, SigningKey
from pfxhttpd.io.oidc.endpoints import Endpoints
from pfxhttpd.io.oidc.key_file import read_key
from pfxhttpd.rules.breaker import Outcome, key_hash, outcome_of
from pfxhttpd.rules.client_authentication import PRIVATE_KEY, assertion_claims, client_request
from pfxhttpd.rules.discovery import Discovery, parse_discovery
from pfxhttpd.rules.key_set import KeySet, parse_key_set
from pfxhttpd.rules.response import BackendError, BackendResponse
from pfxhttpd.service.breaker import BreakerOpen
from pfxhttpd.service.oidc.shared_documents import SharedDocuments

DISCOVERY_LIFETIME = 3600.0
"""Seconds after which the discovery document is fetched again, in case an endpoint has changed."""
KEY_REFETCH = 60.0
"""Minimum number of seconds between fetches of a key set because of an unknown key. Anyone can send tokens with such
keys."""

Answer = TypeVar("Answer")
Parse = Callable[[BackendResponse], Answer]
"""Turns a response into a result. Raises `BackendError` for a response that is not valid."""


def breaker_target(configuration_uri: str) -> str:
    """The name of a provider's circuit breaker among those of the targets."""
    return f"provider {configuration_uri}"


def providers_of(entry: Entry) -> list[BackendOidc | SaslOidc]:
    """The settings of each provider that an entry uses."""
    found: list[BackendOidc | SaslOidc] = [entry.backend_oidc] if entry.backend_oidc.enabled else []
    return found + list(login_providers(entry))


def login_providers(entry: Entry) -> tuple[SaslOidc, ...]:
    """The settings of each provider whose tokens an entry accepts."""
    if entry.kind != DOVECOT_SASL or not entry.sasl_oidc.enabled:
        return ()
    return entry.sasl_oidc.providers or (entry.sasl_oidc,)


class Breaker(Protocol):
    """`service.breaker.SharedBreaker`."""

    def acquire(self) -> int: ...

    def record(self, decision: int, outcome: Outcome, timed_out: bool = False, key: int = 0) -> None: ...


class Provider:
    """A provider with the settings of one entry.

    Every method raises `BackendError`, also if the circuit breaker is open. `deadline` is in monotonic seconds.
    """

    def __init__(
        self, settings: BackendOidc | SaslOidc, endpoints: Endpoints, shared: SharedDocuments, breaker: Breaker
    ) -> None:
        self.settings = settings
        self.name = settings.configuration_uri
        self._endpoints, self._shared, self._breaker = endpoints, shared, breaker
        self._parsed: dict[str, tuple[Document, Discovery | KeySet]] = {}

    def discovery(self, deadline: float) -> Discovery:
        """The discovery document, at most one hour old."""
        name = f"discovery {self.name}"
        document = self._shared.get(name, self.name, lambda: self._fetch_discovery(deadline), deadline)
        found = self._parse(name, document, lambda text: parse_discovery(text, self.name))
        assert isinstance(found, Discovery)
        return found

    def keys(self, lifetime: float, deadline: float) -> tuple[KeySet, float]:
        """The key set, at most `lifetime` seconds old, and the time when it was fetched."""
        return self._keys(lifetime, deadline, 0.0)

    def keys_after(self, fetched_at: float, lifetime: float, deadline: float) -> tuple[KeySet, float] | None:
        """A newer key set than the one that lacks a key, or None if that one is too recent for another fetch."""
        if time.monotonic() < fetched_at + KEY_REFETCH:
            return None
        return self._keys(lifetime, deadline, fetched_at)

    def post_form(self, url: str, form: Mapping[str, str], deadline: float, parse: Parse[Answer]) -> Answer:
        """The result of `parse` for the response to a form with client authentication."""
        assertion = ""
        if self.settings.auth_method == PRIVATE_KEY:
            assertion = self._assertion(url, deadline)
        request = client_request(self.settings, form, assertion)
        send = partial(self._endpoints.post, url, request.body, request.headers, deadline)
        return self._request(send, parse, form.get("token", url))

    def post_token(self, url: str, token: str, deadline: float, parse: Parse[Answer]) -> Answer:
        """The same for a form that contains the token and no client authentication."""
        form = urlencode({"access_token": token}).encode("ascii")
        return self._request(lambda: self._endpoints.post(url, form, {}, deadline), parse, token)

    def get_with_token(self, url: str, token: str, deadline: float, parse: Parse[Answer]) -> Answer:
        """The same for a GET request with the token as bearer token."""
        return self._request(lambda: self._endpoints.get(url, deadline, token), parse, token)

    def _request(self, send: Callable[[], BackendResponse], parse: Parse[Answer], key: str) -> Answer:
        try:
            with self._attempt(key):
                return parse(send())
        except BackendError as error:
            self._shared.report(self.name, error)
            raise

    @contextmanager
    def _attempt(self, key: str) -> Iterator[None]:
        """Count for the breaker what happens inside: any answer means that the provider is up, unless it is nonsense.

        `key` is the token in question, else the URL: a token that the provider cannot answer does not open the breaker.
        """
        try:
            decision = self._breaker.acquire()
        except BreakerOpen as error:
            raise BreakerOpen("the provider has failed repeatedly and is given a pause") from error
        outcome, timed_out = Outcome.SUCCESS, False
        try:
            yield
        except BackendError as error:
            outcome, timed_out = outcome_of(error.status), error.timeout
            raise
        finally:
            failed_key = key_hash(key, frozenset()) if outcome is Outcome.KEY_FAILURE else 0
            self._breaker.record(decision, outcome, timed_out, failed_key)

    def _fetch_discovery(self, deadline: float) -> Document:
        with self._attempt(self.name):
            body = _body(self._endpoints.get(self.name, deadline), "configuration")
            parse_discovery(body, self.name)
        now = time.monotonic()
        return Document(body.decode(), now, now + DISCOVERY_LIFETIME, now + DISCOVERY_LIFETIME)

    def _keys(self, lifetime: float, deadline: float, newer_than: float) -> tuple[KeySet, float]:
        url = self.discovery(deadline).jwks_uri
        if not url:
            raise BackendError("the provider's configuration names no jwks_uri")

        def fetch() -> Document:
            with self._attempt(url):
                body = _body(self._endpoints.get(url, deadline), "key set")
                keys = parse_key_set(body)
            now = time.monotonic()
            return Document(body.decode(), now, now + lifetime, now + lifetime, len(keys.keys))

        name = f"keys {url} {lifetime:g}"
        document = self._shared.get(name, self.name, fetch, deadline, newer_than)
        found = self._parse(name, document, parse_key_set)
        assert isinstance(found, KeySet)
        return found, document.fetched_at

    def _parse(self, name: str, document: Document, parse: Callable[[bytes], Discovery | KeySet]) -> Discovery | KeySet:
        """The parsed document. Each document is parsed once."""
        known = self._parsed.get(name)
        if known is None or known[0] is not document:
            known = self._parsed[name] = (document, parse(document.text.encode()))
        return known[1]

    def _assertion(self, url: str, deadline: float) -> str:
        discovery = self.discovery(deadline)
        try:
            key = SigningKey(read_key(self.settings.private_key_file, self.settings.private_key))
        except KeyFileError as error:
            raise BackendError(f"the private key cannot be used: {error}") from None
        return key.sign(assertion_claims(self.settings, discovery, url, os.urandom(16).hex(), time.time()))


def _body(response: BackendResponse, what: str) -> bytes:
    if response.status != 200:
        raise BackendError(
            f"the provider's {what} cannot be had: status code {response.status}", status=response.status
        )
    return response.body

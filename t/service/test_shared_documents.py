"""One worker's access to what all share: its copy, the cache, or a fetch of its own; and the token of a backend."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from kit.answer import Answer
from kit.oidc.scripted import LocalCache, ScriptedProvider, Worker, soon

from pfxhttpd.io.cache.documents import Document, Offer
from pfxhttpd.rules.response import BackendError
from pfxhttpd.service.oidc.backend_token import BackendToken
from pfxhttpd.service.oidc.shared_documents import SharedDocuments


class CountingCache(LocalCache):
    """`calls` is how often it was asked for a document."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def obtain_document(self, name: str, owner: str, lease: float, newer_than: float, since: float) -> Offer | None:
        self.calls += 1
        return super().obtain_document(name, owner, lease, newer_than, since)


def fetched(text: str, refresh: float = 60.0, expire: float = 90.0) -> Document:
    now = time.monotonic()
    return Document(text, now, now + refresh, now + expire)


def fail() -> Document:
    raise BackendError("it is down")


def test_a_good_copy_asks_nobody():
    cache = CountingCache()
    shared = SharedDocuments(cache)
    first = shared.get("name", "p", lambda: fetched("one"), soon())
    for _ in range(10):
        assert shared.get("name", "p", fail, soon()) is first
    assert cache.calls == 1


def test_another_worker_gets_what_the_first_one_has_fetched():
    cache = CountingCache()
    first = SharedDocuments(cache).get("name", "p", lambda: fetched("one"), soon())
    assert SharedDocuments(cache).get("name", "p", fail, soon()) == first


def test_another_scope_has_documents_of_its_own():
    cache = CountingCache()
    for scope in ("unchecked ", "checked "):
        shared = SharedDocuments(cache, scope)
        assert shared.get("name", "p", lambda: fetched(scope), soon()).text == scope
        shared.discard("name", shared.get("name", "p", fail, soon()))
        with pytest.raises(BackendError):
            shared.get("name", "p", fail, soon())


def test_what_another_one_is_fetching_is_waited_for():
    cache, begun, go = LocalCache(), threading.Event(), threading.Event()
    one, two = SharedDocuments(cache), SharedDocuments(cache)
    two._owner = "another"

    def slow() -> Document:
        begun.set()
        assert go.wait(10)
        return fetched("slow")

    got: list[Document] = []
    fetching = threading.Thread(target=lambda: got.append(one.get("name", "p", slow, soon())))
    fetching.start()
    assert begun.wait(10)
    waiting = threading.Thread(target=lambda: got.append(two.get("name", "p", fail, soon())))
    waiting.start()
    go.set()
    for thread in (fetching, waiting):
        thread.join(10)
    assert [each.text for each in got] == ["slow", "slow"]


def test_a_wait_ends_at_the_deadline():
    cache = LocalCache()
    cache.documents.obtain("name", "another", 60.0, 0.0, time.monotonic(), time.monotonic())
    begun = time.monotonic()
    with pytest.raises(BackendError) as caught:
        SharedDocuments(cache).get("name", "p", fail, begun + 0.1)
    assert caught.value.timeout and time.monotonic() - begun < 5


def test_what_cannot_be_refreshed_is_used_until_it_expires():
    for cache in (LocalCache(), unreachable()):
        shared = SharedDocuments(cache)
        old = shared.get("name", "p", lambda: fetched("old", refresh=0.0), soon())
        assert shared.get("name", "p", fail, soon()) == old
        gone = shared.get("gone", "p", lambda: fetched("old", refresh=0.0, expire=0.0), soon())
        with pytest.raises(BackendError, match="it is down"):
            shared.get("gone", "p", fail, soon())
        assert gone.text == "old"


def unreachable() -> LocalCache:
    cache = LocalCache()
    cache.reachable = False
    return cache


def test_without_the_cache_there_is_a_copy():
    shared = SharedDocuments(unreachable())
    first = shared.get("name", "p", lambda: fetched("one"), soon())
    assert shared.get("name", "p", fail, soon()) is first


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as started:
        started.answer("/token", json={"access_token": "first", "token_type": "Bearer", "expires_in": 600})
        yield started


def token_of(provider: ScriptedProvider, cache: LocalCache) -> BackendToken:
    worker, settings = Worker(cache), provider.backend_settings(client_secret="s", auth_method="client_secret_basic")
    return BackendToken(settings, worker.provider(settings), worker.shared)


def test_a_cached_token_costs_no_call(provider: ScriptedProvider):
    cache = CountingCache()
    token = token_of(provider, cache)
    assert token.current(soon()) == "first"
    calls = cache.calls
    assert {token.current(soon()) for _ in range(1000)} == {"first"}
    assert cache.calls == calls and provider.count("/token") == 1


def test_a_refused_token_is_replaced_once_for_all(provider: ScriptedProvider):
    cache = LocalCache()
    one, two = token_of(provider, cache), token_of(provider, cache)
    assert [one.current(soon()), two.current(soon())] == ["first", "first"]
    provider.answer("/token", json={"access_token": "second", "token_type": "Bearer", "expires_in": 600})
    assert [one.replace(soon()), two.replace(soon())] == ["second", "second"]
    assert [one.current(soon()), two.current(soon())] == ["second", "second"]
    assert provider.count("/token") == 2


def test_a_refused_token_that_cannot_be_replaced_is_used_no_more(provider: ScriptedProvider):
    token = token_of(provider, LocalCache())
    assert token.current(soon()) == "first"
    provider.answer("/token", Answer(503))
    for get in (token.replace, token.current):
        with pytest.raises(BackendError, match="503"):
            get(soon())


@pytest.mark.parametrize(
    ("expires_in", "refresh", "lifetime"),
    [(600, 570, 600), ("600", 570, 600), (40, 20, 40), (None, 270, 300), (-1, 270, 300), (True, 270, 300), ("x", 270, 300)],
)  # fmt: skip
def test_when_a_token_is_replaced(provider: ScriptedProvider, expires_in: object, refresh: float, lifetime: float):
    provider.answer("/token", json={"access_token": "t", "token_type": "bearer", "expires_in": expires_in})
    cache = LocalCache()
    before = time.monotonic()
    token_of(provider, cache).current(soon())
    (document,) = [entry.document for name, entry in cache.documents._entries.items() if name.startswith("token ")]
    assert document is not None
    assert refresh <= document.refresh_at - before < refresh + 5
    assert document.expires_at - document.refresh_at == pytest.approx(lifetime - refresh)

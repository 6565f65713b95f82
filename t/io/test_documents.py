"""The documents that workers share: who fetches, who waits, and what becomes of a lease whose holder has died."""

from __future__ import annotations

import pytest

from pfxhttpd.io.cache import documents as module
from pfxhttpd.io.cache.documents import Document, Documents, Offer

URI = "https://provider.example.test/.well-known/openid-configuration"


def document(
    text: str = "text", at: float = 100.0, refresh: float = 60.0, expire: float = 90.0, keys: int = -1
) -> Document:
    return Document(text, at, at + refresh, at + expire, keys)


def obtain(shared: Documents, owner: str, now: float, since: float = -1.0, newer_than: float = 0.0) -> Offer:
    return shared.obtain("name", owner, 5.0, newer_than, now if since < 0 else since, now)


def test_the_first_one_fetches_and_the_others_wait():
    shared = Documents()
    assert obtain(shared, "a", 100.0) == Offer(None, True)
    assert obtain(shared, "b", 101.0) == Offer(None, False)
    assert obtain(shared, "a", 101.0) == Offer(None, True), "it may ask again"
    shared.store("name", URI, document())
    for owner in "abc":
        assert obtain(shared, owner, 102.0) == Offer(document(), False)


def test_a_lease_ends_with_its_time():
    shared = Documents()
    assert obtain(shared, "dead", 100.0).leased
    assert not obtain(shared, "b", 104.9).leased
    assert obtain(shared, "b", 105.0).leased
    assert not obtain(shared, "c", 105.1).leased


def test_one_refreshes_while_the_others_use_on_what_is_there():
    shared = Documents()
    shared.store("name", URI, document())
    assert obtain(shared, "a", 159.9) == Offer(document(), False)
    assert obtain(shared, "a", 160.0) == Offer(document(), True)
    assert obtain(shared, "b", 160.1) == Offer(document(), False)
    assert obtain(shared, "b", 190.0) == Offer(None, True), "it has expired, and so has the lease"


def test_a_failure_is_an_answer_for_those_who_have_waited_for_it():
    shared = Documents()
    assert obtain(shared, "a", 100.0).leased
    assert obtain(shared, "b", 101.0) == Offer(None, False)
    shared.fail("name", URI, "it is down", True, 103.0)
    assert obtain(shared, "b", 103.1, since=101.0) == Offer(None, False, "it is down", True)
    assert obtain(shared, "c", 103.2) == Offer(None, True), "who comes later tries for himself"
    shared.store("name", URI, document(at=104.0))
    assert obtain(shared, "b", 104.1, since=101.0) == Offer(document(at=104.0), False)


def test_one_that_is_newer_than_what_is_known_to_be_too_old():
    shared = Documents()
    shared.store("name", URI, document())
    assert obtain(shared, "a", 110.0, newer_than=100.0) == Offer(document(), True)
    assert obtain(shared, "b", 110.0, newer_than=99.0) == Offer(document(), False)
    shared.store("name", URI, document("new", at=111.0))
    assert obtain(shared, "c", 112.0, newer_than=100.0) == Offer(document("new", at=111.0), False)


def test_an_older_document_never_replaces_a_newer_one():
    shared = Documents()
    shared.store("name", URI, document("new", at=110.0))
    shared.store("name", URI, document("old", at=100.0))
    assert obtain(shared, "a", 111.0).document == document("new", at=110.0)


def test_what_is_no_good_is_forgotten_unless_it_has_been_replaced():
    shared = Documents()
    shared.store("name", URI, document(at=100.0))
    shared.discard("name", 99.0)
    assert obtain(shared, "a", 101.0).document == document(at=100.0)
    shared.discard("name", 100.0)
    assert obtain(shared, "a", 101.0) == Offer(None, True)
    shared.discard("unknown", 100.0)


def test_it_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_DOCUMENTS", 3)
    shared = Documents()
    for name in "abcd":
        shared.store(name, name, document(name))
    assert [shared.obtain(name, "x", 1.0, 0.0, 101.0, 101.0).document for name in "bcd"] == list(map(document, "bcd"))
    assert shared.obtain("a", "x", 1.0, 0.0, 101.0, 101.0).document is None
    assert [state.provider for state in shared.providers()] == ["b", "c", "d"]


def test_its_size_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    shared = Documents()
    for name in "ab":
        shared.store(name, URI, document(name * 60))
    assert shared.obtain("a", "x", 1.0, 0.0, 101.0, 101.0).document is None
    assert shared.obtain("b", "x", 1.0, 0.0, 101.0, 101.0).document == document("b" * 60)
    shared.store("b", URI, document("c" * 60, at=101.0))
    assert shared.obtain("b", "x", 1.0, 0.0, 102.0, 102.0).document is not None, "a replacement is not counted twice"


def test_what_is_shown_of_a_provider_holds_no_document():
    shared = Documents()
    shared.store("discovery", URI, document("secret"))
    (state,) = shared.providers()
    assert state == (URI, -1, 100.0, "", 0.0)
    shared.store("keys", URI, document("secret", at=110.0, keys=3))
    shared.fail("token", URI, "no token", False, 120.0)
    shared.fail("", URI, "no answer", False, 130.0)
    shared.fail("token", "", "not to be shown", False, 140.0)
    shared.store("token", URI, document("secret", at=105.0))
    assert shared.providers() == [(URI, 3, 110.0, "no answer", 130.0)]
    assert "secret" not in repr(shared.providers())

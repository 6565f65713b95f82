"""What a backend's answer means: value, absence, error, or doubt."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from pfxhttpd.config.settings import DOVECOT_SASL, POLICY_SERVICE, SOCKET_MAP, Entry
from pfxhttpd.rules import verdict as rules
from pfxhttpd.rules.login import login_verdict
from pfxhttpd.rules.response import BackendError, BackendResponse, parse, read_document
from pfxhttpd.rules.verdict import MapVerdict, PolicyVerdict, check, failure_reply
from pfxhttpd.wire import policy, socketmap
from pfxhttpd.wire.socketmap import SocketMapReply

MAP = Entry(SOCKET_MAP, "demo", "http://h/", value_field="data.result", error_field="error", no_error_value="not-found")
POLICY = Entry(POLICY_SERVICE, "demo", "http://h/", value_field="action", error_field="error", no_error_value="fine",
               failure_action="DEFER later")  # fmt: skip
FAILED = "DEFER later"


def read(entry: Entry, response: BackendResponse) -> BackendResponse:
    return response._replace(document=read_document(entry, response.status, response.body))


def map_reply(entry: Entry, response: BackendResponse) -> MapVerdict:
    return rules.map_reply(entry, read(entry, response))


def policy_action(entry: Entry, response: BackendResponse) -> PolicyVerdict:
    return rules.policy_action(entry, read(entry, response))


def answer(body: Any, status: int = 200) -> BackendResponse:
    return BackendResponse(status, {}, body if isinstance(body, bytes) else json.dumps(body).encode())


@pytest.mark.parametrize(
    ("body", "reply"),
    [
        ({"data": {"result": "value"}}, SocketMapReply("OK", "value")),
        ({"data": {"result": ["a", "b"]}}, SocketMapReply("OK", "a,b")),
        ({"data": {"result": 5.0}}, SocketMapReply("OK", "5")),
        ({"data": {"result": False}}, SocketMapReply("OK", "false")),
        ({"data": {"result": 0}}, SocketMapReply("OK", "0")),
        ({"data": {"result": "value"}, "error": ""}, SocketMapReply("OK", "value")),
        ({"data": {"result": "value"}, "error": "not-found"}, SocketMapReply("OK", "value")),
        ({"error": "not-found"}, SocketMapReply("NOTFOUND", "")),
        ({}, SocketMapReply("NOTFOUND", "")),
        ([], SocketMapReply("NOTFOUND", "")),
        ({"data": {"result": None}}, SocketMapReply("NOTFOUND", "")),
        ({"data": {"result": ""}}, SocketMapReply("NOTFOUND", "")),
        ({"data": {"result": []}}, SocketMapReply("NOTFOUND", "")),
        ({"data": "result"}, SocketMapReply("NOTFOUND", "")),
        ({"result": "elsewhere"}, SocketMapReply("NOTFOUND", "")),
        ({"data": {"result": {}}}, SocketMapReply("PERM", "value is an object")),
        ({"data": {"result": {"a": 1}}}, SocketMapReply("PERM", "value is an object")),
        ({"data": {"result": [{"a": 1}]}}, SocketMapReply("PERM", "value is an object")),
        ({"data": {"result": "value"}, "error": "broken"}, SocketMapReply("PERM", "broken")),
        ({"error": "two\nlines"}, SocketMapReply("PERM", "two lines")),
        ({"error": "x" * 500}, SocketMapReply("PERM", "x" * 197 + "...")),
    ],
)
def test_what_an_answer_means_for_a_lookup(body: Any, reply: SocketMapReply) -> None:
    verdict = map_reply(MAP, answer(body))
    assert verdict.reply == reply
    assert verdict.cacheable == (reply.status == "OK")
    assert verdict.problem == (reply.text if reply.status == "PERM" else "")


@pytest.mark.parametrize(
    ("body", "action", "cacheable"),
    [
        ({"action": "REJECT no"}, "REJECT no", True),
        ({"action": "450 4.7.1 later"}, "450 4.7.1 later", True),
        ({"action": "DUNNO"}, "DUNNO", True),
        ({"action": " OK\n"}, "OK", True),
        ({"action": "REJECT a\nb"}, "REJECT a b", True),
        ({"action": "OK", "error": "fine"}, "OK", True),
        ({"error": "fine"}, "DUNNO", False),
        ({}, "DUNNO", False),
        ({"action": None}, "DUNNO", False),
        ({"action": ""}, "DUNNO", False),
        ({"action": "OK", "error": "broken"}, FAILED, False),
        ({"action": " "}, FAILED, False),
        ({"action": "450"}, FAILED, False),
        ({"action": "450\n"}, FAILED, False),
        ({"action": 450}, FAILED, False),
        ({"action": "12345 x"}, FAILED, False),
        ({"action": {"a": 1}}, FAILED, False),
        ({"action": "-"}, FAILED, False),
    ],
)
def test_what_an_answer_means_for_a_policy_request(body: Any, action: str, cacheable: bool) -> None:
    verdict = policy_action(POLICY, answer(body))
    assert (verdict.action, verdict.cacheable) == (action, cacheable)
    assert bool(verdict.problem) == (action == FAILED)
    assert verdict.problem.isprintable() and len(verdict.problem) <= 200


@pytest.mark.parametrize("empty", [None, "", [], {}, False, [None], [""]])
def test_an_empty_error_is_none(empty: Any) -> None:
    assert map_reply(MAP, answer({"error": empty, "data": {"result": "v"}})).reply == SocketMapReply("OK", "v")
    assert policy_action(POLICY, answer({"error": empty, "action": "OK"})).action == "OK"


@pytest.mark.parametrize(
    ("error", "text"),
    [(True, "true"), (0, "0"), (1, "1"), (["a", "b"], "a,b"), ("\n", "backend reports an error"),
     ({"code": 1}, "backend reports an error"), ([{}], "backend reports an error"), ("Not-Found", "Not-Found")],
)  # fmt: skip
def test_any_other_error_is_one(error: Any, text: str) -> None:
    assert map_reply(MAP, answer({"error": error, "data": {"result": "v"}})).reply == SocketMapReply("PERM", text)
    assert policy_action(POLICY, answer({"error": error, "action": "OK"})).action == FAILED


def test_the_error_field_is_found_by_the_same_rule_as_the_value() -> None:
    assert map_reply(MAP, answer({"meta": {"error": "deep"}})).reply == SocketMapReply("PERM", "deep")
    walking = Entry(SOCKET_MAP, "m", "http://h/", value_field="v", error_field="meta.errors.0")
    assert map_reply(walking, answer({"v": "x", "meta": {"errors": ["first"]}})).reply == SocketMapReply(
        "PERM", "first"
    )


def test_the_value_that_means_no_error_may_be_a_number() -> None:
    entry = Entry(SOCKET_MAP, "m", "http://h/", value_field="v", error_field="code", no_error_value="0")
    assert map_reply(entry, answer({"v": "x", "code": 0})).reply == SocketMapReply("OK", "x")
    assert map_reply(entry, answer({"v": "x", "code": 7})).reply == SocketMapReply("PERM", "7")


def test_without_an_error_field_nothing_is_an_error() -> None:
    entry = Entry(SOCKET_MAP, "m", "http://h/", value_field="v")
    assert map_reply(entry, answer({"v": "x", "error": "broken", "": "broken"})).reply == SocketMapReply("OK", "x")
    entry = Entry(POLICY_SERVICE, "p", "http://h/", value_field="v")
    assert policy_action(entry, answer({"v": "OK", "error": "broken", "": "broken"})).action == "OK"


@pytest.mark.parametrize("status", [500, 502, 503, 504, 599, 408, 425, 429])
def test_a_status_that_means_a_failing_backend(status: int) -> None:
    for judge, entry in ((map_reply, MAP), (policy_action, POLICY)):
        with pytest.raises(BackendError, match=f"status code {status}") as caught:
            judge(entry, answer({"data": {"result": "v"}, "action": "OK"}, status))
        assert not caught.value.timeout


@pytest.mark.parametrize("status", [100, 201, 204, 301, 302, 400, 401, 403, 404, 410, 418, 499, 600])
def test_any_other_unexpected_status(status: int) -> None:
    body = {"data": {"result": "v"}, "action": "OK"}
    reply = map_reply(MAP, answer(body, status)).reply
    assert reply.status == "PERM" and reply.text.partition(" (")[0] == f"unexpected status code {status}"
    assert policy_action(POLICY, answer(b"", status)) == (FAILED, False, reply.text)


NGINX = b"<html><head><title>400 %b</title></head></html>"


@pytest.mark.parametrize(
    "status, body, headers, hint",
    [
        (401, b"", (), "the backend demands credentials, and none are configured"),
        (401, b"", (("Authorization", "Basic YTpi"),), "the backend refuses our credentials"),
        (401, b"", (("X-Api-Key", "abc"),), "the backend refuses our credentials"),
        (308, b"", (), "a redirect, which is not followed"),
        (
            400,
            NGINX % b"The plain HTTP request was sent to HTTPS port",
            (),
            "the port speaks TLS, so the target has to begin with https:",
        ),
        (
            400,
            b"Client sent an HTTP request to an HTTPS server.\n",
            (),
            "the port speaks TLS, so the target has to begin with https:",
        ),
        (
            400,
            NGINX % b"No required SSL certificate was sent",
            (),
            "the server demands a client certificate, see server.tls.cert",
        ),
        (400, NGINX % b"The SSL certificate error", (), "the server does not accept our client certificate"),
    ],
)
def test_what_a_status_says_about_the_set_up(
    status: int, body: bytes, headers: tuple[tuple[str, str], ...], hint: str
) -> None:
    entry = dataclasses.replace(MAP, headers=headers)
    response = BackendResponse(status, {}, body)
    assert map_reply(entry, response).problem == f"unexpected status code {status} ({hint})"
    if status == 400:
        with pytest.raises(BackendError) as caught:
            login_verdict(dataclasses.replace(entry, kind="dovecot_sasl"), response, "user")
        assert caught.value.reason.endswith(f"without Auth-Status ({hint})")


def test_an_expected_status_is_not_judged() -> None:
    entry = Entry(SOCKET_MAP, "m", "http://h/", value_field="v", status_codes=frozenset({404, 503}))
    assert map_reply(entry, answer({"v": "x"}, 503)).reply == SocketMapReply("OK", "x")
    assert map_reply(entry, answer({}, 404)).reply == SocketMapReply("NOTFOUND", "")
    assert map_reply(entry, answer({"v": "x"}, 200)).reply == SocketMapReply("PERM", "unexpected status code 200")


@pytest.mark.parametrize(
    "body",
    [b"", b" ", b"<html>", b"{", b'{"data": {"result": "v"}', b'{"a": 1} x', b'{"a": 1}{"a": 1}', b"{'a': 1}", b'{"a": NaN}',
     b'{"a": Infinity}', b'{"a": -Infinity}', b'"text"', b"5", b"null", b"true", b"\xff", b'{"a": "\xe9"}', b'{"a": "\n"}',
     b'{"a": ' + b"9" * 5000 + b"}", b"[" * 200_000, b'{"a":' * 200_000, b"[" * 200_000 + b"]" * 200_000, b"\xef\xbb\xbf",
     '{"a": 1}'.encode("utf-16"), b"\xc2\xa0{}", b"{}\x00", b"{},"],
)  # fmt: skip
def test_a_doubt_is_temporary(body: bytes) -> None:
    for judge, entry in ((map_reply, MAP), (policy_action, POLICY)):
        with pytest.raises(BackendError) as caught:
            judge(entry, answer(body))
        assert caught.value.reason.isprintable() and not caught.value.timeout


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "backend's answer is empty"),
        (b"\xef\xbb\xbf", "backend's answer is empty"),
        (b"<html>", "backend's answer is no JSON"),
        (b'{"password": "secret"', "backend's answer is no JSON"),
        (b"{} {}", "backend's answer has something behind its JSON"),
        (b"5", "backend's answer is neither a JSON object nor an array"),
    ],
)
def test_a_doubt_has_a_reason_that_quotes_nothing(body: bytes, reason: str) -> None:
    with pytest.raises(BackendError) as caught:
        parse(answer(body).body)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"error": "broken\n"}, "broken"),
        ({"action": "450"}, "not a valid action: 450"),
        ({"action": {}}, "action is an object"),
        ({"action": [["x"]]}, "action is a list within a list"),
    ],
)
def test_what_the_log_says_of_an_action_that_is_none(body: Any, problem: str) -> None:
    assert policy_action(POLICY, answer(body)).problem == problem


@pytest.mark.parametrize("body", [b"\xef\xbb\xbf{}", b" \r\n\t{} \r\n\t", b"[]", b"\xef\xbb\xbf {}"])
def test_json_with_harmless_company(body: bytes) -> None:
    assert parse(answer(body).body) in ({}, [])


@pytest.mark.parametrize(
    ("failure", "reply"),
    [
        (BackendError("backend answered 503"), SocketMapReply("TEMP", "backend answered 503")),
        (BackendError("backend timed out", timeout=True), SocketMapReply("TIMEOUT", "backend timed out")),
        (BackendError("two\nlines"), SocketMapReply("TEMP", "two lines")),
        (BackendError("x" * 900), SocketMapReply("TEMP", "x" * 197 + "...")),
    ],
)
def test_the_reply_to_a_failure(failure: BackendError, reply: SocketMapReply) -> None:
    assert failure_reply(failure) == reply


def test_a_failure_action_has_to_be_one() -> None:
    def complaints(kind: str, action: str) -> list[str]:
        return [key for key, _ in check(Entry(kind, "x", "http://h/", failure_action=action))]

    assert complaints(POLICY_SERVICE, "DEFER Temporary server problem") == []
    assert complaints(POLICY_SERVICE, "450 4.3.0 later") == []
    for wrong in ("", "450", " ", "\n"):
        assert complaints(POLICY_SERVICE, wrong) == ["failure_action"]
        assert complaints(SOCKET_MAP, wrong) == complaints(DOVECOT_SASL, wrong) == []


SCALARS = (
    some.none()
    | some.booleans()
    | some.integers()
    | some.floats()
    | some.text(some.characters(exclude_categories=()), max_size=9)
)
NAMES = some.sampled_from(["data", "result", "error", "action"])
DOCUMENTS = some.recursive(
    SCALARS, lambda inner: some.lists(inner, max_size=3) | some.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)


@given(
    DOCUMENTS.map(lambda document: json.dumps(document).encode()) | some.binary(max_size=20), some.integers(100, 599)
)
def test_every_answer_has_a_reply_or_is_a_failure(body: bytes, status: int) -> None:
    for expected in (200, status):
        codes = frozenset({expected})
        lookup = Entry(SOCKET_MAP, "m", "http://h/", value_field="data.result", error_field="error", status_codes=codes)
        request = Entry(POLICY_SERVICE, "p", "http://h/", value_field="action", error_field="error", status_codes=codes)
        try:
            reply, cacheable, _ = map_reply(lookup, answer(body, status))
            assert socketmap.encode(reply, 100_000)
            assert cacheable == (reply.status == "OK") and bool(reply.text) == (reply.status != "NOTFOUND")
        except BackendError:
            pass
        try:
            assert policy.encode(policy_action(request, answer(body, status)).action)
        except BackendError:
            pass

"""The sentence that says which rule made a reply."""

from __future__ import annotations

from typing import Any

import pytest

from pfxhttpd.config.settings import Entry
from pfxhttpd.rules.explanation import explain
from pfxhttpd.rules.response import BackendResponse

FIELDS: dict[str, Any] = {"value_field": "data.result", "error_field": "error", "no_error_value": "none"}
MAP = Entry("socket_map", "m", "http://h/", **FIELDS)
POLICY = Entry("policy_service", "p", "http://h/", **FIELDS)
LOGIN = Entry("dovecot_sasl", "l", "http://h/", reject_status=frozenset({403}))


@pytest.mark.parametrize(
    "entry, status, body, rule",
    [
        (MAP, 200, b'{"data": {"result": "x"}}', "value_field: data.result holds the value"),
        (MAP, 200, b'{"data": {"result": 0}, "error": "none"}', "value_field: data.result holds the value"),
        (MAP, 200, b'{"data": {"result": ""}}', "value_field: data.result is empty, so there is no value"),
        (MAP, 200, b'{"data": {"result": null}}', "value_field: data.result is empty, so there is no value"),
        (
            MAP,
            200,
            b'{"data": {"value": "x"}, "more": 1}',
            "value_field: the response has no data.result, so there is no value; it has the fields data.value, more",
        ),
        (MAP, 200, b'{"data": {"result": {}}}', "value_field: data.result cannot be used: value is an object"),
        (MAP, 200, b'{"error": "broken"}', "error_field: error holds an error and is not \'none\' (no_error_value)"),
        (MAP, 404, b"nothing", "status_code: 404 is not 200, so the reply is an error"),
        (MAP, 503, b"", "backend answered with status code 503; this is a failure of the backend, so the reply is temporary"),
        (MAP, 200, b"<html>", "backend\'s answer is no JSON; this is a failure of the backend, so the reply is temporary"),
        (POLICY, 200, b'{"data": {"result": "DUNNO"}}', "value_field: data.result holds the value"),
        (POLICY, 200, b'{"data": {"result": "42"}}', "value_field: data.result cannot be used: not a valid action: 42"),
        (POLICY, 404, b"", "status_code: 404 is not 200, so the reply is an error"),
    ],
)  # fmt: skip
def test_the_rule_of_a_lookup(entry: Entry, status: int, body: bytes, rule: str) -> None:
    assert explain(entry, BackendResponse(status, {}, body)) == rule


@pytest.mark.parametrize(
    "status, headers, rule",
    [
        (200, {}, "status_code: 200 accepts the login, and the account is the name that the user gave"),
        (200, {"auth-user": "a"}, "status_code: 200 accepts the login, and the account is the header Auth-User"),
        (200, {"auth-user": ""}, "status_code: 200 accepts the login, but Auth-User is not a name: empty account"),
        (403, {}, "reject_status: 403 refuses the login"),
        (400, {"auth-status": "no"}, "the header Auth-Status refuses the login, with the status code 400"),
        (
            404,
            {},
            "backend answered with status code 404 and without Auth-Status; this is a failure of the backend, so the reply is temporary",
        ),
    ],
)
def test_the_rule_of_a_login(status: int, headers: dict[str, str], rule: str) -> None:
    assert explain(LOGIN, BackendResponse(status, headers, b""), "user") == rule

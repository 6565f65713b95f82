from __future__ import annotations

import json

import pytest

from pfxhttpd.config.settings import DOVECOT_SASL, Entry
from pfxhttpd.rules.breaker import Outcome
from pfxhttpd.rules.login import (
    _FIELDS,
    CredentialsRefused,
    LoginAccepted,
    LoginRefused,
    check,
    login_context,
    login_outcome,
    login_verdict,
    password_request,
)
from pfxhttpd.rules.response import BackendError, BackendResponse
from pfxhttpd.wire import dovecot_lines
from pfxhttpd.wire.dovecot_exchange import Attempt

ENTRY = Entry(DOVECOT_SASL, "login", "http://127.0.0.1/auth")
WITH_PORT = Entry(DOVECOT_SASL, "login", "http://127.0.0.1/auth", default_local_port="587")


def attempt(**parameters: str) -> Attempt:
    return Attempt(1, 1, "PLAIN", "user", "pass", False, parameters)


def test_all_that_is_known_is_asked():
    everything = attempt(
        service="smtp",
        rip="::1",
        lip="::2",
        rport="11",
        lport="22",
        client_hostname="h",
        secured="",
        ssl_protocol="TLSv1.3",
        ssl_cipher="AES",
        client_id="x",
    )
    assert password_request(WITH_PORT, everything) == {
        "username": "user",
        "password": "pass",
        "protocol": "smtp",
        "method": "PLAIN",
        "client_ip": "::1",
        "local_ip": "::2",
        "client_port": "11",
        "local_port": "22",
        "client_hostname": "h",
        "ssl": "on",
        "ssl_protocol": "TLSv1.3",
        "ssl_cipher": "AES",
        "client_id": "x",
    }


def test_what_is_not_known_is_left_out():
    assert password_request(ENTRY, attempt()) == {"username": "user", "password": "pass", "method": "PLAIN"}
    assert password_request(ENTRY, attempt(rip="", lport="", service="smtp")) == {
        "username": "user",
        "password": "pass",
        "method": "PLAIN",
        "protocol": "smtp",
    }


@pytest.mark.parametrize("parameters", [{}, {"lport": ""}])
def test_the_default_port_stands_in(parameters):
    assert password_request(WITH_PORT, attempt(**parameters))["local_port"] == "587"


@pytest.mark.parametrize("value", ["", "tls"])
def test_secured_in_either_form(value):
    assert password_request(ENTRY, attempt(secured=value))["ssl"] == "on"


def test_the_context_holds_no_credentials():
    assert login_context(ENTRY, attempt(rip="::1")) == {"method": "PLAIN", "client_ip": "::1"}


def test_hostile_names_are_data():
    hostile = Attempt(1, 1, "LOGIN", 'a"},{\t\n\x01ü', '{{ .Key }}\\"', False, {})
    assert json.loads(json.dumps(password_request(ENTRY, hostile))) == {
        "username": 'a"},{\t\n\x01ü',
        "password": '{{ .Key }}\\"',
        "method": "LOGIN",
    }


def test_every_parameter_asked_for_is_one_that_the_protocol_keeps():
    assert {*_FIELDS.values(), "service", "secured"} == dovecot_lines.AUTH_PARAMETERS


@pytest.mark.parametrize(
    ("headers", "account"),
    [
        ({}, "user"),
        ({"auth-user": "other@example.org"}, "other@example.org"),
        ({"auth-user": "a b"}, "a b"),
        ({"auth-status": "OK"}, "user"),
        ({"auth-user": "jürgen".encode().decode("latin-1")}, "jürgen"),
        ({"auth-user": "jürgen"}, "jürgen"),
        ({"auth-user": "日本"}, "日本"),
    ],
)
def test_yes(headers, account):
    assert login_verdict(ENTRY, BackendResponse(200, headers, b""), "user") == LoginAccepted(account)


@pytest.mark.parametrize(
    ("headers", "user"),
    [
        ({"auth-user": ""}, "user"),
        ({"auth-user": " "}, "user"),
        ({"auth-user": "a\tb"}, "user"),
        ({"auth-user": "a\x01"}, "user"),
        ({"auth-user": "a\x85"}, "user"),
        ({"auth-user": "\udcff"}, "user"),
        ({"auth-user": "x" * 2000}, "user"),
        ({}, "a\tb"),
        ({}, ""),
        ({}, "a\nOK"),
    ],
)
def test_yes_to_nobody_that_can_be_is_a_refusal(headers, user):
    assert isinstance(login_verdict(ENTRY, BackendResponse(200, headers, b""), user), LoginRefused)


def test_the_expected_status_is_the_entry_s():
    several = Entry(DOVECOT_SASL, "login", "http://127.0.0.1/auth", status_codes=frozenset({204, 403}))
    assert (
        login_verdict(several, BackendResponse(204, {}, b""), "user")
        == login_verdict(several, BackendResponse(403, {}, b""), "user")
        == LoginAccepted("user")
    )
    with pytest.raises(BackendError, match="status code 200 and without Auth-Status"):
        login_verdict(several, BackendResponse(200, {"auth-user": "root"}, b""), "user")


@pytest.mark.parametrize("status", [201, 204, 302, 400, 404, 418, 499, 600])
@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"auth-status": "wrong password"}, "wrong password"),
        ({"auth-status": "a\tb\x01\x7fc\n"}, "a b  c"),
        ({"auth-status": "x" * 500}, "x" * 197 + "..."),
        ({"auth-status": "größer".encode().decode("latin-1")}, "größer"),
    ],
)
def test_no(status, headers, reason):
    assert login_verdict(ENTRY, BackendResponse(status, headers, b""), "user") == LoginRefused(reason)


@pytest.mark.parametrize("status", [201, 204, 302, 400, 404, 418, 499, 600])
@pytest.mark.parametrize("headers", [{}, {"auth-status": ""}, {"auth-status": " \x01"}, {"auth-user": "root"}])
def test_a_status_without_a_reason_says_nothing_about_the_user(status, headers):
    with pytest.raises(BackendError, match=f"status code {status} and without Auth-Status") as caught:
        login_verdict(ENTRY, BackendResponse(status, headers, b""), "user")
    assert not isinstance(caught.value, CredentialsRefused)


@pytest.mark.parametrize("status", [400, 401, 403, 429, 500])
def test_a_code_that_is_configured_refuses_without_a_reason(status):
    rejecting = Entry(DOVECOT_SASL, "login", "http://127.0.0.1/auth", reject_status=frozenset({status}))
    refused = [login_verdict(rejecting, BackendResponse(status, headers, b""), "user") for headers in ({}, REASON)]
    assert refused == [LoginRefused("authentication failed"), LoginRefused("no")]
    with pytest.raises(BackendError):
        login_verdict(rejecting, BackendResponse(404, {}, b""), "user")


REASON = {"auth-status": "no"}


@pytest.mark.parametrize(
    ("accepts", "rejects", "wrong"), [({200}, {400}, []), ({200, 201, 400}, {400, 200, 403}, [200, 400])]
)
def test_a_code_cannot_accept_and_reject(accepts, rejects, wrong):
    entry = Entry(
        DOVECOT_SASL, "login", "http://127.0.0.1/", status_codes=frozenset(accepts), reject_status=frozenset(rejects)
    )
    expected = [("reject_status", f"{code} is also in `status_code`, which accepts the login") for code in wrong]
    assert list(check(entry)) == expected


@pytest.mark.parametrize(
    ("status", "headers", "outcome"),
    [
        (200, {}, Outcome.SUCCESS),
        (401, {}, Outcome.SUCCESS),
        (404, {}, Outcome.SUCCESS),
        (429, {}, Outcome.SUCCESS),
        (500, {}, Outcome.KEY_FAILURE),
        (500, {"auth-status": " "}, Outcome.KEY_FAILURE),
        (500, REASON, Outcome.SUCCESS),
        (503, {}, Outcome.FAILURE),
        (503, REASON, Outcome.FAILURE),
    ],
)
def test_what_a_response_says_about_the_backend(status, headers, outcome):
    assert login_outcome(ENTRY, BackendResponse(status, headers, b"")) == outcome
    for codes in ({"status_codes": frozenset({status})}, {"reject_status": frozenset({status})}):
        configured = Entry(DOVECOT_SASL, "login", "http://127.0.0.1/auth", **codes)
        assert login_outcome(configured, BackendResponse(status, headers, b"")) == Outcome.SUCCESS


def test_403_with_a_reason_is_a_refusal():
    assert login_verdict(ENTRY, BackendResponse(403, {"auth-status": "wrong password"}, b""), "user") == LoginRefused(
        "wrong password"
    )


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (401, {}),
        (401, {"auth-status": "who are you"}),
        (403, {}),
        (403, {"auth-status": ""}),
        (403, {"auth-status": "\x01"}),
    ],
)
def test_our_own_credentials_are_no_fault_of_the_user(status, headers):
    with pytest.raises(CredentialsRefused):
        login_verdict(ENTRY, BackendResponse(status, headers, b""), "user")


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
@pytest.mark.parametrize("headers", [{}, {"auth-status": "wrong password"}, {"auth-user": "root"}])
def test_an_outage_refuses_nobody(status, headers):
    with pytest.raises(BackendError) as caught:
        login_verdict(ENTRY, BackendResponse(status, headers, b""), "user")
    assert str(status) in caught.value.reason and not isinstance(caught.value, CredentialsRefused)

"""The lines of Dovecot's auth protocol: splitting and escaping, the AUTH request, and the server's replies."""

from __future__ import annotations

import pytest

from pfxhttpd.wire import ProtocolError
from pfxhttpd.wire.dovecot_lines import (
    LARGEST_ID,
    LINE_LIMIT,
    VALUE_LIMIT,
    AuthRequest,
    decode_base64,
    encode,
    encode_base64,
    escape,
    fail,
    greeting,
    is_complete,
    parse_auth,
    parse_request_id,
    take_line,
    unescape,
)
from pfxhttpd.wire.mechanisms import PASSWORD_MECHANISMS, TOKEN_MECHANISMS, BadMessage

# Lines and their fields


@pytest.mark.parametrize(
    ("buffer", "taken"),
    [
        (b"", None),
        (b"CPID\t1", None),
        (b"\n", (b"", 1)),
        (b"CPID\t1\n", (b"CPID\t1", 7)),
        (b"CPID\t1\nAUTH", (b"CPID\t1", 7)),
        (b"a\r\nb\n", (b"a\r", 3)),
        (b"\x00\x01\n", (b"\x00\x01", 3)),
        (b"x" * LINE_LIMIT, None),
        (b"x" * LINE_LIMIT + b"\n", (b"x" * LINE_LIMIT, LINE_LIMIT + 1)),
    ],
)
def test_one_line_is_taken_or_more_bytes_are_needed(buffer, taken) -> None:
    assert take_line(buffer) == taken
    assert take_line(bytearray(buffer)) == taken
    assert is_complete(buffer) is (taken is not None)


@pytest.mark.parametrize("buffer", [b"x" * (LINE_LIMIT + 1), b"x" * (LINE_LIMIT + 1) + b"\n", b"x" * (2 * LINE_LIMIT)])
def test_a_line_is_refused_at_the_first_byte_over_the_limit(buffer) -> None:
    with pytest.raises(ProtocolError):
        take_line(buffer)
    assert is_complete(buffer)


def test_a_long_second_line_does_not_affect_the_first() -> None:
    assert take_line(b"a\n" + b"x" * (2 * LINE_LIMIT)) == (b"a", 2)


@pytest.mark.parametrize(
    ("plain", "escaped"),
    [
        (b"", b""),
        (b"user=a b", b"user=a b"),
        (b"a\tb", b"a\x01tb"),
        (b"a\nb", b"a\x01nb"),
        (b"a\rb", b"a\x01rb"),
        (b"a\x00b", b"a\x010b"),
        (b"a\x01b", b"a\x011b"),
        (b"\x01t", b"\x011t"),
        ("ü".encode(), "ü".encode()),
    ],
)
def test_escaping_is_that_of_dovecot_and_reversible(plain, escaped) -> None:
    assert escape(plain) == escaped
    assert unescape(escaped) == plain


@pytest.mark.parametrize(
    ("escaped", "plain"), [(b"a\x01xb", b"axb"), (b"a\x01", b"a"), (b"\x01\x01t", b"\x01t"), (b"\x01\n", b"\n")]
)
def test_unescaping_of_invalid_escapes(escaped, plain) -> None:
    assert unescape(escaped) == plain


def test_no_field_can_end_a_line_or_start_another_field() -> None:
    assert encode(b"OK", b"1\t2", b"user=a\nFAIL") == b"OK\t1\x01t2\tuser=a\x01nFAIL\n"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"1", 1),
        (b"42", 42),
        (b"4294967295", LARGEST_ID),
        (b"", None),
        (b"0", None),
        (b"00", None),
        (b"01", None),
        (b"-1", None),
        (b"+1", None),
        (b" 1", None),
        (b"1 ", None),
        (b"1\x00", None),
        (b"4294967296", None),
        (b"99999999999999999999", None),
        (b"0x1", None),
        (b"1.0", None),
        ("١".encode(), None),
        (b"1_0", None),
    ],
)
def test_request_ids(field, value) -> None:
    assert parse_request_id(field) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", b""),
        (b"YQ==", b"a"),
        (b"YWI=", b"ab"),
        (b"YWJj", b"abc"),
        (b"AGEAYg==", b"\x00a\x00b"),
        (b"/+/+", b"\xff\xef\xfe"),
    ],
)
def test_base64(text, message) -> None:
    assert decode_base64(text) == message
    assert encode_base64(message) == text


@pytest.mark.parametrize(
    "text",
    [
        b"=",
        b"==",
        b"Y",
        b"YQ",
        b"YQ=",
        b"YQ===",
        b"YQ==YQ==",
        b"YWJj=",
        b"YWJj====",
        b"YW=I",
        b" YQ==",
        b"YQ==\r",
        b"YQ\n==",
        b"Y*==",
        b"YQ==\x00",
        b"-_-_",
        b"\xff\xff\xff\xff",
        b"\x01t==",
    ],
)
def test_invalid_base64(text) -> None:
    with pytest.raises(BadMessage):
        decode_base64(text)


# The AUTH request


def test_an_auth_line_of_postfix() -> None:
    fields = b"PLAIN\tservice=smtp\tnologin\tlip=192.0.2.1\trip=192.0.2.2\tsecured\tresp=AGEAYg==".split(b"\t")
    assert parse_auth(fields) == AuthRequest(
        "PLAIN", {"service": "smtp", "lip": "192.0.2.1", "rip": "192.0.2.2", "secured": ""}, b"\0a\0b"
    )


def test_an_auth_line_of_other_clients() -> None:
    fields = (
        b"login\tservice=submission\tsecured=tls\tno-penalty\tvalid-client-cert\tsession=x\tlocal_name=mx\trport=1\tlport=587\tclient_hostname=h"
        b'\tssl_protocol=TLSv1.3\tssl_cipher=AES\tclient_id="name" "x=y"\tforward_a=b\tunknown'
    ).split(b"\t")
    assert parse_auth(fields) == AuthRequest(
        "LOGIN",
        {
            "service": "submission",
            "secured": "tls",
            "rport": "1",
            "lport": "587",
            "client_hostname": "h",
            "ssl_protocol": "TLSv1.3",
            "ssl_cipher": "AES",
            "client_id": '"name" "x=y"',
        },
    )


@pytest.mark.parametrize(
    ("resp", "response"),
    [([], None), ([b"resp="], None), ([b"resp=="], None), ([b"resp=YQ=="], b"a"), ([b"resp=YWI="], b"ab")],
)
def test_initial_responses(resp, response) -> None:
    assert parse_auth([b"PLAIN", b"rip=::1", *resp]).response == response


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [b""],
        [b"", b"rip=::1"],
        [b"PLAIN", b"resp=Y"],
        [b"PLAIN", b"resp=YQ==", b"secured"],
        [b"PLAIN", b"resp=", b""],
        [b"PLAIN", b"resp=", b"resp=YQ=="],
        [b"PLAIN", b"resp=\x01t"],
    ],
)
def test_a_malformed_auth_line_is_refused(fields) -> None:
    with pytest.raises(BadMessage):
        parse_auth(fields)


@pytest.mark.parametrize(
    "value", [b"a\x01tb", b"a\x01nb", b"\x010", b"a\x00", b"\x7f", b"\xff", "\u2028".encode(), b"x" * (VALUE_LIMIT + 1)]
)
def test_an_invalid_value_counts_as_not_given(value) -> None:
    assert parse_auth([b"PLAIN", b"rip=" + value]).parameters == {}
    assert parse_auth([b"PLAIN", b"rip=::1", b"rip=" + value]).parameters == {}


def test_the_last_value_of_a_repeated_parameter_counts() -> None:
    assert parse_auth([b"PLAIN", b"rip=a", b"rip=b"]).parameters == {"rip": "b"}


def test_resp_without_a_value_is_an_empty_one() -> None:
    assert parse_auth([b"PLAIN", b"resp"]).response is None


def test_values_are_unescaped() -> None:
    assert parse_auth([b"PLAIN", b"client_id=a\x01xb"]).parameters == {"client_id": "axb"}


def test_the_mechanism_may_be_any_bytes() -> None:
    assert parse_auth([b"pl\xffin\x00"]).mechanism == "PL\ufffdIN\x00"


def test_the_repr_does_not_show_the_response() -> None:
    assert "s3cr3t" not in repr(parse_auth([b"PLAIN", b"resp=AHUAczNjcjN0"]))


# The server's lines


def test_greeting_in_the_order_that_clients_read_it() -> None:
    assert greeting(PASSWORD_MECHANISMS + TOKEN_MECHANISMS, 7, 8, "ab" * 16) == (
        b"VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nMECH\tLOGIN\tplaintext\nMECH\tXOAUTH2\tplaintext\nMECH\tOAUTHBEARER\tplaintext\n"
        b"SPID\t7\nCUID\t8\nCOOKIE\t" + b"ab" * 16 + b"\nDONE\n"
    )


def test_fail_with_a_code() -> None:
    assert fail(1, "gone", code="user_disabled") == b"FAIL\t1\tcode=user_disabled\treason=gone\n"


def test_fail_with_a_user() -> None:
    assert fail(1, "no", user="ann") == b"FAIL\t1\tuser=ann\treason=no\n"
    assert fail(1, "no", user="ann\tadmin") == b"FAIL\t1\treason=no\n"
    assert fail(1, "no", user="") == b"FAIL\t1\treason=no\n"

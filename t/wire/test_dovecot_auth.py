from __future__ import annotations

import pytest

from pfxhttpd.wire.dovecot_lines import VALUE_LIMIT, AuthRequest, read_auth
from pfxhttpd.wire.mechanisms import BadMessage


def test_what_postfix_writes():
    fields = b"PLAIN\tservice=smtp\tnologin\tlip=192.0.2.1\trip=192.0.2.2\tsecured\tresp=AGEAYg==".split(b"\t")
    assert read_auth(fields) == AuthRequest(
        "PLAIN", {"service": "smtp", "lip": "192.0.2.1", "rip": "192.0.2.2", "secured": ""}, b"\0a\0b"
    )


def test_what_others_write():
    fields = (
        b"login\tservice=submission\tsecured=tls\tno-penalty\tvalid-client-cert\tsession=x\tlocal_name=mx\trport=1\tlport=587\tclient_hostname=h"
        b'\tssl_protocol=TLSv1.3\tssl_cipher=AES\tclient_id="name" "x=y"\tforward_a=b\tunknown'
    ).split(b"\t")
    assert read_auth(fields) == AuthRequest(
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
def test_initial_responses(resp, response):
    assert read_auth([b"PLAIN", b"rip=::1", *resp]).response == response


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
def test_refuses(fields):
    with pytest.raises(BadMessage):
        read_auth(fields)


@pytest.mark.parametrize(
    "value", [b"a\x01tb", b"a\x01nb", b"\x010", b"a\x00", b"\x7f", b"\xff", "\u2028".encode(), b"x" * (VALUE_LIMIT + 1)]
)
def test_an_unsound_value_counts_as_not_given(value):
    assert read_auth([b"PLAIN", b"rip=" + value]).parameters == {}
    assert read_auth([b"PLAIN", b"rip=::1", b"rip=" + value]).parameters == {}


def test_the_last_of_a_key_holds():
    assert read_auth([b"PLAIN", b"rip=a", b"rip=b"]).parameters == {"rip": "b"}


def test_a_flagged_resp_is_an_empty_one():
    assert read_auth([b"PLAIN", b"resp"]).response is None


def test_unescapes_values():
    assert read_auth([b"PLAIN", b"client_id=a\x01xb"]).parameters == {"client_id": "axb"}


def test_the_mechanism_is_what_it_is_in_any_bytes():
    assert read_auth([b"pl\xffin\x00"]).mechanism == "PL\ufffdIN\x00"


def test_the_response_is_not_shown():
    assert "s3cr3t" not in repr(read_auth([b"PLAIN", b"resp=AHUAczNjcjN0"]))

"""Which protocol a client speaks, and that no client of a listener's own protocol is taken for another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from pfxhttpd.wire import ProtocolError, netstring, policy
from pfxhttpd.wire.recognize import DOVECOT, POLICY, SOCKETMAP, recognize


@pytest.mark.parametrize(
    ("data", "protocol"),
    [
        (b"12:virtual user,", SOCKETMAP),
        (b"request=smtpd_access_policy\nprotocol_state=RCPT\n\n", POLICY),
        (b"VERSION\t1\t1\nCPID\t42\n", DOVECOT),
        (b"CPID\t42\nVERSION\t1\t2\n", DOVECOT),
        (b"\x16\x03\x01\x02\x00\x01", "TLS"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP"),
        (b"PRI * HTTP/2.0\r\n\r\n", "HTTP"),
        (b"get user%40example.com\n", "tcp_table"),
        (b"EHLO client.example.com\r\n", "SMTP"),
        (b"", ""),
        (b"12:virtual", ""),
        (b"\x00\x01\x02", ""),
    ],
)
def test_each_protocol_is_known_by_its_first_bytes(data: bytes, protocol: str) -> None:
    assert recognize(data) == protocol


@given(some.from_regex(rb"[a-z]{1,20} [ -~]{1,50}", fullmatch=True))
def test_a_netstring_is_recognized_and_is_no_policy_request(payload: bytes) -> None:
    data = netstring.encode(payload)
    if b"=" in payload.partition(b" ")[0]:
        return
    assert recognize(data) == SOCKETMAP
    assert policy.is_complete(data), "parking hands it to a worker"
    with pytest.raises(ProtocolError):
        policy.parse(data)


@given(some.lists(some.from_regex(rb"[a-z_]{1,20}=[ -~]{0,40}", fullmatch=True), min_size=1))
def test_no_beginning_of_a_policy_request_is_taken_for_a_netstring(lines: list[bytes]) -> None:
    request = b"\n".join(lines) + b"\n\n"
    assert recognize(request) == POLICY
    for end in range(len(request)):
        assert recognize(request[:end]) in ("", POLICY)

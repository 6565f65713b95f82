"""The policy protocol: attributes in, an action out (SMTPD_POLICY_README, access(5))."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as some
from kit.feeding import completes_at, feed, feed_every_split, is_decided

from pfxhttpd.wire import ProtocolError, policy

POSTFIX_REQUEST = (
    b"request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\nclient_address=192.0.2.1\n"
    b"client_name=mail.example.org\nclient_port=4711\nreverse_client_name=mail.example.org\n"
    b"server_address=192.0.2.2\nserver_port=25\nhelo_name=mail.example.org\nsender=SRS0=x=y@example.org\n"
    b"recipient=caf\xc3\xa9@example.com\nrecipient_count=0\nqueue_id=\ninstance=b00.5f3.ab1.0\nsize=12345\n"
    b"etrn_domain=\nstress=\nsasl_method=\nsasl_username=\nsasl_sender=\nccert_subject=\nccert_issuer=\n"
    b"ccert_fingerprint=\nccert_pubkey_fingerprint=\nencryption_protocol=TLSv1.3\n"
    b"encryption_cipher=TLS_AES_256_GCM_SHA384\nencryption_keysize=256\npolicy_context=\n\n"
)
ANY_TEXT = some.text(some.characters(exclude_categories=()), max_size=40)


def test_a_request_of_postfix() -> None:
    attributes, used = policy.parse(POSTFIX_REQUEST)
    assert used == len(POSTFIX_REQUEST)
    assert len(attributes) == 29
    assert list(attributes)[:2] == ["request", "protocol_state"]
    assert attributes["sender"] == "SRS0=x=y@example.org"
    assert attributes["recipient"] == "café@example.com"
    assert attributes["queue_id"] == ""


def test_the_split_of_a_request_of_postfix_does_not_matter() -> None:
    attributes, _ = policy.parse(POSTFIX_REQUEST)
    assert feed_every_split(policy.parse, POSTFIX_REQUEST) == ([attributes], b"", False)
    assert feed_every_split(policy.parse, POSTFIX_REQUEST + b"request=x") == ([attributes], b"request=x", False)
    assert feed(policy.parse, [POSTFIX_REQUEST * 3]) == ([attributes] * 3, b"", False)
    assert completes_at(policy.is_complete, POSTFIX_REQUEST) == len(POSTFIX_REQUEST)


@pytest.mark.parametrize(
    ("data", "attributes"),
    [
        (b"a=\n\n", {"a": ""}),
        (b"a==\n\n", {"a": "="}),
        (b"a=b=c\n\n", {"a": "b=c"}),
        (b"a=b\r\n\n", {"a": "b\r"}),
        (b"a = b \n\n", {"a ": " b "}),
        (b"a=\x00\n\n", {"a": "\x00"}),
        (b"a=caf\xe9\n\n", {"a": "caf\ufffd"}),
        (b"a\xff=b\n\n", {"a\ufffd": "b"}),
        (b"a=\xe3\x81\n\n", {"a": "\ufffd"}),
        (b"a\xe3=\x81\n\n", {"a\ufffd": "\ufffd"}),
        (b"a=\xc2\nb=\xa0\n\n", {"a": "\ufffd", "b": "\ufffd"}),
        (b"a=\xe2\x80\xa8x\n\n", {"a": "\u2028x"}),
    ],
)
def test_values(data: bytes, attributes: dict[str, str]) -> None:
    assert policy.parse(data) == (attributes, len(data))


def test_a_repeated_name_keeps_its_position_and_has_its_last_value() -> None:
    attributes, _ = policy.parse(b"a=1\nb=2\na=3\n\n")
    assert list(attributes.items()) == [("a", "3"), ("b", "2")]


@pytest.mark.parametrize("data", [b"", b"a", b"a=b", b"a=b\n", b"a=b\nc", b"a=b\nc=d\n", b"a=b\r\n\r"])
def test_more_bytes_are_needed(data: bytes) -> None:
    assert policy.parse(data) is None
    assert not policy.is_complete(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\n", "without attributes"),
        (b"\n\n", "without attributes"),
        (b"\na=b\n\n", "without attributes"),
        (b"a\n", "equals sign"),
        (b"a\n\n", "equals sign"),
        (b"a=b\nc\nd=e\n", "equals sign"),
        (b"a=b\nc\nd=e\n\n", "equals sign"),
        (b"a=b\r\n\r\n", "equals sign"),
        (b"GET / HTTP/1.1\r\n", "equals sign"),
        (b"=x\n", "without a name"),
        (b"=x\n\n", "without a name"),
        (b"a=b\n=x\n\n", "without a name"),
    ],
)
def test_a_malformed_request(data: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        policy.parse(data)
    assert policy.is_complete(data)
    assert feed_every_split(policy.parse, data).malformed


def test_the_largest_request() -> None:
    largest = b"a=" + b"x" * (policy.REQUEST_LIMIT - 4) + b"\n\n"
    assert policy.parse(largest) == ({"a": "x" * (policy.REQUEST_LIMIT - 4)}, policy.REQUEST_LIMIT)
    assert policy.parse(largest + largest)[1] == policy.REQUEST_LIMIT
    assert policy.parse(largest[:-1]) is None and not policy.is_complete(largest[:-1])


def test_a_request_that_is_too_large_is_refused_before_its_end() -> None:
    endless = b"a=" + b"x" * (policy.REQUEST_LIMIT - 2)
    for data in (endless, endless + b"\n\n", endless + b"x" * 9):
        with pytest.raises(ProtocolError, match="over 65536 bytes"):
            policy.parse(data)
        assert policy.is_complete(data) and policy.is_complete(data, len(data) - 1)


def test_the_most_attributes() -> None:
    lines = b"".join(b"a%d=\n" % number for number in range(policy.ATTRIBUTE_LIMIT))
    assert len(policy.parse(lines + b"\n")[0]) == policy.ATTRIBUTE_LIMIT
    assert policy.parse(lines) is None
    for data in (lines + b"b=\n\n", lines + b"b=\n", b"a=\n" * (policy.ATTRIBUTE_LIMIT + 1) + b"\n"):
        with pytest.raises(ProtocolError, match="more than 1000 attributes"):
            policy.parse(data)
        assert policy.is_complete(data) and policy.is_complete(data, len(data) - 1)


NAMES = some.text(some.characters(exclude_characters="=\n", exclude_categories=("Cs",)), min_size=1, max_size=8)
VALUES = some.text(some.characters(exclude_characters="\n", exclude_categories=("Cs",)), max_size=12)
REQUESTS = some.dictionaries(NAMES, VALUES, min_size=1, max_size=5)


def encoded(attributes: dict[str, str]) -> bytes:
    return b"".join([f"{name}={value}\n".encode() for name, value in attributes.items()]) + b"\n"


@given(some.lists(REQUESTS, max_size=3), some.binary(max_size=6))
def test_the_split_of_pipelined_requests_does_not_matter(requests: list[dict[str, str]], trailing: bytes) -> None:
    data = b"".join(map(encoded, requests))
    parsed = feed_every_split(policy.parse, data)
    assert parsed == (requests, b"", False)
    assert [list(message) for message in parsed.messages] == [list(request) for request in requests]
    assert feed_every_split(policy.parse, data + trailing).messages[: len(requests)] == requests


ALMOST_VALID = some.text("a=\n\r\x00é", max_size=20).map(str.encode) | some.binary(max_size=20) | REQUESTS.map(encoded)


@given(ALMOST_VALID)
@example(b"a=b\n\nx")
def test_is_complete_agrees_with_parse(data: bytes) -> None:
    expected = next((size for size in range(len(data) + 1) if is_decided(policy.parse, data[:size])), None)
    assert completes_at(policy.is_complete, data) == expected
    assert policy.is_complete(data) == is_decided(policy.parse, data)


@given(ALMOST_VALID, some.binary(max_size=8))
def test_the_split_of_malformed_requests_does_not_matter(data: bytes, trailing: bytes) -> None:
    if feed_every_split(policy.parse, data).malformed:
        assert feed(policy.parse, [data + trailing]).malformed


@pytest.mark.parametrize(
    "action",
    ["OK", "DUNNO", "dunno", "REJECT", "REJECT text", "reject_unauth_destination", "permit_mynetworks, reject", "450 4.7.1 text",
     "450 4.7.1", "550 text", "421 x", "450\ttab", "450   text", "PREPEND X-A: b", "REDIRECT a@b", "REJECT grün", "k9"],
)  # fmt: skip
def test_a_valid_action(action: str) -> None:
    assert policy.valid_action(action)
    assert policy.encode(action) == b"action=" + action.replace("\t", " ").encode() + b"\n\n"


@pytest.mark.parametrize(
    "action",
    ["", " ", "\n", "4", "45", "450", "450 ", "450\n", "450 \n", "450\x00", "550\t", "200", "250 ok", "600 x", "4500 x", "45 x",
     "45x text", "4.7.1 text", "12345", "0", "-1", "450-text", "450text", " OK", "{ permit }", "/x", "Ökay", "\ufeffOK", "٤٥٠ x", "45٠ x"],
)  # fmt: skip
def test_an_action_that_postfix_could_treat_as_permission_is_never_sent(action: str) -> None:
    with pytest.raises(ValueError, match="not an action"):
        policy.encode(action)


@given(ANY_TEXT)
@example("OK\n\naction=REJECT")
@example("REJECT \r\n\x85\u2028x\ud800")
def test_every_reply_is_one_action_on_one_line(text: str) -> None:
    try:
        reply = policy.encode(text)
    except ValueError:
        return
    assert reply.startswith(b"action=") and reply.endswith(b"\n\n")
    action = reply[7:-2].decode()
    assert len(action.splitlines()) == 1 and "\r" not in action
    assert not action.replace(" ", "").isdecimal()
    assert action[0].isascii() and (action[0].isalpha() or action[0] in "45")

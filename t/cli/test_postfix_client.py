"""Replies as they arrive: incomplete until the last byte is there."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pfxhttpd.cli import postfix_client


@pytest.mark.parametrize(
    "parse, whole",
    [
        (postfix_client.socketmap_reply, b"7:OK 1,2,,"),
        (postfix_client.policy_reply, b"action=DEFER x\n\n"),
        (postfix_client.sasl_greeting, b"VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nCOOKIE\tDONE\nDONE \nSPID\t7\nDONE\n"),
        (postfix_client.sasl_reply, b"FAIL\t2\nOK\t1\tuser=alice\n"),
    ],
)
def test_a_reply_is_returned_when_it_is_complete_and_not_before(parse: Callable[[bytes], object], whole: bytes) -> None:
    assert [parse(whole[:length]) for length in range(len(whole))] == [None] * len(whole)
    assert parse(whole) is not None and parse(whole) == parse(whole + b"more")

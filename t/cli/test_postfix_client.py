"""Replies as they arrive: incomplete until the last byte is there."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pfxhttpd.cli import postfix_client


@pytest.mark.parametrize(
    "take, whole",
    [
        (postfix_client.socketmap_reply, b"7:OK 1,2,,"),
        (postfix_client.policy_reply, b"action=DEFER x\n\n"),
        (postfix_client.sasl_greeting, b"VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nCOOKIE\tDONE\nDONE \nSPID\t7\nDONE\n"),
        (postfix_client.sasl_reply, b"FAIL\t2\nOK\t1\tuser=alice\n"),
    ],
)
def test_a_reply_is_there_when_it_is_whole_and_not_before(take: Callable[[bytes], object], whole: bytes) -> None:
    assert [take(whole[:length]) for length in range(len(whole))] == [None] * len(whole)
    assert take(whole) is not None and take(whole) == take(whole + b"more")

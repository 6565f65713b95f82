from __future__ import annotations

import pytest

from pfxhttpd.wire.account import LIMIT, flaw


@pytest.mark.parametrize("account", ["a", "user@example.org", "Jürgen", "a b", "a=b", "x" * LIMIT, "\\001t", "日本"])
def test_fit(account):
    assert flaw(account) == ""


@pytest.mark.parametrize("account", [
    "", " ", "\u3000", "a\tb", "\ta", "a\n", "a\r", "a\x00", "a\x01t", "\x7f", "a\x85b", "a\u2028b", "a\u2029", "\ud800", "x" * (LIMIT + 1),
    "ü" * (LIMIT // 2 + 1),
])
def test_unfit_and_not_quoted(account):
    said = flaw(account)
    assert said and said.isprintable() and len(said) < 60

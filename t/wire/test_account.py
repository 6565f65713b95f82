from __future__ import annotations

import pytest

from pfxhttpd.wire.text import ACCOUNT_LIMIT, account_error


@pytest.mark.parametrize(
    "account", ["a", "user@example.org", "Jürgen", "a b", "a=b", "x" * ACCOUNT_LIMIT, "\\001t", "日本"]
)
def test_fit(account):
    assert account_error(account) == ""


@pytest.mark.parametrize(
    "account",
    [
        "",
        " ",
        "\u3000",
        "a\tb",
        "\ta",
        "a\n",
        "a\r",
        "a\x00",
        "a\x01t",
        "\x7f",
        "a\x85b",
        "a\u2028b",
        "a\u2029",
        "\ud800",
        "x" * (ACCOUNT_LIMIT + 1),
        "ü" * (ACCOUNT_LIMIT // 2 + 1),
    ],
)
def test_unfit_and_not_quoted(account):
    said = account_error(account)
    assert said and said.isprintable() and len(said) < 60

"""Durations: the forms that administrators write."""

from __future__ import annotations

import pytest

from pfxhttpd.config.values import seconds


@pytest.mark.parametrize(
    "text, expected",
    [
        ("500ms", 0.5),
        ("30s", 30),
        ("5m", 300),
        ("1h30m", 5400),
        ("168h", 604800),
        ("1h2m3s4ms", 3723.004),
        ("1.5h", 5400),
        ("250us", 0.00025),
        ("250\u00b5s", 0.00025),
        ("100ns", 1e-7),
        (" 5s ", 5),
        ("0", 0),
        ("0s", 0),
        ("90", 90),
        ("1.5", 1.5),
        (90, 90),
        (0.25, 0.25),
        (0, 0),
    ],
)
def test_a_duration_is_read(text: str | float, expected: float) -> None:
    assert seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "5 s",
        "5d",
        "1w",
        "-5s",
        "+5s",
        -1,
        "5s ago",
        "1h 30m",
        "5S",
        "1..5s",
        ".5s",
        "1e3",
        "\u0665s",
        "5s\n5s",
        float("inf"),
        float("nan"),
        10**400,
        "9" * 400,
        "9" * 400 + "h",
        "0x10",
    ],
)
def test_anything_else_is_refused(text: str | float) -> None:
    with pytest.raises(ValueError, match='expected a duration such as "500ms", "30s" or "1h30m"'):
        seconds(text)

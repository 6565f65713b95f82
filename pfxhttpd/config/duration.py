"""Durations as administrators write them: `500ms`, `1h30m`, or a bare number of seconds."""

from __future__ import annotations

import math
import re

_UNITS = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")
_BARE = re.compile(r"[0-9]+(?:\.[0-9]+)?")

EXPECTED = 'a duration such as "500ms", "30s" or "1h30m" (a bare number is seconds)'


def seconds(value: str | int | float) -> float:
    """The duration in seconds. Raises ValueError, with a text for the administrator, when it is none."""
    if isinstance(value, str):
        text = value.strip()
        if _BARE.fullmatch(text):
            total = float(text)
        elif _WHOLE.fullmatch(text):
            total = math.fsum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
        else:
            raise ValueError(f"expected {EXPECTED}")
    else:
        try:
            total = float(value)
        except OverflowError:
            total = math.inf
    if not math.isfinite(total) or total < 0:
        raise ValueError(f"expected {EXPECTED}")
    return total

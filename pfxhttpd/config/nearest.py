"""What was likely meant: the known names closest to an unknown one."""

from __future__ import annotations

import difflib
from typing import Iterable


def _folded(word: str) -> str:
    return word.lower().replace("-", "_")


def nearest(word: str, known: Iterable[str], count: int = 2) -> list[str]:
    """The closest of the known names, best first; none when nothing is near."""
    names = {_folded(name): name for name in known}
    if _folded(word) in names:
        return [names[_folded(word)]]
    return [names[name] for name in difflib.get_close_matches(_folded(word[:100]), names, count, 0.6)]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean x or y?)`, or "" when nothing is near."""
    names = nearest(word, known)
    return f" (did you mean {' or '.join(names)}?)" if names else ""

"""How many examples a property test tries, where the number matters enough to be named."""

from __future__ import annotations

import os

EXAMPLES = "PFXHTTPD_TEST_EXAMPLES"
"""The variable with the most examples that any property test tries; t/run sets it for the other Pythons."""


def examples(number: int) -> int:
    """`number`, or fewer where fewer are asked for."""
    return min(number, int(os.environ.get(EXAMPLES, number)))

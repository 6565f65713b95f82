"""The option `--long`: minutes instead of seconds for each fuzzer that leaves the number of its examples to the profile.

t/run t/fuzz --long
"""

from __future__ import annotations

import hypothesis
import pytest

EXAMPLES, LONG_EXAMPLES = 100, 10_000
LONG_TIMEOUT = 3600
"""Seconds that one test may take in the long form."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="t/fuzz: fuzz for minutes instead of seconds")


@pytest.hookimpl(trylast=True)  # after t/conftest.py has loaded its own profile
def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--long"):
        checks = [hypothesis.HealthCheck.too_slow]
        hypothesis.settings.register_profile(
            "long", deadline=None, max_examples=LONG_EXAMPLES, suppress_health_check=checks, print_blob=True
        )
        hypothesis.settings.load_profile("long")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        for item in items:
            item.add_marker(pytest.mark.timeout(LONG_TIMEOUT))

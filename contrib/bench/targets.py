"""The performance that pfxhttpd is meant to reach, and whether it does."""

from __future__ import annotations

from dataclasses import dataclass, field

from .results import Results
from .scenes import DELAY_WORKERS
from .tokens import BEARER, FIXED, VALIDATION

OURS, BASELINE = "pfxhttpd", "baseline"
"""What the table calls this tree and the one that it is compared with."""


@dataclass(frozen=True, slots=True)
class Target:
    """A figure with its limit."""

    description: str
    limit: str
    measured: str
    met: bool


@dataclass(frozen=True, slots=True)
class BaselineLimits:
    """The most that a lookup may cost, as a part of what it costs the other tree."""

    few_clients: float = 1.05
    many_clients: float = 1.05


@dataclass(slots=True)
class TargetList:
    """Collects targets; a figure that was not measured (None) is left out."""

    found: list[Target] = field(default_factory=list)

    def at_most(self, description: str, value: float | None, limit: float, unit: str = "", digits: int = 2) -> None:
        """The figure must not be above its limit."""
        if value is not None:
            text = f"{value:.{digits}f}{unit}"
            self.found.append(Target(description, f"<= {limit:g}{unit}", text, value <= limit))

    def at_least(self, description: str, value: float | None, limit: float) -> None:
        """The figure must not be below its limit."""
        if value is not None:
            self.found.append(Target(description, f">= {limit:g}", f"{value:.2f}", value >= limit))


def targets(results: Results, limits: BaselineLimits) -> list[Target]:
    """The targets whose scenes were measured."""
    few, crowd = "map, 4 clients", "map, 200 busy + 800 silent"
    naive, ours, crowded = (few, "naive"), (few, OURS), (crowd, OURS)
    found = TargetList()
    found.at_least("rate, 4 clients, against naive", results.ratio(ours, naive, "rate"), 4.5)
    found.at_most("processor time per lookup, 4 clients, against naive", results.ratio(ours, naive, "cost"), 0.18)
    found.at_most(
        "processor time per lookup, 4 clients, against the baseline",
        results.ratio(ours, (few, BASELINE), "cost"),
        limits.few_clients,
    )
    found.at_most(
        "processor time per lookup, 200 busy and 800 silent clients, against the baseline",
        results.ratio(crowded, (crowd, BASELINE), "cost"),
        limits.many_clients,
    )
    found.at_least(
        "rate, 4 busy and 1000 silent clients, against no silent ones",
        results.ratio(("map, 4 busy + 1000 silent", OURS), ("map, 4 busy", OURS), "rate"),
        0.95,
    )
    found.at_least(
        "rate, 200 busy and 800 silent clients, against no silent ones",
        results.ratio(crowded, ("map, 200 busy", OURS), "rate"),
        0.95,
    )
    found.at_least("least served against most served of the 200 clients", fairness(results, crowded), 0.9)
    slow = f"20 ms backend, {DELAY_WORKERS} workers"
    found.at_least(
        "rate, 20 ms backend, against direct connections",
        results.ratio((slow, OURS), (slow, "direct"), "rate"),
        0.95,
    )
    found.at_least("same: least served against most served client", fairness(results, (slow, OURS)), 0.9)
    found.at_most("memory of a further worker", results.median(("start", OURS), "memory per worker, MB"), 7.5, " MB", 1)
    found.at_most("first reply after the start", results.median(("start", OURS), "first reply, s"), 1.0, " s")
    for command in ("status", "query"):
        found.at_most(
            f"processor time of pfxhttpd {command}",
            results.median(("start", OURS), f"{command}, s of processor"),
            0.12,
            " s",
        )
    reloads = ("map, 4 clients, reloads", OURS)
    found.at_most(
        "reload under load: slowest request, against no reload",
        results.difference(reloads, ("map, 4 clients, no reload", OURS), "slowest"),
        100,
        " ms more",
        0,
    )
    found.at_most("reload under load: replies that were wrong", results.total(reloads, "wrong"), 0, "", 0)
    found.at_most("reload under load: connections that were lost", results.total(reloads, "lost"), 0, "", 0)
    found.at_most(
        "processor time per lookup with a token of a provider, against a fixed header",
        results.ratio((BEARER, OURS), (FIXED, OURS), "cost"),
        1.03,
    )
    for algorithm in ("RS256", "ES256"):
        figure = f"{algorithm}, µs of processor"
        found.at_most(f"validation of a JWT, {algorithm}", results.median((VALIDATION, OURS), figure), 300, " µs", 0)
    return found.found


def fairness(results: Results, row: tuple[str, str]) -> float | None:
    """Replies to the client that got the least, divided by those to the one that got the most."""
    least, most = results.median(row, "least"), results.median(row, "most")
    return least / most if least is not None and most else None

"""Medians, ratios and targets of what was measured, as text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from scenes import SLOW_WORKERS, Sample


@dataclass(frozen=True, slots=True)
class Target:
    """What was promised and what was measured; `met` is None when the scenes for it were not played."""

    what: str
    wanted: str
    measured: str
    met: bool


def figures(samples: list[Sample], server: str, scene: str, name: str) -> dict[int, float]:
    """One figure by repetition."""
    return {s.turn: s.figures[name] for s in samples if (s.server, s.scene) == (server, scene) and name in s.figures}


def ratio(above: dict[int, float], below: dict[int, float]) -> float | None:
    """The median of the ratios within each repetition; None when there is nothing to compare."""
    found = [above[turn] / below[turn] for turn in above.keys() & below.keys() if below[turn]]
    return median(found) if found else None


def targets(samples: list[Sample]) -> list[Target]:
    """The promises of this project's benchmark, those whose scenes were played."""
    found: list[Target] = []

    def of(server: str, scene: str, name: str) -> dict[int, float]:
        return figures(samples, server, scene, name)

    def promise(what: str, wanted: str, value: float | None, form: str, kept: Callable[[float], bool]) -> None:
        if value is not None:
            found.append(Target(what, wanted, form.format(value), kept(value)))

    def middle(values: dict[int, float]) -> float | None:
        return median(values.values()) if values else None

    four = "map, 4 clients"
    naive = of("naive", four, "rate")
    promise(
        "rate, 4 workers and 4 clients, against naive",
        ">= 4.5",
        ratio(of("pfxhttpd", four, "rate"), naive),
        "{:.2f}",
        lambda value: value >= 4.5,
    )
    crowd = of("pfxhttpd", "map, 200 busy + 800 silent", "rate")
    promise(
        "rate, 200 busy + 800 silent, against naive with 4",
        ">= 3",
        ratio(crowd, naive),
        "{:.2f}",
        lambda value: value >= 3,
    )
    promise(
        "rate with 800 silent clients, against none",
        ">= 0.95",
        ratio(crowd, of("pfxhttpd", "map, 200 busy + 0 silent", "rate")),
        "{:.3f}",
        lambda value: value >= 0.95,
    )
    promise(
        "processor time per lookup, 4 clients, against naive",
        "<= 0.18",
        ratio(of("pfxhttpd", four, "processor"), of("naive", four, "processor")),
        "{:.3f}",
        lambda value: value <= 0.18,
    )
    slow = f"20 ms backend, {SLOW_WORKERS} at a time"
    promise(
        "rate, 20 ms backend, against straight",
        ">= 0.95",
        ratio(of("pfxhttpd", slow, "rate"), of("straight", slow, "rate")),
        "{:.3f}",
        lambda value: value >= 0.95,
    )
    promise(
        "same: least against most served client",
        ">= 0.5",
        ratio(of("pfxhttpd", slow, "least"), of("pfxhttpd", slow, "most")),
        "{:.2f}",
        lambda value: value >= 0.5,
    )
    start = "start and memory"
    promise(
        "memory of a further worker",
        "<= 8 MB",
        middle(of("pfxhttpd", start, "memory")),
        "{:.0f} bytes",
        lambda value: value <= 8e6,
    )
    promise(
        "first answer after start",
        "< 1 s",
        middle(of("pfxhttpd", start, "first_answer")),
        "{:.2f} s",
        lambda value: value < 1,
    )
    reloads = "map, 4 clients, reloads"
    slowest, usual = of("pfxhttpd", reloads, "slowest"), of("pfxhttpd", "map, 4 clients, no reload", "slowest")
    promise(
        "reload under load: slowest request, against none",
        "<= 100 ms more",
        middle({turn: slowest[turn] - usual[turn] for turn in slowest}),
        "{:.0f} ms more",
        lambda value: value <= 100,
    )
    broken = {
        turn: lost + of("pfxhttpd", reloads, "wrong")[turn] for turn, lost in of("pfxhttpd", reloads, "lost").items()
    }
    promise(
        "reload under load: broken or wrong",
        "0",
        sum(broken.values()) if broken else None,
        "{:.0f}",
        lambda value: value == 0,
    )
    return found


def progress(sample: Sample) -> str:
    given = sample.figures
    if "rate" not in given:
        return f"{sample.turn + 1}  {sample.scene}: " + ", ".join(
            f"{name} {value:.2f}" for name, value in given.items()
        )
    return f"{sample.turn + 1}  {sample.scene:34} {sample.server:9} {given['rate']:8.0f}/s"


def rows(samples: list[Sample]) -> list[list[str]]:
    keys = list(dict.fromkeys((s.scene, s.server) for s in samples if "rate" in s.figures))

    def cell(scene: str, server: str, name: str, form: str) -> str:
        values = figures(samples, server, scene, name)
        return form.format(median(values.values())) if values else ""

    found = []
    for scene, server in keys:
        row = [scene, server]
        for name, form in COLUMNS:
            row.append(cell(scene, server, name, form))
        against = next((other for other in ("naive", "straight") if (scene, other) in keys and other != server), None)
        for name in ("rate", "processor"):
            value = None
            if against and not (against == "straight" and name == "processor"):
                value = ratio(figures(samples, server, scene, name), figures(samples, against, scene, name))
            row.append(f"{value:.2f}" if value else "")
        least, most = cell(scene, server, "least", "{:.0f}"), cell(scene, server, "most", "{:.0f}")
        row.append(f"{least}/{most}")
        row.append(
            str(
                sum(
                    int(s.figures["wrong"] + s.figures["lost"] + s.figures["silent_lost"])
                    for s in samples
                    if (s.scene, s.server) == (scene, server)
                )
            )
        )
        found.append(row)
    return found


COLUMNS = (
    ("rate", "{:.0f}"),
    ("p50", "{:.2f}"),
    ("p99", "{:.2f}"),
    ("slowest", "{:.0f}"),
    ("processor", "{:.0f}"),
    ("elsewhere", "{:.0f}"),
)
HEADING = [
    "scene",
    "server",
    "per s",
    "p50 ms",
    "p99 ms",
    "slowest",
    "µs each",
    "else %",
    "× rate",
    "× µs",
    "least/most",
    "bad",
]


def text(machine: dict[str, Any], samples: list[Sample], wanted: list[Target]) -> str:
    lines = ["  ".join(f"{name}={value}" for name, value in machine.items()), ""]
    lines += columns([HEADING, *rows(samples)])
    lines += [""] + columns(
        [
            ["target", "wanted", "measured", ""],
            *([target.what, target.wanted, target.measured, "met" if target.met else "MISSED"] for target in wanted),
        ]
    )
    return "\n".join(lines)


def columns(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]

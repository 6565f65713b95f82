"""The results as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .results import Results, Row, Sample
from .targets import BASELINE, OURS, Target

COLUMNS = {
    "rate": ("per s", "{:.0f}"),
    "p50": ("p50 ms", "{:.2f}"),
    "p99": ("p99 ms", "{:.2f}"),
    "slowest": ("slowest", "{:.0f}"),
    "cost": ("µs each", "{:.0f}"),
    "others": ("others %", "{:.0f}"),
}
"""The figures of a row: their headings and forms."""
LEFT_COLUMNS = 2


def progress(sample: Sample) -> str:
    """One line about a measurement that has just been taken."""
    shown = {
        name: value
        for name, value in sample.figures.items()
        if name in ("rate", "cost") or "rate" not in sample.figures
    }
    figures = "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
    return f"{sample.repetition + 1}  {sample.scene:34} {sample.server:12} {figures}"


def report(machine: Mapping[str, object], results: Results, targets: Sequence[Target]) -> str:
    """The whole text: the machine, the rows, the other figures, the targets."""
    rows = [row for row in results.rows() if results.values(row, "rate")]
    others = [row for row in results.rows() if row not in rows]
    lines = ["  ".join(f"{name}={value}" for name, value in machine.items())]
    if rows:
        heading = ["scene", "server", *(heading for heading, _ in COLUMNS.values())]
        heading += ["against", "× rate", "× µs", "base × rate", "base × µs", "least/most", "bad"]
        lines += ["", *align([heading, *(rate_row(results, row) for row in rows)])]
    if others:
        cells = [
            [
                figure,
                row[1],
                f"{results.median(row, figure):.2f}",
                number(results.ratio(row, (row[0], BASELINE), figure)),
            ]
            for row in others
            for figure in next(sample.figures for sample in results.samples if sample.row == row)
        ]
        lines += ["", *align([["figure", "server", "median", "× base"], *cells])]
    if targets:
        cells = [
            [target.description, target.limit, target.measured, "met" if target.met else "MISSED"] for target in targets
        ]
        lines += ["", *align([["target", "limit", "measured", ""], *cells])]
    return "\n".join(lines)


def rate_row(results: Results, row: Row) -> list[str]:
    """The cells of one row of the first table."""
    scene, server = row
    cells = [scene, server]
    for figure, (_, form) in COLUMNS.items():
        value = results.median(row, figure)
        cells.append("" if value is None else form.format(value))
    reference = results.rows()[row]
    cells.append(reference_name(row, reference))
    for other in (reference, (scene, BASELINE) if server == OURS else None):
        for figure in ("rate", "cost"):
            cells.append(number(results.ratio(row, other, figure) if other else None))
    least, most = results.median(row, "least"), results.median(row, "most")
    cells.append(f"{least:.0f}/{most:.0f}")
    bad = sum(results.total(row, figure) or 0 for figure in ("wrong", "lost", "silent_lost"))
    cells.append(f"{bad:.0f}")
    return cells


def reference_name(row: Row, reference: Row | None) -> str:
    """What tells the reference from the row: the server, or what the scene's name ends with."""
    if reference is None:
        return ""
    return reference[1] if reference[0] == row[0] else reference[0].rpartition(", ")[2]


def number(value: float | None) -> str:
    """A ratio as text."""
    return "" if value is None else f"{value:.2f}"


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns of equal width, the first two of them flush left."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if index < LEFT_COLUMNS else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]

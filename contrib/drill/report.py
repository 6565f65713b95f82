"""The table of the faults that were made and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from drill.invariants import VIOLATIONS, Outcome, Tally

COLUMNS = {
    Outcome.RIGHT: "right",
    Outcome.TEMPORARY: "temporary",
    Outcome.PERMANENT: "permanent",
    Outcome.CLOSED: "closed",
    Outcome.NO_CONNECTION: "no conn.",
    Outcome.UNANSWERED: "given up",
}


@dataclass(slots=True)
class Row:
    """One kind of fault: how often it was made, the sum of what it cost, and the longest recovery in seconds."""

    times: int = 0
    tally: Tally = field(default_factory=Tally)
    recovery: float = 0.0
    unrecovered: int = 0

    def add(self, tally: Tally, recovery: float, recovered: bool) -> None:
        self.times += 1
        self.tally.add(tally)
        self.recovery = max(self.recovery, recovery)
        self.unrecovered += not recovered


def table(rows: Mapping[str, Row]) -> str:
    """The rows as text. A fault that was made together with another one has the costs of both."""
    head = ["fault", "times", *COLUMNS.values(), "must not be", "longest wait", "recovered in", "not recovered"]
    lines = [head]
    for name, row in sorted(rows.items()):
        outcomes = row.tally.outcomes
        lines.append(
            [
                name,
                str(row.times),
                *[str(outcomes[outcome]) for outcome in COLUMNS],
                str(sum(outcomes[outcome] for outcome in VIOLATIONS)),
                f"{row.tally.longest:.2f} s",
                f"{row.recovery:.1f} s",
                str(row.unrecovered),
            ]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        [
            "  ".join([line[0].ljust(widths[0]), *[cell.rjust(width) for cell, width in zip(line[1:], widths[1:])]])
            for line in lines
        ]
    )


def verdict(total: Tally, failures: Mapping[str, list[str]]) -> tuple[str, bool]:
    """The last lines of the report, and whether all that must hold did hold. `failures` has details by title."""
    counts = {outcome.value: total.outcomes[outcome] for outcome in VIOLATIONS}
    counts |= {title: len(lines) for title, lines in failures.items()}
    text = [f"{number} {title}" for title, number in counts.items()]
    details = [f"  {title}: {line}" for title, lines in failures.items() for line in lines]
    return "\n".join([", ".join(text), *details]), not any(counts.values())

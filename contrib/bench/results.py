"""What was measured, and the medians and ratios of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

Row = tuple[str, str]
"""A scene and a server: together they name a row of the table."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement, in one of the repetitions. Its rate and cost are compared with those of `reference`."""

    scene: str
    server: str
    repetition: int
    figures: dict[str, float]
    reference: Row | None = None

    @property
    def row(self) -> Row:
        """The row that this sample belongs to."""
        return self.scene, self.server


class Results:
    """All samples of a run."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self.samples = list(samples)

    def rows(self) -> dict[Row, Row | None]:
        """Every row with its reference, in the order of measurement."""
        return {sample.row: sample.reference for sample in self.samples}

    def values(self, row: Row, figure: str) -> dict[int, float]:
        """One figure by repetition; empty if it was not measured."""
        return {
            sample.repetition: sample.figures[figure]
            for sample in self.samples
            if sample.row == row and figure in sample.figures
        }

    def median(self, row: Row, figure: str) -> float | None:
        """The median over the repetitions; None if it was not measured."""
        values = self.values(row, figure)
        return median(values.values()) if values else None

    def total(self, row: Row, figure: str) -> float | None:
        """The sum over the repetitions; None if it was not measured."""
        values = self.values(row, figure)
        return sum(values.values()) if values else None

    def ratio(self, row: Row, other: Row, figure: str) -> float | None:
        """The median of the ratios within each repetition; None if there is nothing to compare."""
        above, below = self.values(row, figure), self.values(other, figure)
        ratios = [above[number] / below[number] for number in above.keys() & below.keys() if below[number]]
        return median(ratios) if ratios else None

    def difference(self, row: Row, other: Row, figure: str) -> float | None:
        """The median of the differences within each repetition; None if there is nothing to compare."""
        above, below = self.values(row, figure), self.values(other, figure)
        differences = [above[number] - below[number] for number in above.keys() & below.keys()]
        return median(differences) if differences else None

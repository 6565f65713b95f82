"""Which faults are made, in which order and for how long: drawn from a seed, so that a run can be repeated."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

PAIRS = 0.4
"""Share of the steps with two faults at once, of different families."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault to be made. `seconds` is how long it lasts, `seed` decides its details."""

    name: str
    seconds: float
    seed: str


def steps(seed: int, families: dict[str, Sequence[str]]) -> Iterator[list[Planned]]:
    """An endless series of steps, each of one fault or of two from different families. `families` names the faults.

    Each fault of each family comes once before any of them comes again.
    """
    chance = random.Random(seed)
    names = [(family, name) for family, members in sorted(families.items()) for name in members]
    number = 0
    while True:
        chance.shuffle(names)
        for family, name in names:
            chosen = [name]
            others = [other for other_family, other in names if other_family != family]
            if others and chance.random() < PAIRS:
                chosen.append(chance.choice(others))
            number += 1
            yield [Planned(each, chance.uniform(1.0, 4.0), f"{seed} {number} {each}") for each in chosen]

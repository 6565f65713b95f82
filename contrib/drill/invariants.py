"""What must hold all the time, and the counts of what happened.

Each outcome of a question is one of `Outcome`. `VIOLATIONS` are those that must never happen, whatever is broken; the
others are what a fault may cost.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

from drill import expected


class Outcome(Enum):
    RIGHT = "right answers"
    WRONG = "wrong answers"
    ABSENT = "invented absences"
    LET_IN = "logins wrongly let in"
    REFUSED = "logins wrongly refused"
    TEMPORARY = "temporary errors"
    PERMANENT = "permanent errors"
    CLOSED = "connections closed"
    NO_CONNECTION = "connections not made"
    UNANSWERED = "questions given up"


VIOLATIONS = (Outcome.WRONG, Outcome.ABSENT, Outcome.LET_IN, Outcome.REFUSED)

FAILURE_ACTION = "DEFER drill"
"""The `failure_action` of the server's policies."""


def judge_lookup(map_name: str, key: str, reply: str) -> Outcome:
    """The outcome of a lookup, by its reply. Every key exists."""
    status, _, text = reply.partition(" ")
    if status == "OK":
        return Outcome.RIGHT if text == expected.value_of(map_name, key) else Outcome.WRONG
    if status in ("TEMP", "TIMEOUT"):
        return Outcome.TEMPORARY
    if status == "NOTFOUND":
        return Outcome.ABSENT
    return Outcome.PERMANENT if status == "PERM" else Outcome.WRONG


def judge_policy(sender: str, recipient: str, action: str) -> Outcome:
    """The outcome of a policy request, by its action. Every request has one that is not DUNNO."""
    if action == expected.action_of(sender, recipient):
        return Outcome.RIGHT
    if action == FAILURE_ACTION:
        return Outcome.TEMPORARY
    return Outcome.ABSENT if action == "DUNNO" else Outcome.WRONG


def judge_login(user: str, password: str, id: int, line: str) -> Outcome:
    """The outcome of a login, by the line that ends it."""
    verb, _, rest = line.partition("\t")
    fields = rest.split("\t")
    if fields[0] != str(id) or verb not in ("OK", "FAIL"):
        return Outcome.WRONG
    is_right = password == expected.password_of(user)
    if verb == "OK":
        return Outcome.LET_IN if not is_right or fields[1:] != [f"user={user}"] else Outcome.RIGHT
    if not is_right:
        return Outcome.RIGHT
    return Outcome.TEMPORARY if "temp" in fields[1:] else Outcome.REFUSED


@dataclass(slots=True)
class Tally:
    """Counts of outcomes and the longest wait for an answer, in seconds."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    longest: float = 0.0

    def add(self, other: Tally) -> None:
        self.outcomes += other.outcomes
        self.longest = max(self.longest, other.longest)


class Ledger:
    """Where the clients write down what happened. `take` gives what happened since it was last called."""

    def __init__(self) -> None:
        self._current = Tally()
        self.violations: list[str] = []
        """A line for each of the first 100 outcomes that must never happen."""

    def note(self, outcome: Outcome, seconds: float, what: str) -> None:
        """An outcome, after how long a wait it came, and a text that names question and answer."""
        self._current.outcomes[outcome] += 1
        self._current.longest = max(self._current.longest, seconds)
        if outcome in VIOLATIONS and len(self.violations) < 100:
            self.violations.append(f"{outcome.value}: {what}")

    def take(self) -> Tally:
        taken, self._current = self._current, Tally()
        return taken

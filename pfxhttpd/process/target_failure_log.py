"""The lines about targets that fail again and again: once a minute, with the number of failures since the last line.

Workers log the first failure themselves (`service.entry_report`).
"""

from __future__ import annotations

from pfxhttpd.io.scoreboard import FAILURES, STATUS_CODES, Scoreboard
from pfxhttpd.process.entry_totals import EntryTotals
from pfxhttpd.process.generation import Generation
from pfxhttpd.service.backend import plain_target

_MESSAGES = {FAILURES: "Backend goes on failing", STATUS_CODES: "Backend goes on sending unexpected status codes"}


def log_counts(generation: Generation, board: Scoreboard, totals: EntryTotals, now: float) -> None:
    """Log the counts that are due at the time `now` (monotonic seconds)."""
    log = generation.logger
    for target, row in generation.targets.items():
        for kind, message in _MESSAGES.items():
            count = board.target(row).take_count(kind, now)
            if count and log.error:
                reason = last_error(generation, totals, target)[1] or None
                log.error(message, target=plain_target(target), count=count, reason=reason)


def last_error(generation: Generation, totals: EntryTotals, target: str) -> tuple[float, str]:
    """The last error of the entries with this target: when (monotonic seconds; 0 for never), and its text."""
    counts = totals.totals()
    found = [
        (counts[kind, name].error_at, counts[kind, name].error)
        for kind, section in generation.settings.entries.items()
        for name, entry in section.items()
        if entry.target == target and (kind, name) in counts
    ]
    return max(found, default=(0.0, ""))

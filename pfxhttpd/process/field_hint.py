"""A hint for whoever has mistyped a `value_field`: no answer of the entry has had it, and an answer has other fields."""

from __future__ import annotations

from pfxhttpd.io.scoreboard.entry_counters import EntryCounts
from pfxhttpd.process.entry_totals import EntryKey, EntryTotals
from pfxhttpd.process.generation import Generation


class FieldHints:
    """Logs the hint once for each entry and value field."""

    def __init__(self) -> None:
        self._logged: set[tuple[EntryKey, str]] = set()

    def look(self, generation: Generation, totals: EntryTotals) -> None:
        """Log the hints that are due."""
        log, counts = generation.logger, totals.totals()
        for kind, section in generation.settings.entries.items():
            for name, entry in section.items():
                shown = counts.get((kind, name), EntryCounts())
                mark = ((kind, name), entry.value_field)
                if not shown.fields or mark in self._logged or shown.outcomes()["found"]:
                    continue
                self._logged.add(mark)
                if log.info:
                    log.info(
                        "No answer has had the value field yet",
                        entry=f"{kind}:{name}",
                        value_field=entry.value_field,
                        reason=f"the answer has the fields {shown.fields}",
                    )

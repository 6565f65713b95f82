"""A hint for whoever has mistyped a `value_field`: no answer of the entry has had it, and an answer has other fields."""

from __future__ import annotations

from collections.abc import Iterable

from pfxhttpd.process.child import Child, State
from pfxhttpd.process.entry_totals import EntryKey
from pfxhttpd.process.generation import Generation


class FieldHints:
    """Logs the hint once for each entry and value field."""

    def __init__(self) -> None:
        self._settled: set[tuple[EntryKey, str]] = set()

    def look(self, generation: Generation, children: Iterable[Child]) -> None:
        """Log the hints that are due. What the serving workers have counted is about this generation's value fields."""
        found: set[EntryKey] = set()
        fields: dict[EntryKey, str] = {}
        for child in children:
            if child.counters is None or child.state is not State.SERVING:
                continue
            for key, counts in child.counters.latest():
                if self._is_settled(generation, key):
                    continue
                if counts.outcomes()["found"]:
                    found.add(key)
                elif counts.fields:
                    fields[key] = counts.fields
        for kind, name in found | fields.keys():
            value_field = generation.settings.entries[kind][name].value_field
            self._settled.add(((kind, name), value_field))
            if (kind, name) not in found and generation.logger.info:
                generation.logger.info(
                    "No answer has had the value field yet",
                    entry=f"{kind}:{name}",
                    value_field=value_field,
                    reason=f"the answer has the fields {fields[kind, name]}",
                )

    def _is_settled(self, generation: Generation, key: EntryKey) -> bool:
        kind, name = key
        entry = generation.settings.entries[kind].get(name)
        return entry is None or (key, entry.value_field) in self._settled

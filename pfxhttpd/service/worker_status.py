"""What a worker shows of itself: its row on the scoreboard, which `status` and the master read, and its process title.

The row is written for each request, which costs no system call. The title is for people who look at `ps`; setting it
twice per request took a tenth of a lookup's processor time. So a title names an entry only while a request of it lasts
longer than the transport's first wait (`io.transport`).
"""

from __future__ import annotations

from collections.abc import Iterable

from setproctitle import setproctitle

from pfxhttpd.config.settings import Entry
from pfxhttpd.io.scoreboard import WorkerRow, padded


class WorkerStatus:
    """`title` is the worker's number in its pool and the pool's name, as `ps` shows them."""

    def __init__(self, row: WorkerRow, title: str, entries: Iterable[Entry]) -> None:
        self._row = row
        self.end = row.idle
        """Called when the request has ended."""
        self._prefix = f"pfxhttpd: worker {title} "
        self._idle_title = self._prefix + "idle"
        self._shown = ""
        self._entry: Entry | None = None
        self._named: Entry | None = None
        """The entry whose name is in the row."""
        self._names = {id(entry): padded(entry.name) for entry in entries}

    def begin(self, entry: Entry, now: float, deadline: float) -> None:
        """A request to the entry's backend begins now; it ends at `deadline` at the latest (monotonic seconds)."""
        self._entry = entry
        if entry is not self._named:
            self._named = entry
            self._row.name(self._names[id(entry)])
        self._row.busy(now, deadline)

    def show_entry(self) -> None:
        """The request in progress lasts; name its entry in the process title."""
        if self._entry is not None:
            self._show(self._prefix + self._entry.name)

    def show_idle(self) -> None:
        """Nothing is to be done; say so in the process title."""
        if self._shown is not self._idle_title:
            self._show(self._idle_title)

    def _show(self, title: str) -> None:
        self._shown = title
        setproctitle(title)

"""The sums of metrics: nothing is lost or counted twice when processes, listeners and the cache come and go."""

from __future__ import annotations

from kit.child import in_child

from pfxhttpd.config.settings import Listener
from pfxhttpd.io.handoff import Connection
from pfxhttpd.process.metric_totals import MetricTotals, ProcessMetrics
from pfxhttpd.service.listener_metrics import ACCEPTED, CLOSED, CLOSED_ERROR, CLOSED_TIMEOUT, IDLE_TOO_LONG, ROWS


def listener(name: str, port: int) -> Listener:
    return Listener("socket_map", name, "tcp", "127.0.0.1", port)


ONE, OTHER = listener("one", 1), listener("other", 2)
KEY = ("socket_map", "one")


def process(totals: MetricTotals, *listeners: Listener) -> ProcessMetrics:
    metrics = ProcessMetrics()
    metrics.listeners.rows = totals.rows(listeners)
    totals.add(metrics)
    return metrics


def connection(of: Listener) -> Connection:
    return Connection(of.kind, of.name, of.endpoint, "127.0.0.1:5", 0.0)


def test_two_processes_count_what_their_parent_sums_up() -> None:
    totals = MetricTotals()
    first, second = process(totals, ONE, OTHER), process(totals, ONE, OTHER)

    def work() -> None:
        for metrics in (first, first, second):
            metrics.listeners.accepted(ONE.endpoint)
        for reason in ("", "connection lost", IDLE_TOO_LONG):
            second.listeners.closed(connection(ONE), reason)

    in_child(work)
    totals.end(first)
    totals.update()
    counts = {event: totals.listener(KEY, event).count for event in (ACCEPTED, CLOSED, CLOSED_ERROR, CLOSED_TIMEOUT)}
    assert counts == {ACCEPTED: 3, CLOSED: 1, CLOSED_ERROR: 1, CLOSED_TIMEOUT: 1}
    assert totals.listener(("socket_map", "other"), ACCEPTED).count == 0


def test_connections_that_a_dead_process_held_are_not_open_any_more() -> None:
    totals = MetricTotals()
    worker, parking = process(totals, ONE), process(totals, ONE)
    for _ in range(3):
        worker.listeners.accepted(ONE.endpoint)
    for holder in (worker, parking, parking):
        holder.listeners.hold(ONE.endpoint)
    parking.listeners.release(ONE.endpoint)
    totals.update()
    assert totals.active(KEY, connections=3) == 3
    totals.end(parking)
    assert (totals.active(KEY, connections=2), totals.lost(KEY)) == (2, 1)


def test_connections_from_before_the_metrics_are_forgotten() -> None:
    """Metrics that are switched on see connections end that they have not seen begin."""
    totals = MetricTotals()
    worker = process(totals, ONE)
    for _ in range(2):
        worker.listeners.closed(connection(ONE), "")
    totals.update()
    assert totals.active(KEY, connections=5) == 0
    worker.listeners.accepted(ONE.endpoint)
    totals.update()
    assert totals.active(KEY, connections=6) == 1
    assert totals.active(KEY, connections=0) == 0  # one was lost without a trace
    worker.listeners.accepted(ONE.endpoint)
    totals.update()
    assert totals.active(KEY, connections=1) == 1


def test_a_listener_keeps_its_row_and_a_removed_one_gives_it_away_last() -> None:
    totals = MetricTotals()
    worker = process(totals, ONE)
    worker.listeners.accepted(ONE.endpoint)
    many = [listener(f"l{number}", 100 + number) for number in range(ROWS - 1)]
    rows = totals.rows([ONE, *many])
    assert rows[ONE.endpoint] == worker.listeners.rows[ONE.endpoint] and len(set(rows.values())) == ROWS
    assert OTHER.endpoint not in totals.rows([ONE, *many, OTHER])  # there is no row left
    worker.listeners.rows = totals.rows([OTHER, *many])
    worker.listeners.accepted(OTHER.endpoint)
    totals.update()
    assert totals.listener(KEY, ACCEPTED).count == totals.listener(("socket_map", "other"), ACCEPTED).count == 1


def test_the_counts_of_the_cache_survive_it() -> None:
    totals = MetricTotals()
    totals.end_cache({"entries": 5, "bytes": 9, "hits": 3, "misses": 2, "evictions": 1})
    shown = totals.cache({"entries": 1, "bytes": 2, "hits": 1, "misses": 0, "evictions": 0})
    assert shown == {"entries": 1, "bytes": 2, "hits": 4, "misses": 2, "evictions": 1}
